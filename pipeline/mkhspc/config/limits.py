"""Which numbers a setting takes, and the sentence for a number that it does not take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from mkhspc.errors import UsageError


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers, written beside the type of a setting: `Annotated[float, Limit(above=0)]`.

    Attributes:
        subject: begins the sentence of an error, such as 'areas'.
        least, most: the ends of the range, both allowed; None where there is no end.
        above: allow only numbers greater than this one.
        unit: follows the numbers in an error.
    """

    subject: str = "it"
    least: float | None = None
    most: float | None = None
    above: float | None = None
    unit: str = ""

    def allows(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
        )

    def check(self, name: object, value: object) -> None:
        """Raises `UsageError` for a value that is outside the range or not a number.

        Args:
            name: what the user calls it.
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UsageError(f"{name} is {value!r}; {self.subject} must be a number, {self}")
        number = float(value)
        if not self.allows(number):
            raise UsageError(f"{name} is {number:g}; {self.subject} must be {self.words_for(number)}")

    def words_for(self, value: float) -> str:
        """The range in words, for an error about this value."""
        return str(self) if math.isfinite(value) else f"finite and {self}"

    def __str__(self) -> str:
        """The range in words: 'above 0 and at most 1', '256 to 65536 px', 'at least 1'."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}{self._unit}"
        ends = (("above", self.above), ("at least", self.least), ("at most", self.most))
        return " and ".join(f"{word} {end:g}{self._unit}" for word, end in ends if end is not None)

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


def either(words: Sequence[str]) -> str:
    """Words joined as in a sentence: 'random, area or uncertainty'."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
