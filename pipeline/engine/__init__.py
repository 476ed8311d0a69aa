"""Tiles to parts, in parallel, resumable; parts to tables."""
