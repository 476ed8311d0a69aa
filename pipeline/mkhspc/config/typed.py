"""Plain values, as TOML and JSON have them, checked against the types of a dataclass's fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mkhspc.errors import InputError, UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def filled(base: Record, values: Mapping[str, Any], name: str) -> Record:
    """`base`, a dataclass, with these values of its fields.

    Args:
        name: of the section, for errors.

    Raises:
        InputError: there is no such field.
        UsageError: a value is of another type than its field.
    """
    changed: dict[str, Any] = _fields_of(type(base), values, name)
    return replace(base, **changed)


def built(kind: type[Record], values: Any, name: str) -> Record:
    """A dataclass of this kind from the values of all its fields that have no default.

    Raises:
        InputError: there is no such field, or one is missing.
        UsageError: a value is of another type than its field.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} cannot be {values!r}", fix="it takes a table")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING:
            raise InputError(f"{name} has no '{field.name}'")
    return kind(**_fields_of(kind, values, name))


def refuse_unknown(data: Mapping[str, Any], valid: list[str], kind: str) -> None:
    """Raises `InputError`, with the valid names, for a name that is not one of them."""
    for name in data:
        if name not in valid:
            raise InputError(f"unknown {kind} '{name}'", fix=f"valid here: {', '.join(valid)}")


def _fields_of(kind: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    refuse_unknown(values, list(hints), f"key in [{name}]")
    return {key: _typed(value, hints[key], f"{name}.{key}") for key, value in values.items()}


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type of its field, or a `UsageError` that names the key."""
    options = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        converted = _as(value, option)
        if converted is not _WRONG:
            return converted
    raise UsageError(f"{key} cannot be {value!r}", fix=f"it takes {_describe(options)}")


_WRONG = object()


def _as(value: Any, hint: Any) -> Any:
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
        return built(hint, value, hint.__name__)
    if isinstance(value, bool):
        return _WRONG
    if hint is float and isinstance(value, (int, float)):
        return float(value)
    return value if isinstance(value, hint) else _WRONG


def _describe(options: tuple[Any, ...]) -> str:
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text"}
    words = []
    for option in options:
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        elif get_origin(option) is tuple:
            words.append(f"a list, each item {_describe(get_args(option)[:1])}")
        elif option is not type(None):
            words.append(names.get(option, "a table"))
    return " or ".join(words)
