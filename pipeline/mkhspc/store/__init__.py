"""Where a run lies on disk, what its tables hold, and how they are written so that nothing is lost."""
