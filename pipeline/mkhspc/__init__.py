"""mkhspc: megakaryocytes and stem/progenitor cells in whole-slide scans of bone marrow.

`segment` makes a run and `open_run` opens one; a `Run` gives its cells as Arrow tables, with their crops and
contours. `convert`, `train`, `validate` and `score` go from labels to classified cells. All of it is imported
at first use, so that `import mkhspc` takes no time.
"""

__version__ = "0.1.0"

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkhspc.api.commands import convert, score, segment, train, validate
    from mkhspc.api.run import Run, open_run
    from mkhspc.errors import (
        CheckFailedError,
        IncompleteError,
        InputError,
        InterruptedRunError,
        MkhspcError,
        UsageError,
    )

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
"""Read by pyarrow as it is first imported. Its own pools keep what was freed: 30 MB after a merge of tables
with a thousand deep columns, and what writes Parquet asks no other, whatever `set_memory_pool` was given."""

__all__ = [
    "CheckFailedError",
    "IncompleteError",
    "InputError",
    "InterruptedRunError",
    "MkhspcError",
    "Run",
    "UsageError",
    "convert",
    "open_run",
    "score",
    "segment",
    "train",
    "validate",
]

_HOMES = {
    "mkhspc.api.run": ("Run", "open_run"),
    "mkhspc.api.commands": ("convert", "score", "segment", "train", "validate"),
}
"""The modules of the public names; those not here are errors."""


if not TYPE_CHECKING:  # type checkers take the names above, and know of no others

    def __getattr__(name: str) -> Any:
        """A public name, imported at its first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'mkhspc' has no attribute '{name}'")
        home = next((module for module, names in _HOMES.items() if name in names), "mkhspc.errors")
        globals()[name] = getattr(import_module(home), name)
        return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
