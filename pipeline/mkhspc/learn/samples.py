"""Training data in memory: labelled cells with their features, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellType

MORPHOLOGY_PREFIXES = ("shape_", "colour_", "texture_")
"""The names of features of shape, colour and texture begin so."""
DEEP_PREFIX = "deep_"
"""The names of features that a network gives begin so."""


@dataclass(frozen=True)
class Samples:
    """Labelled cells of one type, n of them with f features.

    Attributes:
        features: (n, f) float64, in the order of `feature_names`.
        labels: (n,) int8, 1 = positive.
        inclusion_probs: (n,) float64, NaN where it is not known.
        annotators: everyone whose label counts here, sorted.
    """

    cell_type: CellType
    feature_names: tuple[str, ...]
    cell_ids: NDArray[np.str_]
    slide_ids: NDArray[np.str_]
    scenes: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.int8]
    policies: NDArray[np.str_]
    inclusion_probs: NDArray[np.float64]
    annotators: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def deep_count(self) -> int:
        """How many of the features a network gave."""
        return sum(map(is_deep, self.feature_names))

    def with_features(self, names: Sequence[str]) -> Samples:
        """The same cells with some of their features."""
        columns = [self.feature_names.index(name) for name in names]
        return replace(self, feature_names=tuple(names), features=self.features[:, columns])


@dataclass(frozen=True)
class TrainingData:
    """Training data of one run, from one or more files.

    Attributes:
        identity: the settings whose hash `config_hash` is.
        sources: SHA-256 of each file by its name.
    """

    config_hash: str
    identity: Mapping[str, Any]
    feature_names: tuple[str, ...]
    samples: Mapping[CellType, Samples]
    sources: Mapping[str, str]


def is_deep(name: str) -> bool:
    """Whether a feature of this name is a network's."""
    return name.startswith(DEEP_PREFIX)


def morphology(names: Sequence[str]) -> list[str]:
    """Those of `names` that are features of shape, colour or texture."""
    return [name for name in names if name.startswith(MORPHOLOGY_PREFIXES)]
