"""The classifier file: the same bytes for the same classifier, and checked before it is loaded."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier.audit import ALLOWED, MAX_FILE_BYTES, SCHEMA, AuditError, audit, check_members
from mkhspc.learn.classifier.sense import check_fit, check_head
from mkhspc.store import atomic

FORMAT = "mkhspc-classifier"
VERSION = 1
SUFFIX = ".skops"
PROBE_CELLS = 32
"""How many training cells a file carries, with the answers that the classifier gave where it was made."""
PROBE_TOLERANCE = 1e-6
"""How far a probability may differ on another machine: the last digits depend on its BLAS."""
_ID_DIGITS = 16
"""Hexadecimal digits of a classifier's id: two classifiers of one id are as good as impossible."""

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError,
    NotImplementedError, RecursionError, MemoryError, OverflowError,
)  # fmt: skip
"""What zipfile, JSON, numpy, skops and scikit-learn raise on malformed content.

`RecursionError` and `MemoryError` are among them because the file may be a stranger's: JSON can be
nested without end, and an array's head can claim any size: neither need mean that memory is short here.
"""


@dataclass(frozen=True)
class Classifier:
    """A classifier as it lies in its file.

    Attributes:
        classifier_id: the first 16 hexadecimal digits of the file's SHA-256.
        feature_names: the features that it needs, in its order.
        identity: settings of the run that it learned from; `config_hash` is their hash.
        probe: (k, f) features of some training cells.
        probe_scores: (k,) the answers to them where the classifier was made.
    """

    classifier_id: str
    cell_type: CellType
    feature_names: tuple[str, ...]
    config_hash: str
    identity: Mapping[str, Any]
    threshold: float
    fitted: Any
    probe: NDArray[np.float64]
    probe_scores: NDArray[np.float64]
    versions: Mapping[str, str]

    def score(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Probability of 'positive' per row of (n, f) features in the order of `feature_names`."""
        # models interpolate in the precision they are given; training was in float64
        scores: NDArray[np.float64] = self.fitted.probability(np.asarray(features, np.float64))
        return scores


def check_name(path: Path) -> None:
    """Raises `UsageError` for a name that no classifier file may have, and says which it may."""
    new_name = path.with_suffix(SUFFIX)
    if path.suffix in (".pkl", ".pickle", ".joblib"):
        raise UsageError(
            "a pickle can run any code when it is loaded, so classifiers are not written as one",
            where=path,
            fix=f"name it {new_name}",
        )
    if path.suffix != SUFFIX:
        raise UsageError(f"a classifier's name ends in {SUFFIX}", where=path, fix=f"name it {new_name}")


def dumps(classifier: Classifier) -> bytes:
    """The content of a classifier's file: the same bytes for the same classifier."""
    import skops.io

    fitted = classifier.fitted
    head = {
        "format": FORMAT,
        "version": VERSION,
        "cell_type": classifier.cell_type,
        "feature_names": list(classifier.feature_names),
        "config_hash": classifier.config_hash,
        "identity": dict(classifier.identity),
        "recipe": list(fitted.ensemble),
        "calibration": [fitted.calibration.slope, fitted.calibration.intercept],
        "threshold": classifier.threshold,
        "losses": dict(fitted.losses),
        "versions": dict(classifier.versions),
    }
    for model in _models(fitted.members):
        if hasattr(model, "_feature_subsample_rng"):
            model._feature_subsample_rng = (
                None  # only fitting draws from it, and skops cannot store it safely
            )
    return _canonical(
        skops.io.dumps(
            {
                "head": json.dumps(head, sort_keys=True, allow_nan=False),
                "members": list(fitted.members),
                "probe": classifier.probe,
                "probe_scores": classifier.probe_scores,
            }
        )
    )


def _models(members: Iterable[Any]) -> Iterator[Any]:
    """The members, and the steps of those that are pipelines."""
    for member in members:
        yield member
        yield from _models(step for _, step in getattr(member, "steps", ()))


def _canonical(content: bytes) -> bytes:
    """A skops archive without memory addresses, times and other traces of the process that wrote it."""
    names: dict[str, str] = {}

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("__loader__") == "NdArrayNode" and "file" in value:
            value["file"] = names.setdefault(value["file"], f"{len(names):06d}.npy")
        return {key: clean(item) for key, item in value.items() if key != "__id__"}

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        schema = json.dumps(clean(json.loads(old.read(SCHEMA))), separators=(",", ":"))
        new.writestr(_entry(SCHEMA), schema)
        for old_name, new_name in names.items():
            new.writestr(_entry(new_name), old.read(old_name))
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def write(path: Path, content: bytes) -> None:
    """Writes a classifier's file in one step."""
    check_name(path)
    atomic.write_bytes(path, content)


def sha256(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def id_of(content: bytes) -> str:
    """The id of the classifier in a file of this content: it names its scores in a run."""
    return sha256(content)[:_ID_DIGITS]


def read(path: Path) -> Classifier:
    """Loads a classifier without ever running anything that the file brings along.

    Raises:
        InputError: the file is missing, a pickle, no classifier, damaged, too large, holds a type
            that our classifiers do not have, or answers otherwise here than where it was made.
    """
    content = _read_bytes(path)
    _check_kind(content, path)
    try:
        audit(content)
        classifier = _build(content)
        check_members(list(classifier.fitted.members), len(classifier.feature_names))
        check_fit(classifier)
        answers = classifier.score(classifier.probe)
    except AuditError as error:
        raise InputError(
            f"is a classifier file that {error}", where=path, fix="use files that `mkhspc train` wrote"
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"is damaged, or not a classifier that `mkhspc train` wrote ({type(error).__name__})", where=path,
            fix="train it again with `mkhspc train`",
        ) from error  # fmt: skip
    _check_answers(classifier, answers, path)
    return classifier


def read_classifiers(paths: Mapping[CellType, Path]) -> dict[CellType, Classifier]:
    """Loads a classifier for each cell type, as `read` does.

    Raises:
        InputError: one cannot be used, or is of the other type.
    """
    found = {cell_type: read(path) for cell_type, path in paths.items()}
    for cell_type, classifier in found.items():
        if classifier.cell_type != cell_type:
            raise InputError(
                f"classifies {classifier.cell_type}, not {cell_type}",
                where=paths[cell_type],
                fix=f"name it with --{classifier.cell_type}-classifier",
            )
    return found


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(
                f"is larger than {MAX_FILE_BYTES // 2**20} MiB, the most that a classifier may take",
                where=path,
                fix="name the .skops file that `mkhspc train` wrote",
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})",
            where=path,
            fix="name the .skops file that `mkhspc train --output-mk` or `--output-hspc` wrote",
        ) from error


def _check_kind(content: bytes, path: Path) -> None:
    """Recognises a pickle by its content, whatever its name: protocol 2 and later begin with 0x80."""
    fix = "train it again: `mkhspc train` writes .skops files"
    if content[:1] == b"\x80" or path.suffix in (".pkl", ".pickle", ".joblib"):
        raise InputError("is a pickle, which could run any code when loaded: refused", where=path, fix=fix)
    if content[:4] != b"PK\x03\x04":
        raise InputError("is not a .skops classifier file", where=path, fix=fix)


def _build(content: bytes) -> Classifier:
    import skops.io
    from sklearn.exceptions import InconsistentVersionWarning

    from mkhspc.learn.classifier.fit import Fitted
    from mkhspc.learn.classifier.models import Calibration

    with warnings.catch_warnings():
        # the probe shows whether another version of scikit-learn matters
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        parts = skops.io.loads(content, trusted=sorted(set().union(*ALLOWED.values())))
    head = json.loads(parts["head"])  # a part of the schema, which was read within limits
    if head["format"] != FORMAT or head["version"] != VERSION or head["cell_type"] not in CELL_TYPES:
        raise AuditError(f"is not a {FORMAT} of version {VERSION}")
    check_head(head)
    for model in _models(parts["members"]):
        if hasattr(model, "n_jobs"):
            model.n_jobs = None
    return Classifier(
        classifier_id=id_of(content),
        cell_type=head["cell_type"],
        feature_names=tuple(map(str, head["feature_names"])),
        config_hash=str(head["config_hash"]),
        identity=dict(head["identity"]),
        threshold=float(head["threshold"]),
        fitted=Fitted(
            ensemble=tuple(head["recipe"]),
            members=tuple(parts["members"]),
            calibration=Calibration(*map(float, head["calibration"])),
            threshold=float(head["threshold"]),
            losses=dict(head["losses"]),
        ),
        probe=np.asarray(parts["probe"], np.float64),
        probe_scores=np.asarray(parts["probe_scores"], np.float64),
        versions=dict(head["versions"]),
    )


def _check_answers(classifier: Classifier, answers: NDArray[np.float64], path: Path) -> None:
    expected = classifier.probe_scores
    if answers.shape != expected.shape or not np.allclose(answers, expected, rtol=0.0, atol=PROBE_TOLERANCE):
        made_with = ", ".join(f"{name} {version}" for name, version in sorted(classifier.versions.items()))
        raise InputError(
            f"gives other answers here than where it was made (with {made_with[:200]})",
            where=path,
            fix="install those versions, or train it again here",
        )
