"""A site put on a branch of a git repository."""
