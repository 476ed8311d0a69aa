"""Worker processes, windows on their way to them, shared memory."""
