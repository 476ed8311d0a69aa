"""Results by slide and group."""
