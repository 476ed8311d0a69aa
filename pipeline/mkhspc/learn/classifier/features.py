"""The features of cells as a classifier takes them: a row a cell, a column a feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mkhspc.errors import InputError


def feature_matrix(cells: pa.Table, names: Sequence[str], where: Path) -> NDArray[np.float64]:
    """The features of cells, in the order of `names`.

    Args:
        cells: n cells, with their `cell_id` and a column for each of the f names.
        where: the table on disk that they come from, for the error.

    Returns:
        (n, f) float64. Tables hold float32, but trees and linear models compute in the precision of their
        input, so training and scoring must use the same one.

    Raises:
        InputError: a value is missing or not finite.
    """
    features = np.column_stack([cells[name].to_numpy() for name in names]).astype(np.float64)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0].tolist()
        raise InputError(
            f"cell {cells['cell_id'][row]} has no finite number in {names[column]}",
            where=where,
            fix="segment the slide again, into a new directory",
        )
    return features
