"""Simulated bone-marrow slides with a known truth, written as real CZI files."""

from mkhspc.simulate.annotator import AnnotatorSkill, simulated_annotator
from mkhspc.simulate.slides import (
    DEMO_SLIDES,
    GROUPS_FILE,
    HARD_SLIDES,
    TRUTH_FILE,
    DemoSlide,
    SlideSpec,
    write_demo_slides,
)
from mkhspc.simulate.truth import DemoScore, TypeScore, match_truth, read_truth

__all__ = [
    "DEMO_SLIDES",
    "GROUPS_FILE",
    "HARD_SLIDES",
    "TRUTH_FILE",
    "AnnotatorSkill",
    "DemoScore",
    "DemoSlide",
    "SlideSpec",
    "TypeScore",
    "match_truth",
    "read_truth",
    "simulated_annotator",
    "write_demo_slides",
]
