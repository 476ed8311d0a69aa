"""Detectors that need no weights: stain separation, thresholds of the scene, bounded filters.

Everything is whole numbers and depends on a bounded surrounding, so that two windows agree on a cell
to the last pixel:

    nuclei.py    which pixels are nuclear        masks.py     bounded operations on masks
    split.py     touching nuclei apart           blocks.py    larger pixels, anchored in the scene
    hspc.py      nuclei -> HSPC candidates       outline.py   the outline of a cell around a point
    mk.py        megakaryocytes                  evidence.py  MK or not
    proposals.py where MK may be, for models
"""

from mkhspc.detect.classical.hspc import ClassicalHspc
from mkhspc.detect.classical.mk import ClassicalMk

__all__ = ["ClassicalHspc", "ClassicalMk"]
