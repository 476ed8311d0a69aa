"""JSON that anyone may have written: nothing in it is believed before it is checked.

Every JSON text from outside is read here. What it may hold is counted before it is parsed, because a short
text can make a large value: each `[]` takes 64 bytes of memory.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mkhspc.errors import InputError
from mkhspc.units import MIB

MAX_DEPTH = 64
"""The most lists and objects inside one another; the files of this program nest six deep."""
INTEGER_BITS = 64
"""Whole numbers of more bits are refused; no column of a table could hold them."""
_INTEGER_DIGITS = 19
"""The most decimal digits in 64 bits."""
_FIX = "export it again, or leave it out"
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""Half a character of those beyond the first 65,536, which JSON writes as two."""
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(_PAIR + b"|" + _HALF.pattern + rb"|\\.", re.DOTALL)
"""A pair of halves, or one, or any other escape, so that none is looked for behind an escaped backslash."""


@dataclass(frozen=True)
class JsonLimits:
    """What a JSON text may hold at most.

    Attributes:
        max_bytes: of the text.
        max_values: of all kinds.
        max_containers: lists and objects among them.
    """

    max_bytes: int
    max_values: int
    max_containers: int


SMALL = JsonLimits(64 * MIB, 4_000_000, 1_000_000)
"""Manifests, sites and model cards: one of 10,000 slides, or of 100,000 training cells, takes less."""
LABELS = JsonLimits(256 * MIB, 8_000_000, 2_000_000)
"""The labels of 800,000 cells with their events take less."""
TRAINING = JsonLimits(2048 * MIB, 120_000_000, 2_000_000)
"""A hundred thousand labelled cells with a thousand features each take less."""


class JsonError(ValueError):
    """A text is refused; the message continues the name of its file: 'is not JSON: ...'."""


def read_json(path: Path, limits: JsonLimits, fix: str = _FIX) -> Any:
    """The value in a JSON file.

    Half a character, as is left of a name that was cut inside an emoji, becomes U+FFFD: no file can hold it.

    Raises:
        InputError: the file cannot be read, or `parse_json` refuses it; `fix` says what to do.
    """
    try:
        return parse_json(_with_whole_characters(content_of(path, limits)), limits)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except JsonError as error:
        raise InputError(str(error), where=path, fix=fix) from error


def content_of(path: Path, limits: JsonLimits) -> bytes:
    """The bytes of a file of JSON.

    Raises:
        JsonError: it is larger than the limits.
        OSError: it cannot be read.
    """
    if path.stat().st_size > limits.max_bytes:
        raise _too_large(limits)
    with path.open("rb") as file:
        return file.read(limits.max_bytes + 1)  # a pipe or a device states no size


def parse_json(text: str | bytes, limits: JsonLimits = SMALL) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        JsonError: it is larger than the limits, no UTF-8, no JSON, nested too deep, or holds a key twice, a
            NaN, an infinity (which JSON does not have) or a whole number beyond 64 bits.
    """
    _check_size(text, limits)
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8-sig"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError as error:
        raise JsonError("is not JSON: it is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    except MemoryError as error:
        raise JsonError("takes more memory than there is") from error
    _check_depth(value)
    return value


def _check_size(text: str | bytes, limits: JsonLimits) -> None:
    if len(text) > limits.max_bytes:
        raise _too_large(limits)
    containers = _count(text, "[") + _count(text, "{")
    values = containers + _count(text, ",")
    for found, most, name in (
        (containers, limits.max_containers, "lists and objects"),
        (values, limits.max_values, "values"),
    ):
        if found > most:
            raise JsonError(f"holds about {found:,} {name}; {most:,} is the most that is read")


def _too_large(limits: JsonLimits) -> JsonError:
    return JsonError(f"is larger than {limits.max_bytes // MIB} MiB")


def _count(text: str | bytes, mark: str) -> int:
    return text.count(mark) if isinstance(text, str) else text.count(mark.encode())


def _with_whole_characters(text: bytes) -> bytes:
    return _ESCAPE.sub(_whole_character, text) if _HALF.search(text) else text


def _whole_character(escape: re.Match[bytes]) -> bytes:
    """A pair of halves, and every other escape, as it is."""
    return rb"\ufffd" if _HALF.fullmatch(escape[0]) else escape[0]


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        parts = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = [child for children in parts for child in children if isinstance(child, (dict, list))]
    if level:
        raise _too_deep()


def _too_deep() -> JsonError:
    return JsonError(f"is nested too deep: {MAX_DEPTH} lists and objects inside one another are the most")


def _integer(digits: str) -> int:
    count = len(digits.lstrip("-"))
    if count > _INTEGER_DIGITS or int(digits).bit_length() >= INTEGER_BITS:
        raise JsonError(f"holds a whole number of {count:,} digits; {INTEGER_BITS} bits are the most")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise JsonError(f"is not JSON: {digits[:40]} is too large for a number")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"is not JSON: the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"is not JSON: {name} is not a number in JSON")
