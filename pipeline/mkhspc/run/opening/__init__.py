"""Opening a run: its slides, its settings, and what a later command may add to them."""
