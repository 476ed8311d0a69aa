"""Models that one process a device owns, and their clients."""
