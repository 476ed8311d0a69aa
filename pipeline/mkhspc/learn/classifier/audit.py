"""What a classifier file may hold, checked before anything in it is built.

A .skops file is a zip archive: `schema.json` says which objects to build and `*.npy` are their
arrays. skops itself trusts every estimator of scikit-learn and many functions, and leaves the
insides of trees unchecked, which compiled code follows without bounds. So the schema is read here
first: only the loaders and types that our own models need, arrays that are what they claim to be,
and trees whose sizes fit together. `check_members` looks at what was built, before it is used.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy

from mkhspc.store.untrusted_json import JsonError, JsonLimits, parse_json
from mkhspc.units import MB

MAX_FILE_BYTES = 512 * 2**20
"""The largest classifier file that is read."""
MAX_CONTENT_BYTES = 2 * 2**30
"""The most bytes that a file may unpack to."""
MAX_GROWTH = 40
"""How many times its size a file may unpack to, beyond `SMALL_CONTENT_BYTES`; ours unpack to five times."""
SMALL_CONTENT_BYTES = 64 * 2**20
"""Bytes that any file may unpack to."""
SCHEMA_LIMITS = JsonLimits(max_bytes=16 * 2**20, max_values=1_000_000, max_containers=250_000)
"""Of the schema: a dozen times what an ensemble of 2,000 features takes."""
MAX_ENTRIES = 100_000
"""The most arrays in a file."""
SCHEMA = "schema.json"

_TREES = "sklearn.tree._classes"
_BOOSTING = "sklearn.ensemble._hist_gradient_boosting"
TREE = "sklearn.tree._tree.Tree"
TREE_PREDICTOR = f"{_BOOSTING}.predictor.TreePredictor"

ALLOWED: dict[str, frozenset[str]] = {
    "DictNode": frozenset({"builtins.dict"}),
    "ListNode": frozenset({"builtins.list"}),
    "TupleNode": frozenset({"builtins.tuple"}),
    "JsonNode": frozenset({"builtins.str"}),
    "SliceNode": frozenset({"builtins.slice"}),
    "TypeNode": frozenset({"builtins.str"}),
    "NdArrayNode": frozenset(
        {"numpy.ndarray", "numpy.float64", "numpy.float32", "numpy.int64", "numpy.int32", "numpy.uint64"}
    ),
    "TreeNode": frozenset({TREE}),
    "LossNode": frozenset({"sklearn._loss._loss.CyHalfBinomialLoss"}),
    "ObjectNode": frozenset(
        {
            "sklearn.pipeline.Pipeline",
            "sklearn.compose._column_transformer.ColumnTransformer",
            "sklearn.decomposition._pca.PCA",
            "sklearn.preprocessing._data.QuantileTransformer",
            "sklearn.preprocessing._data.StandardScaler",
            "sklearn.preprocessing._label.LabelEncoder",
            "sklearn.linear_model._logistic.LogisticRegression",
            "sklearn.ensemble._forest.RandomForestClassifier",
            "sklearn.ensemble._forest.ExtraTreesClassifier",
            f"{_TREES}.DecisionTreeClassifier",
            f"{_TREES}.ExtraTreeClassifier",
            f"{_BOOSTING}.gradient_boosting.HistGradientBoostingClassifier",
            f"{_BOOSTING}.binning._BinMapper",
            TREE_PREDICTOR,
            "sklearn._loss.loss.HalfBinomialLoss",
            "sklearn._loss.link.LogitLink",
            "sklearn._loss.link.Interval",
        }
    ),
}
"""The types that each loader of skops may build: those of which the models in `models.py` consist."""


class AuditError(ValueError):
    """The file is refused; the message continues 'is a classifier file that ...'."""


def audit(content: bytes) -> None:
    """Checks a classifier file in full without building anything.

    Raises:
        AuditError: it holds anything that our own models do not consist of, or is inconsistent.
        zipfile.BadZipFile, ValueError, KeyError, ...: it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_entries(archive.infolist(), len(content))
        schema = _schema(archive)
        if not isinstance(schema, dict):
            raise AuditError("has no object in its schema")
        _check_protocol(schema.get("protocol"))
        arrays = {name: _checked_array(archive, name) for name in archive.namelist() if name != SCHEMA}
    for node in _objects(schema):
        _check_node(node, arrays)


def _schema(archive: zipfile.ZipFile) -> Any:
    size_bytes = archive.getinfo(SCHEMA).file_size
    if size_bytes > SCHEMA_LIMITS.max_bytes:
        raise AuditError(
            f"has a schema of {size_bytes / MB:,.0f} MB; {SCHEMA_LIMITS.max_bytes / MB:,.0f} MB are the most"
        )
    try:
        return parse_json(archive.read(SCHEMA), SCHEMA_LIMITS)
    except JsonError as error:
        raise AuditError(f"has a schema that {error}") from error


def _check_entries(entries: list[zipfile.ZipInfo], file_bytes: int) -> None:
    names = [entry.filename for entry in entries]
    unpacked_bytes = sum(entry.file_size for entry in entries)
    if len(names) > MAX_ENTRIES or unpacked_bytes > MAX_CONTENT_BYTES:
        raise AuditError(f"unpacks to more than {MAX_CONTENT_BYTES // 2**30} GiB or {MAX_ENTRIES} entries")
    if unpacked_bytes > max(SMALL_CONTENT_BYTES, MAX_GROWTH * file_bytes):
        raise AuditError(f"unpacks to {unpacked_bytes / MB:,.0f} MB, more than {MAX_GROWTH} times its size")
    if len(set(names)) != len(names):
        raise AuditError("names an entry twice")
    if names.count(SCHEMA) != 1 or not all(name == SCHEMA or name.endswith(".npy") for name in names):
        raise AuditError("holds entries other than a schema and arrays")


def _check_protocol(protocol: object) -> None:
    from skops.io._protocol import PROTOCOL

    # an older protocol picks older, laxer loaders; type() because True is an int to Python
    if type(protocol) is not int or protocol != PROTOCOL:
        raise AuditError(
            f"is of protocol {str(protocol)[:20]}, while the skops installed here writes {PROTOCOL}"
        )


def _checked_array(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a stored array, which must be exactly as long as they say."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read_header(file)
        header_bytes = file.tell()
    if dtype.hasobject or dtype.itemsize * int(np.prod(shape, dtype=object)) != size - header_bytes:
        raise AuditError(f"has an array that does not match its own header ({name[:60]})")
    return shape, dtype


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the schema that skops could build from, wherever it stands."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "__loader__" in value or "__class__" in value or "__module__" in value:
                yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _check_node(node: dict[str, Any], arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    loader, kind = node.get("__loader__"), f"{node.get('__module__')}.{node.get('__class__')}"
    if "__id__" in node:  # skops would take an earlier object of that id for this one, whatever this one says
        raise AuditError("refers from one object to another")
    if not isinstance(loader, str) or kind not in ALLOWED.get(loader, ()):
        raise AuditError(f"holds {kind[:100]} ({str(loader)[:40]}), which our classifiers do not contain")
    if loader == "NdArrayNode" and (node.get("type") != "numpy" or node.get("file") not in arrays):
        raise AuditError("refers to an array of objects, or to one that it does not hold")
    if loader == "SliceNode":
        _check_slice(node["content"])
    if loader == "TreeNode":
        _check_tree_sizes(node, arrays)


def _check_slice(content: dict[str, Any]) -> None:
    """Refuses a slice that is not a range of columns: skops builds one from any value."""
    whole = all(type(content[end]) is int and content[end] >= 0 for end in ("start", "stop"))
    if not whole or content["step"] is not None:
        raise AuditError("has a slice that is not a range of columns")


def _check_tree_sizes(node: dict[str, Any], arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Compares the sizes of a tree with its arrays, because compiled code trusts the sizes it is given."""
    _, classes, outputs = node["__reduce__"]["args"]["content"]  # after the number of features
    state = node["content"]["content"]
    count = json.loads(state["node_count"]["content"])
    nodes, values = arrays[state["nodes"]["file"]], arrays[state["values"]["file"]]
    fits = (
        outputs["content"] == "1"
        and arrays[classes["file"]][0] == (1,)
        and nodes[0] == (count,)
        and values[0] == (count, 1, 2)
    )
    if not fits:
        raise AuditError("has a tree whose sizes do not fit together")


def check_members(members: list[Any], features: int) -> None:
    """Checks estimators as loaded, before they are used: their make, and every branch of their trees.

    Args:
        features: number of features that they will be given.

    Raises:
        AuditError: a member is not one of our models, or a tree leads out of its bounds.
    """
    for member in members:
        if type(member).__name__ == "Pipeline" and _kinds(member)[:1] == ["ColumnTransformer"]:
            (_, columns), (_, model) = member.steps
            _check_model(model, _reduced_width(columns, features))
        else:
            _check_model(member, features)


def _check_model(model: Any, features: int) -> None:
    kind = type(model).__name__
    if kind == "Pipeline":
        if _kinds(model) != ["QuantileTransformer", "StandardScaler", "LogisticRegression"]:
            raise AuditError(f"has a pipeline of {', '.join(_kinds(model))[:80]} for a model")
    elif kind in ("RandomForestClassifier", "ExtraTreesClassifier"):
        for estimator in model.estimators_:
            tree = estimator.tree_
            _check_branches(tree.children_left, tree.children_right, tree.feature, features)
    elif kind == "HistGradientBoostingClassifier":
        for predictor in itertools.chain.from_iterable(model._predictors):
            _check_predictor(predictor.nodes, features)
    else:
        raise AuditError(f"has a {kind} for a model")


def _kinds(pipeline: Any) -> list[str]:
    return [type(step).__name__ for _, step in pipeline.steps]


def _reduced_width(columns: Any, features: int) -> int:
    """How many columns a model gets from this `ColumnTransformer`, which must be as `models.py` makes them.

    The trees behind it are followed without bounds, so the number must be certain before anything runs.
    """
    (_, same, named), (_, reduction, deep) = columns.transformers_
    if _kinds(reduction) != ["StandardScaler", "PCA"] or [step for _, step in same.steps] != ["passthrough"]:
        raise AuditError("transforms its columns differently from our classifiers")
    scale, pca = (step for _, step in reduction.steps)
    kept, width = pca.components_.shape
    fits = (
        named == slice(0, features - width)
        and deep == slice(features - width, features)
        and 0 < kept <= width <= features
        and all(array.shape == (width,) for array in (scale.mean_, scale.scale_, pca.mean_))
        and columns.transformer_weights is None
        and columns.sparse_output_ is False
        and pca.whiten is False
    )
    if not fits:
        raise AuditError("has a reduction of columns whose sizes do not fit together")
    return int(features - width + kept)


def _check_predictor(nodes: Any, features: int) -> None:
    if nodes["is_categorical"].any():
        raise AuditError("has a tree over categories")
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    _check_branches(left, right, nodes["feature_idx"], features)


def _check_branches(left: Any, right: Any, feature: Any, features: int) -> None:
    own = np.arange(len(left))
    inner = left != -1
    # a child always has a higher number than its parent, in every tree that scikit-learn grows
    fine = (
        len(left) > 0
        and np.all((right == -1) == ~inner)
        and np.all((own < left)[inner] & (left < len(own))[inner])
        and np.all((own < right)[inner] & (right < len(own))[inner])
        and np.all((feature >= 0)[inner] & (feature < features)[inner])
    )
    if not fine:
        raise AuditError("has a tree that leads out of its own bounds")
