"""Simulated bone-marrow slides with a known truth, written as real CZI files."""

from pipeline.slide.demo.annotator import AnnotatorSkill, simulated_annotator
from pipeline.slide.demo.slides import (
    DEMO_SLIDES,
    GROUPS_FILE,
    TRUTH_FILE,
    DemoSlide,
    SlideSpec,
    write_demo_slides,
)
from pipeline.slide.demo.truth import DemoScore, TypeScore, match_truth, read_truth

__all__ = [
    "DEMO_SLIDES",
    "GROUPS_FILE",
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
