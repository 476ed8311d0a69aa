"""How often an annotator gives the same answer twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mkhspc.learn.labels.label import Repeat
from mkhspc.store.annotations import VALUES


@dataclass(frozen=True)
class Agreement:
    """How often two answers to one cell are the same, as a share of all pairs.

    Attributes:
        kappa: Cohen's kappa (Educ. Psychol. Meas. 20, 1960): agreement beyond what the
            frequencies of the answers give by chance; None where chance alone gives 1.
    """

    pairs: int
    agreement: float
    kappa: float | None


def self_agreement(repeats: Sequence[Repeat]) -> Agreement | None:
    """An annotator's agreement with himself on blind repeats; None without any."""
    if not repeats:
        return None
    n = len(repeats)
    first, again = Counter(r.first for r in repeats), Counter(r.again for r in repeats)
    observed = sum(r.first == r.again for r in repeats) / n
    by_chance = sum(first[value] * again[value] for value in VALUES) / n**2
    kappa = None if by_chance == 1.0 else (observed - by_chance) / (1.0 - by_chance)
    return Agreement(n, observed, kappa)
