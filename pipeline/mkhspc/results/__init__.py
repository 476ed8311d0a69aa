"""Counts and densities by slide and group."""
