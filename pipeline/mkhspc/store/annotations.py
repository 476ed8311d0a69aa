"""What everybody who writes or reads a gallery's exported labels must agree on; `docs/files.md` has the file.

The gallery's scripts know the same by heart: `tests/js/test_js_parity.py` compares them.
"""

from __future__ import annotations

from typing import Literal, get_args

FORMAT = "mkhspc-annotations"
VERSION = 1

Value = Literal["positive", "negative", "unsure"]
VALUES: tuple[Value, ...] = get_args(Value)
"""The labels that an annotator can give."""

ANONYMOUS = "anonymous"
"""The annotator of a file whose author gave no name."""
UNLABELLED = "unlabelled"
"""The value of an event that takes a cell's label back."""
BLIND_REPEAT = "blind-repeat"
"""The policy of a cell that is shown again to measure how often an annotator gives the same answer twice."""
