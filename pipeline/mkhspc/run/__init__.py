"""A run from start to end: opened, settled, planned, worked on, merged."""
