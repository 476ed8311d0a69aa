"""Plain values, as TOML and JSON have them, checked against the types and limits of a dataclass's fields.

No value is coerced: the text "1" is not a number, true is not 1, and 4096.0 is not a whole number.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mkhspc.config.limits import Limit, either
from mkhspc.errors import InputError, UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")

WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text"}
"""Types of settings as an error names them."""


def with_values(base: Record, values: Mapping[str, Any], name: str) -> Record:
    """A copy of the dataclass `base` with these values of its fields.

    Args:
        name: the section's, for errors.

    Raises:
        InputError: the dataclass has no such field.
        UsageError: a value is not of its field's type, or outside its limits.
    """
    changed: dict[str, Any] = _fields_of(type(base), values, name)
    return replace(base, **changed)


def from_values(kind: type[Record], values: Any, name: str) -> Record:
    """A dataclass of this kind from the values of its fields.

    Raises:
        InputError: the dataclass has no such field, or a field without a default is missing.
        UsageError: a value is not of its field's type, or outside its limits.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} is {values!r}; it must be a table")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING:
            raise InputError(f"{name} lacks '{field.name}'")
    return kind(**_fields_of(kind, values, name))


def refuse_unknown(names: typing.Iterable[str], valid: Sequence[str], kind: str) -> None:
    """Raises `InputError`, with the nearest valid name, for a name that is not a valid one."""
    for name in names:
        if name not in valid:
            from difflib import get_close_matches

            near = get_close_matches(name, valid, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"unknown {kind} '{name}'{hint}", fix=f"valid here: {', '.join(valid)}")


def _fields_of(kind: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    refuse_unknown(values, list(hints), f"key in [{name}]")
    return {key: checked(value, hints[key], f"{name}.{key}") for key, value in values.items()}


def checked(value: Any, hint: Any, key: str) -> Any:
    """`value` as a type such as `Literal[...]` or `Annotated[float, Limit(...)]`.

    Args:
        key: what the user calls the value, for errors.

    Raises:
        UsageError: the value is not of the type, or outside its limits.
    """
    options = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        converted = _as(value, option)
        if converted is not _WRONG:
            return converted
    by_name = sorted(options, key=_is_limited)
    words = [words for option in by_name for words in _describe(option, value)]
    fits_type = any(_limit(option) and _as(value, get_args(option)[0]) is not _WRONG for option in options)
    shown = repr(value).removesuffix(".0") if fits_type else repr(value)
    raise UsageError(f"{key} is {shown}; {_subject(options, value)} must be {either(words)}")


_WRONG = object()


def _as(value: Any, hint: Any) -> Any:
    """`value` as a type, or `_WRONG`."""
    if limit := _limit(hint):
        number = _as(value, get_args(hint)[0])
        return number if number is not _WRONG and limit.allows(number) else _WRONG
    if hint is type(None):
        return None if value is None else _WRONG
    if get_origin(hint) is Literal:
        return value if value in get_args(hint) else _WRONG
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return _WRONG
        items = tuple(_as(item, get_args(hint)[0]) for item in value)
        return _WRONG if _WRONG in items else items
    if is_dataclass(hint) and isinstance(hint, type):
        return from_values(hint, value, hint.__name__)
    if isinstance(value, bool):
        return _WRONG
    if hint is float and isinstance(value, (int, float)):
        return float(value)
    return value if isinstance(value, hint) else _WRONG


def _limit(hint: Any) -> Limit | None:
    return get_args(hint)[1] if get_origin(hint) is Annotated else None


def _is_limited(hint: Any) -> bool:
    return _limit(hint) is not None


def _subject(options: Sequence[Any], value: Any) -> str:
    """What an error speaks of: the limit's subject where the value is a number outside it, else 'it'."""
    outside = (o for o in options if _limit(o) and _as(value, get_args(o)[0]) is not _WRONG)
    return next((limit.subject for option in outside if (limit := _limit(option))), "it")


def _describe(option: Any, value: Any) -> list[str]:
    """What a type takes, in words; its limits alone where the value is of the type already."""
    if limit := _limit(option):
        kind = get_args(option)[0]
        number = _as(value, kind)
        of = "" if limit.least is None and limit.above is not None else "of "
        return [f"{WORDS[kind]} {of}{limit}" if number is _WRONG else limit.words_for(number)]
    if get_origin(option) is Literal:
        return [repr(choice) for choice in get_args(option)]
    if get_origin(option) is tuple:
        return [f"a list, each item {either(_describe(get_args(option)[0], value))}"]
    return [] if option is type(None) else [WORDS.get(option, "a table")]
