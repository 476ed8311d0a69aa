"""JSON that anyone may have written: nothing in it is believed before it is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from mkhspc.errors import InputError

MAX_LABELS_BYTES = 256 * 2**20
"""Labels of two million cells with their events take less."""
MAX_TRAINING_BYTES = 2 * 2**30
"""A hundred thousand labelled cells with a thousand features each take less."""
_FIX = "export it again, or leave it out"


def read_json(path: Path, max_bytes: int = MAX_LABELS_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: the file is missing, larger than `max_bytes`, no UTF-8, no JSON, nested too
            deep, or holds a key twice, a NaN or an infinity (which JSON does not have).
    """
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"is larger than {max_bytes // 2**20} MiB", where=path, fix=_FIX)
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except UnicodeDecodeError as error:
        raise InputError("is not JSON: it is not text in UTF-8", where=path, fix=_FIX) from error
    except ValueError as error:  # JSONDecodeError, and Python's limit on the digits of a number
        raise InputError(f"is not JSON: {error}", where=path, fix=_FIX) from error
    except RecursionError as error:
        raise InputError("is nested too deep to be labels or training data", where=path, fix=_FIX) from error


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises `ValueError` or `RecursionError` for a hostile one."""
    return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
