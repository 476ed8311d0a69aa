"""Sizes, durations and rates: their units, and how they read at a glance."""

from __future__ import annotations

MB = 1_000_000
"""Bytes of a megabyte."""
GB = 1_000_000_000
"""Bytes of a gigabyte, by which people give sizes."""
MIB = 1024**2
"""Bytes of a mebibyte, by which Slurm and GitHub give sizes."""


def duration_text(seconds: float) -> str:
    """A time to read at a glance: '8.4 s', '41 s', '12 min', '3 h 05 min', '2 d 4 h'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def rate_text(per_s: float) -> str:
    """'3.2/s', or for slow steps '14/min' or '6.5/h'."""
    rates = [(per_s, "s"), (60 * per_s, "min"), (3600 * per_s, "h")]
    value, unit = next((rate for rate in rates if rate[0] >= 1), rates[-1])
    return f"{value:.0f}/{unit}" if value >= 9.95 else f"{value:.1f}/{unit}"


def memory_text(memory_bytes: float) -> str:
    """'3.2 GB' or '410 MB'."""
    return f"{memory_bytes / GB:.1f} GB" if memory_bytes >= 0.95 * GB else f"{memory_bytes / MB:.0f} MB"
