"""Detectors that need no weights: stain separation, thresholds of the scene, bounded filters.

Everything is whole numbers and depends on a bounded surrounding, so that two windows agree on a cell
to the last pixel. Lengths and areas are in µm and µm²; levels are shares of the scene's own. The constants of
HSPC were chosen on the expert dots of three patients of real marrow, those of MK on simulated marrow and a
few real MK; docs/detection.md has them in tables, with what they were measured to find:

    nuclei.py    which pixels are nuclear        masks.py     bounded operations on masks
    split.py     touching nuclei apart           blocks.py    larger pixels, anchored in the scene
    hspc.py      nuclei -> HSPC candidates       outline.py   the outline of a cell around a point
    mk.py        megakaryocytes                  evidence.py  MK or not
    proposals.py where MK may be, for models
"""

from mkhspc.detect.classical.hspc import ClassicalHspc
from mkhspc.detect.classical.mk import ClassicalMk

__all__ = ["ClassicalHspc", "ClassicalMk"]
