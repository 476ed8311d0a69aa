"""The file of training data: `convert` writes it, `train` and `validate` read it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mkhspc.config import CELL_TYPES, CellType, config_hash, differences
from mkhspc.errors import InputError, some_of
from mkhspc.learn.labels.convert import Conversion, report_of
from mkhspc.learn.labels.resolve import Decision
from mkhspc.learn.samples import Samples, TrainingData
from mkhspc.store import atomic
from mkhspc.store.schema import parse_cell_id
from mkhspc.store.untrusted_json import TRAINING, read_json

FORMAT = "mkhspc-training"
VERSION = 1
_FIX = "make it again with `mkhspc convert`"


def write_training(path: Path, conversion: Conversion) -> None:
    """Writes training data in one step, a sample a line."""
    manifest = conversion.manifest
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": manifest.dataset,
        "config_hash": manifest.config_hash,
        "identity": dict(manifest.identity),
        "filter": {t: asdict(view) for t, view in manifest.filter.items()},
        "feature_names": list(conversion.feature_names),
        "unsure": [_apart(decision) for decision in conversion.unsure],
        "conflicts": [_conflict(decision) for decision in conversion.conflicts],
        "outside_filter": [_apart(decision) for decision in conversion.outside_filter],
        "report": report_of(conversion),
    }
    samples = [_line(_sample(decision, conversion)) for decision in conversion.samples]
    text = atomic.dump_json(head).rstrip().removesuffix("}").rstrip()
    atomic.write_text(path, f'{text},\n "samples": [\n' + ",\n".join(samples) + "\n ]\n}\n")


def _line(value: Mapping[str, Any]) -> str:
    return "  " + atomic.json_text(value)


def _sample(decision: Decision, conversion: Conversion) -> dict[str, Any]:
    name = parse_cell_id(decision.cell_id)
    return {
        "cell_id": decision.cell_id,
        "slide_id": name.slide_id,
        "scene": name.scene,
        "cell_type": decision.cell_type,
        "label": int(decision.value == "positive"),
        "annotators": list(decision.annotators),
        "policy": decision.presentation.policy,
        "inclusion_prob": decision.presentation.inclusion_prob,
        "features": conversion.features[decision.cell_id],
    }


def _apart(decision: Decision) -> dict[str, Any]:
    return {
        "cell_id": decision.cell_id,
        "cell_type": decision.cell_type,
        "value": decision.value,
        "annotators": list(decision.annotators),
    }


def _conflict(decision: Decision) -> dict[str, Any]:
    return {
        "cell_id": decision.cell_id,
        "cell_type": decision.cell_type,
        "votes": {name: list(values) for name, values in (decision.votes or {}).items()},
    }


def read_training(paths: Sequence[Path]) -> TrainingData:
    """Reads and joins files of training data; a cell in several files counts once.

    Raises:
        InputError: a file is damaged or no training data, the files are of different runs or have
            different features, or they give one cell different labels.
    """
    documents = [(path, _document(path)) for path in paths]
    (first_path, first), *others = documents
    for path, document in others:
        _check_same_run(first_path, first, path, document)
    rows: dict[str, dict[str, Any]] = {}
    for path, document in documents:
        for row in document["samples"]:
            known = rows.setdefault(row["cell_id"], row)
            if known["label"] != row["label"]:
                raise InputError(
                    f"gives the cell {row['cell_id']} another label than a file before it",
                    where=path,
                    fix="convert the annotations together, with --on-conflict",
                )
    names = tuple(first["feature_names"])
    ordered = [rows[cell_id] for cell_id in sorted(rows)]
    return TrainingData(
        config_hash=first["config_hash"],
        identity=first["identity"],
        feature_names=names,
        samples={t: _samples(t, names, [r for r in ordered if r["cell_type"] == t]) for t in CELL_TYPES},
        sources={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths},
    )


def _document(path: Path) -> dict[str, Any]:
    data = read_json(path, TRAINING, _FIX)
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(
            f"is not training data ({FORMAT!r} of version {VERSION})",
            where=path,
            fix="make it from labels with `mkhspc convert`",
        )
    try:
        if config_hash(data["identity"]) != data["config_hash"]:
            raise InputError("was edited: its identity no longer fits its config_hash", where=path, fix=_FIX)
        names = data["feature_names"]
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise InputError("has feature names that are not distinct texts", where=path, fix=_FIX)
        for row in data["samples"]:
            _check_sample(row, len(names), path)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is damaged ({error!r})", where=path, fix=_FIX) from error
    return data


def _check_sample(row: dict[str, Any], features: int, path: Path) -> None:
    cell_id, probability = str(row["cell_id"]), row["inclusion_prob"]
    numbers = [*row["features"], *([] if probability is None else [probability])]
    texts = [*(row[key] for key in ("cell_id", "slide_id", "policy")), *row["annotators"]]
    fine = (
        len(row["features"]) == features
        and all(type(value) in (int, float) and np.isfinite(value) for value in numbers)
        and (probability is None or 0 < probability <= 1)
        and all(isinstance(text, str) for text in texts)
        and type(row["scene"]) is int
        and type(row["label"]) is int
        and row["label"] in (0, 1)
        and row["cell_type"] in CELL_TYPES
    )
    if not fine:
        raise InputError(f"has a damaged sample ({cell_id[:80]})", where=path, fix=_FIX)


def _check_same_run(first_path: Path, first: dict[str, Any], path: Path, document: dict[str, Any]) -> None:
    if document["config_hash"] != first["config_hash"]:
        clauses = differences(first["identity"], document["identity"])
        raise InputError(
            f"comes from a run with other settings than {first_path.name}: {'; '.join(clauses)}",
            where=path,
            fix="train on data of runs with the same settings",
        )
    ours, theirs = first["feature_names"], document["feature_names"]
    if ours != theirs:
        odd = sorted(set(ours) ^ set(theirs)) or ["their order"]
        raise InputError(
            f"has other features than {first_path.name}: {some_of(odd)}",
            where=path,
            fix="convert the labels of runs that were made with the same --embedder",
        )


def _samples(cell_type: CellType, names: tuple[str, ...], rows: list[dict[str, Any]]) -> Samples:
    def column(key: str, dtype: Any) -> Any:
        return np.array([row[key] for row in rows], dtype=dtype)

    probabilities = [np.nan if row["inclusion_prob"] is None else row["inclusion_prob"] for row in rows]
    return Samples(
        cell_type=cell_type,
        feature_names=names,
        cell_ids=column("cell_id", np.str_),
        slide_ids=column("slide_id", np.str_),
        scenes=column("scene", np.int64),
        features=np.array([row["features"] for row in rows], np.float64).reshape(len(rows), len(names)),
        labels=column("label", np.int8),
        policies=column("policy", np.str_),
        inclusion_probs=np.array(probabilities, np.float64),
        annotators=tuple(sorted({name for row in rows for name in row["annotators"]})),
    )
