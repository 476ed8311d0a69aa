"""Detectors: one window of a slide in, the outlines of one type of cell out."""
