"""Facts of processes: limits, memory, signals, causes of death."""
