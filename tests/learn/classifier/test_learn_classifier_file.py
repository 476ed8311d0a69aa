"""A classifier file is read with suspicion: whatever is not one of ours is refused, and never run."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.svm import SVC

from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier import audit as classifier_audit, file as classifier_file
from mkhspc.learn.classifier.audit import ALLOWED, SCHEMA, AuditError, check_members
from mkhspc.learn.classifier.file import Classifier, check_name, dumps, id_of, read
from mkhspc.learn.classifier.fit import Fitted
from mkhspc.learn.classifier.models import MEMBERS, Calibration, components, fit_member

FEATURES = ("shape_a", "shape_b", "colour_c", "texture_d")
DEEP = 50
"""Deep columns of a classifier that learned from their components: fewer than they, of 120 cells."""
KEPT = components(120, DEEP)


def data(n: int = 120, deep: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, len(FEATURES)))
    labels = (features[:, 0] + rng.normal(size=n) > 0).astype(np.int8)
    return np.hstack([features, rng.normal(size=(n, deep)) + 0.5 * labels[:, None]]), labels


def feature_names(deep: int) -> tuple[str, ...]:
    return (*FEATURES, *(f"deep_net_{column:04d}" for column in range(deep)))


def classifier(*names: str, deep: int = 0) -> Classifier:
    features, labels = data(deep=deep)
    members = tuple(fit_member(name, features, labels, 0, deep) for name in names)
    fitted = Fitted(names, members, Calibration(1.5, -0.25), 0.4, {"+".join(names): 0.5})
    probe = features[:10].copy()
    return Classifier(
        "",
        "mk",
        feature_names(deep),
        "0" * 16,
        {"run.seed": 0},
        0.4,
        fitted,
        probe,
        fitted.probability(probe),
        {"skops": "1"},
    )


@pytest.fixture(scope="module", params=list(MEMBERS))
def saved(request: pytest.FixtureRequest) -> bytes:
    return dumps(classifier(request.param))


@pytest.fixture(scope="module", params=list(MEMBERS))
def saved_deep(request: pytest.FixtureRequest) -> bytes:
    return dumps(classifier(request.param, deep=DEEP))


@pytest.fixture(scope="module")
def forest() -> bytes:
    return dumps(classifier("extra-trees"))


@pytest.fixture(scope="module")
def logistic() -> bytes:
    return dumps(classifier("logistic"))


@pytest.fixture(scope="module")
def deep_forest() -> bytes:
    return dumps(classifier("extra-trees", deep=DEEP))


def stored(tmp_path: Path, content: bytes, name: str = "mk.skops") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def edited(
    content: bytes,
    edit: Callable[[dict[str, Any]], object] = lambda schema: None,
    arrays: Callable[[str, bytes], bytes] = lambda name, array: array,
) -> bytes:
    """The archive with its schema edited in place and its arrays replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        schema = json.loads(old.read(SCHEMA))
        edit(schema)
        new.writestr(SCHEMA, json.dumps(schema))
        for name in old.namelist():
            if name != SCHEMA:
                new.writestr(name, arrays(name, old.read(name)))
    return out.getvalue()


def nodes(schema: Any, loader: str) -> list[dict[str, Any]]:
    """All nodes of a loader in a schema."""
    found: list[dict[str, Any]] = []
    if isinstance(schema, dict):
        found += [schema] if schema.get("__loader__") == loader else []
        for value in schema.values():
            found += nodes(value, loader)
    elif isinstance(schema, list):
        for value in schema:
            found += nodes(value, loader)
    return found


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        read(path)
    return str(refused.value)


def test_a_classifier_answers_the_same_after_a_round_trip(tmp_path: Path, saved: bytes) -> None:
    loaded = read(stored(tmp_path, saved))
    assert np.array_equal(loaded.score(loaded.probe), loaded.probe_scores)
    assert (loaded.cell_type, loaded.feature_names, loaded.threshold) == ("mk", FEATURES, 0.4)
    assert loaded.classifier_id == id_of(saved)
    assert len(loaded.classifier_id) == 16


def test_a_classifier_of_components_answers_the_same_after_a_round_trip(
    tmp_path: Path, saved_deep: bytes
) -> None:
    loaded = read(stored(tmp_path, saved_deep))
    assert np.array_equal(loaded.score(loaded.probe), loaded.probe_scores)
    assert np.ptp(loaded.probe_scores) > 0.1
    assert loaded.feature_names == feature_names(DEEP)
    assert loaded.fitted.members[0][-1].n_features_in_ == len(FEATURES) + KEPT


def test_a_classifier_of_all_deep_columns_as_they_are_can_still_be_read(tmp_path: Path) -> None:
    """Files from before deep columns were reduced: they are trained on, and scored by, every one."""
    features, labels = data(deep=DEEP)
    plain = fit_member("extra-trees", features, labels, 0)
    fitted = Fitted(("extra-trees",), (plain,), Calibration(1.0, 0.0), 0.5, {})
    made = classifier("extra-trees", deep=DEEP)
    before = Classifier(**{**vars(made), "fitted": fitted, "probe_scores": fitted.probability(made.probe)})
    loaded = read(stored(tmp_path, dumps(before)))
    assert np.array_equal(loaded.score(features), fitted.probability(features))


def elsewhere(code: str, *arguments: str) -> bytes:
    """What another process, with another hash seed, writes to stdout; `here` is this module."""
    setup = "import sys; sys.path.insert(0, sys.argv[1]); import test_learn_classifier_file as here;"
    done = subprocess.run(
        [sys.executable, "-c", setup + code, str(Path(__file__).parent), *arguments],
        capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("deep", [0, DEEP])
def test_another_process_writes_the_same_bytes(deep: int) -> None:
    names = ("boosting", "extra-trees", "logistic")
    written = elsewhere(f"sys.stdout.buffer.write(here.dumps(here.classifier(*{names}, deep={deep})))")
    assert written == dumps(classifier(*names, deep=deep))


@pytest.mark.slow
def test_another_process_gives_the_scores_of_the_one_that_trained(tmp_path: Path) -> None:
    made = classifier("boosting", "extra-trees", "logistic", deep=DEEP)
    path = stored(tmp_path, dumps(made))
    score = "read = here.read(here.Path(sys.argv[2])); cells, _ = here.data(500, here.DEEP);"
    scores = elsewhere(score + "sys.stdout.buffer.write(read.score(cells).tobytes())", str(path))
    assert scores == made.score(data(500, DEEP)[0]).tobytes()


@pytest.mark.slow
def test_the_list_of_types_allows_nothing_that_our_models_do_not_have() -> None:
    used: dict[str, set[str]] = {}
    for name, deep in itertools.product(MEMBERS, (0, DEEP)):
        with zipfile.ZipFile(io.BytesIO(dumps(classifier(name, deep=deep)))) as archive:
            schema = json.loads(archive.read(SCHEMA))
        for loader in ALLOWED:
            kinds = {f"{node['__module__']}.{node['__class__']}" for node in nodes(schema, loader)}
            used.setdefault(loader, set()).update(kinds)
    used["NdArrayNode"] |= ALLOWED["NdArrayNode"]  # which number types occur depends on the platform
    assert {loader: frozenset(kinds) for loader, kinds in used.items()} == ALLOWED


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["mk.skops", "mk.pkl", "mk.joblib", "mk"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_and_not_run_whatever_its_name(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "was-run"
    message = refusal(stored(tmp_path, pickle.dumps(Bomb(mark), protocol=protocol), name))
    assert "is a pickle, which could run any code" in message or "is not a .skops classifier file" in message
    assert not mark.exists()


def test_a_type_that_skops_trusts_but_we_do_not_use_is_refused(tmp_path: Path) -> None:
    features, labels = data()
    message = refusal(stored(tmp_path, skops.io.dumps(SVC().fit(features, labels))))
    assert "refers from one object to another" in message or "sklearn.svm" in message


HOSTILE_NODES: list[dict[str, Any]] = [
    {"__loader__": "FunctionNode", "__module__": "posix", "__class__": "mkdir"},
    {"__loader__": "TypeNode", "__module__": "os", "__class__": "mkdir"},
    {"__loader__": "ObjectNode", "__module__": "subprocess", "__class__": "Popen"},
    {"__loader__": "ObjectNode", "__module__": "sklearn.preprocessing._function_transformer",
     "__class__": "FunctionTransformer"},
    {"__loader__": "PartialNode", "__module__": "functools", "__class__": "partial"},
    {"__loader__": "OperatorFuncNode", "__module__": "operator", "__class__": "methodcaller"},
    {"__loader__": "MethodNode", "__module__": "builtins", "__class__": "dict"},
    {"__loader__": "ConstructorFromReduceNode", "__module__": "builtins", "__class__": "list"},
    {"__loader__": "ListNode", "__module__": "os", "__class__": "mkdir"},
    {"__loader__": "DictNode", "__module__": "collections", "__class__": "OrderedDict"},
    {"__loader__": "TreeNode", "__module__": "builtins", "__class__": "dict"},
    {"__loader__": "RandomGeneratorNode", "__module__": "numpy.random._generator", "__class__": "Generator"},
    {"__loader__": "CachedNode", "__module__": "builtins", "__class__": "dict"},
    {"__loader__": ["ListNode"], "__module__": "builtins", "__class__": "list"},
    {"__module__": "builtins", "__class__": "list"},
]  # fmt: skip


@pytest.mark.parametrize(
    "node", HOSTILE_NODES, ids=[f"{n['__module__']}.{n['__class__']}" for n in HOSTILE_NODES]
)
def test_an_object_that_is_none_of_ours_is_refused_wherever_it_hides(
    tmp_path: Path, logistic: bytes, node: dict[str, Any]
) -> None:
    mark = tmp_path / "was-run"
    path_node = {
        "__loader__": "JsonNode",
        "__module__": "builtins",
        "__class__": "str",
        "content": json.dumps(str(mark)),
    }
    hostile = {**node, "content": [path_node], "args": path_node}
    places: list[Callable[[dict[str, Any]], object]] = [
        lambda schema: schema["content"].update(extra=hostile),
        lambda schema: nodes(schema, "ObjectNode")[1]["content"]["content"].update(func=hostile),
        lambda schema: nodes(schema, "ListNode")[0]["content"].append(hostile),
        lambda schema: schema.update(unread={"deep": [hostile]}),
    ]
    for edit in places:
        message = refusal(stored(tmp_path, edited(logistic, edit)))
        assert "which our classifiers do not contain" in message
    assert not mark.exists()


@pytest.mark.parametrize(
    "node", HOSTILE_NODES, ids=[f"{n['__module__']}.{n['__class__']}" for n in HOSTILE_NODES]
)
def test_nothing_strange_hides_among_the_columns(
    tmp_path: Path, deep_forest: bytes, node: dict[str, Any]
) -> None:
    """In place of a step, of a column list, or of a slice's end, where skops would build it."""

    def transformers(schema: dict[str, Any]) -> list[dict[str, Any]]:
        (columns,) = of_kind(schema, "ColumnTransformer")
        return columns["content"]["content"]["transformers_"]["content"]

    places: list[Callable[[dict[str, Any]], object]] = [
        lambda schema: transformers(schema)[0]["content"].__setitem__(1, node),
        lambda schema: transformers(schema)[1]["content"].__setitem__(2, node),
        lambda schema: nodes(schema, "SliceNode")[0]["content"].update(start=node),
    ]
    for edit in places:
        message = refusal(stored(tmp_path, edited(deep_forest, edit)))
        assert "which our classifiers do not contain" in message or "is not a range of columns" in message


@pytest.mark.parametrize(
    "content",
    [
        {"start": -1, "stop": 4, "step": None},
        {"start": 0, "stop": None, "step": None},
        {"start": 0, "stop": 4, "step": 2},
        {"start": True, "stop": 4, "step": None},
        {"start": [], "stop": "x", "step": None},
    ],
)
def test_a_slice_that_is_not_a_range_of_columns_is_refused(
    tmp_path: Path, deep_forest: bytes, content: dict[str, object]
) -> None:
    def edit(schema: dict[str, Any]) -> None:
        nodes(schema, "SliceNode")[-1]["content"] = content

    assert "has a slice that is not a range of columns" in refusal(
        stored(tmp_path, edited(deep_forest, edit))
    )


def of_kind(schema: Any, kind: str) -> list[dict[str, Any]]:
    """All objects of a class in a schema."""
    return [node for node in nodes(schema, "ObjectNode") if node["__class__"] == kind]


COLUMN_ATTACKS: list[tuple[str, Callable[[Any, Any, Any], object]]] = [
    ("more components", lambda columns, scale, pca: vars(pca).update(components_=np.zeros((KEPT, DEEP + 1)))),
    ("none", lambda columns, scale, pca: vars(pca).update(components_=np.zeros((0, DEEP)))),
    ("another mean", lambda columns, scale, pca: vars(pca).update(mean_=np.zeros((2, DEEP)))),
    ("another scale", lambda columns, scale, pca: vars(scale).update(scale_=np.ones(1))),
    ("whitened", lambda columns, scale, pca: vars(pca).update(whiten=True)),
    ("weights", lambda columns, scale, pca: vars(columns).update(transformer_weights={"deep": 2.0})),
    ("sparse", lambda columns, scale, pca: vars(columns).update(sparse_output_=True)),
    ("in reverse", lambda columns, scale, pca: columns.transformers_.reverse()),
    ("twice", lambda columns, scale, pca: columns.transformers_.append(columns.transformers_[1])),
    ("no components", lambda columns, scale, pca: columns.transformers_[1][1].steps.pop()),
    ("scaled, not kept", lambda columns, scale, pca: columns.transformers_[0][1].steps.append(("s", scale))),
    ("other columns", lambda columns, scale, pca: columns.transformers_.__setitem__(
        0, (*columns.transformers_[0][:2], slice(0, len(FEATURES) - 1)))),
]  # fmt: skip


@pytest.mark.parametrize("change", [a[1] for a in COLUMN_ATTACKS], ids=[a[0] for a in COLUMN_ATTACKS])
def test_columns_that_are_reduced_otherwise_are_refused_before_a_tree_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any, Any], object]
) -> None:
    made = classifier("extra-trees", deep=DEEP)
    columns = made.fitted.members[0][0]
    change(columns, *(step for _, step in columns.transformers_[1][1].steps))
    path = stored(tmp_path, dumps(made))
    monkeypatch.setattr(Classifier, "score", lambda *_: pytest.fail("it was used"))
    message = refusal(path)
    assert (
        "of columns whose sizes" in message or "transforms its columns" in message or "is damaged" in message
    )


def test_a_tree_on_columns_beyond_the_components_is_refused(tmp_path: Path, deep_forest: bytes) -> None:
    """The file's features are enough for it, but not what the reduction leaves of them."""
    beyond = len(FEATURES) + KEPT
    assert beyond < len(FEATURES) + DEEP
    attacked = with_nodes(deep_forest, "left_child", lambda tree: tree["feature"].__setitem__(0, beyond))
    assert "has a tree that leads out of its own bounds" in refusal(stored(tmp_path, attacked))
    last = with_nodes(deep_forest, "left_child", lambda tree: tree["feature"].__setitem__(0, beyond - 1))
    assert "gives other answers here" in refusal(stored(tmp_path, last))


def test_no_step_starts_processes_because_the_file_says_so(tmp_path: Path, deep_forest: bytes) -> None:
    def edit(schema: dict[str, Any]) -> None:
        for kind in ("ColumnTransformer", "ExtraTreesClassifier"):
            for node in of_kind(schema, kind):
                node["content"]["content"]["n_jobs"]["content"] = "64"

    member = read(stored(tmp_path, edited(deep_forest, edit))).fitted.members[0]
    assert [step.n_jobs for _, step in member.steps] == [None, None]


@pytest.mark.parametrize("protocol", [0, 1, True, 99, "2", None])
def test_another_protocol_is_refused(tmp_path: Path, logistic: bytes, protocol: object) -> None:
    message = refusal(stored(tmp_path, edited(logistic, lambda schema: schema.update(protocol=protocol))))
    assert f"is of protocol {protocol}" in message


def test_an_object_that_stands_in_for_another_is_refused(tmp_path: Path, forest: bytes) -> None:
    """skops builds the first object of an id wherever the id comes again, whatever is written there."""

    def swap(schema: dict[str, Any]) -> None:
        nodes(schema, "JsonNode")[0]["__id__"] = 7

    assert "refers from one object to another" in refusal(stored(tmp_path, edited(forest, swap)))


def in_first_tree(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda schema: change(nodes(schema, "TreeNode")[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["content"]["content"]["node_count"].update(content="1000000"),
        lambda tree: tree["__reduce__"]["args"]["content"][2].update(content="1000000"),
        lambda tree: tree["__reduce__"]["args"]["content"][1].update(
            file=tree["content"]["content"]["values"]["file"]
        ),
    ],
    ids=["more nodes than there are", "more outputs", "other classes"],
)
def test_a_tree_whose_sizes_lie_is_refused_before_it_is_built(
    tmp_path: Path, forest: bytes, change: Callable[[dict[str, Any]], object]
) -> None:
    message = refusal(stored(tmp_path, edited(forest, in_first_tree(change))))
    assert "has a tree whose sizes do not fit together" in message


def first_array_of(content: bytes, field: str) -> str:
    """Name of the first stored array with this field."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name != SCHEMA:
                names = np.load(io.BytesIO(archive.read(name))).dtype.names or ()
                if field in names:
                    return name
    raise AssertionError(f"no array with {field}")


def with_nodes(content: bytes, field: str, change: Callable[[Any], object]) -> bytes:
    """The classifier with the nodes of its first tree changed."""
    target = first_array_of(content, field)

    def arrays(name: str, array: bytes) -> bytes:
        if name != target:
            return array
        tree = np.load(io.BytesIO(array)).copy()
        change(tree)
        out = io.BytesIO()
        np.save(out, tree)
        return out.getvalue()

    return edited(content, arrays=arrays)


FOREST_ATTACKS: list[tuple[str, Callable[[Any], object]]] = [
    ("child far outside", lambda tree: tree["left_child"].__setitem__(0, 10**9)),
    ("negative child", lambda tree: tree["right_child"].__setitem__(0, -7)),
    ("endless loop", lambda tree: tree["left_child"].__setitem__(0, 0)),
    ("feature outside", lambda tree: tree["feature"].__setitem__(0, 10**6)),
    ("negative feature", lambda tree: tree["feature"].__setitem__(0, -5)),
]


@pytest.mark.parametrize("change", [a[1] for a in FOREST_ATTACKS], ids=[a[0] for a in FOREST_ATTACKS])
def test_a_forest_that_leads_out_of_its_bounds_is_refused(
    tmp_path: Path, forest: bytes, change: Callable[[Any], object]
) -> None:
    attacked = stored(tmp_path, with_nodes(forest, "left_child", change))
    assert "has a tree that leads out of its own bounds" in refusal(attacked)


BOOSTING_ATTACKS: list[tuple[str, Callable[[Any], object]]] = [
    ("child far outside", lambda tree: tree["left"].__setitem__(0, 10**9)),
    ("endless loop", lambda tree: tree["right"].__setitem__(0, 0)),
    ("feature outside", lambda tree: tree["feature_idx"].__setitem__(0, 10**6)),
    ("categories", lambda tree: tree["is_categorical"].__setitem__(0, 1)),
]


@pytest.mark.parametrize("change", [a[1] for a in BOOSTING_ATTACKS], ids=[a[0] for a in BOOSTING_ATTACKS])
def test_boosting_that_leads_out_of_its_bounds_is_refused(
    tmp_path: Path, change: Callable[[Any], object]
) -> None:
    attacked = with_nodes(dumps(classifier("boosting")), "num_threshold", change)
    assert "has a tree" in refusal(stored(tmp_path, attacked))


def test_a_forest_inside_a_pipeline_is_none_of_our_models() -> None:
    pipeline = classifier("logistic").fitted.members[0]
    pipeline.steps[0] = ("ranks", classifier("extra-trees").fitted.members[0])
    with pytest.raises(AuditError, match="has a pipeline of ExtraTreesClassifier"):
        check_members([pipeline], len(FEATURES))


def array_bytes(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value, **options)
    return out.getvalue()


def test_an_array_that_hides_a_pickle_is_refused_and_not_run(tmp_path: Path, logistic: bytes) -> None:
    mark = tmp_path / "was-run"
    hidden = array_bytes(np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    message = refusal(stored(tmp_path, edited(logistic, arrays=lambda name, array: hidden)))
    assert "has an array that does not match its own header" in message
    assert not mark.exists()


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path, logistic: bytes) -> None:
    claim = array_bytes(np.zeros(4)).replace(b"(4,)", b"(4000000000000,)".ljust(4))[:80]
    message = refusal(stored(tmp_path, edited(logistic, arrays=lambda name, array: claim)))
    assert "is not what it says" in message or "is damaged" in message


def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, logistic: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_audit, "MAX_CONTENT_BYTES", 2**20)
    out = io.BytesIO(logistic)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(2**21))
    assert "unpacks to more than" in refusal(stored(tmp_path, out.getvalue()))


def test_a_file_larger_than_any_classifier_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "mk.skops"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    assert "is larger than 512 MiB" in refusal(path)


@pytest.mark.parametrize("name", ["evil.py", "../evil.npy.so"])
def test_entries_that_are_not_arrays_are_refused(tmp_path: Path, logistic: bytes, name: str) -> None:
    out = io.BytesIO(logistic)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(name, b"{}")
    assert "holds entries other than a schema and arrays" in refusal(stored(tmp_path, out.getvalue()))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_schema_is_refused(tmp_path: Path, logistic: bytes) -> None:
    out = io.BytesIO(logistic)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(SCHEMA, b"{}")
    assert "names an entry twice" in refusal(stored(tmp_path, out.getvalue()))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, forest: bytes, share: float) -> None:
    message = refusal(stored(tmp_path, forest[: int(share * len(forest))]))
    assert "is damaged" in message or "is not a .skops classifier file" in message


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "holds entries other than a schema and arrays" in refusal(stored(tmp_path, out.getvalue()))


def test_a_skops_file_that_is_not_our_classifier_is_refused(tmp_path: Path) -> None:
    content = classifier_file._canonical(skops.io.dumps({"hello": [1, 2, 3]}))
    assert "is damaged, or not a classifier that" in refusal(stored(tmp_path, content))


def test_a_classifier_that_answers_otherwise_than_where_it_was_made_is_refused(tmp_path: Path) -> None:
    made = classifier("logistic")
    other = Classifier(**{**vars(made), "probe_scores": made.probe_scores + 0.01})
    message = refusal(stored(tmp_path, dumps(other)))
    assert "gives other answers here than where it was made (with skops 1)" in message


def test_a_missing_file_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.skops")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".json", ""])
def test_only_a_skops_name_is_written(suffix: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_name(Path(f"mk_classifier{suffix}"))
    assert "name it mk_classifier.skops" in str(refused.value)


def test_the_name_of_the_notes_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="a pickle can run any code when it is loaded"):
        check_name(Path("mk_classifier.pkl"))


def head_node(schema: dict[str, Any]) -> dict[str, Any]:
    """The node of the text in which a classifier says what it is."""
    (node,) = (n for n in nodes(schema, "JsonNode") if "feature_names" in n["content"])
    return node


def says(**facts: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what a classifier says of itself; NaN and infinity are written as Python writes them."""

    def edit(schema: dict[str, Any]) -> None:
        node = head_node(schema)
        head = json.loads(json.loads(node["content"]))
        node["content"] = json.dumps(json.dumps({**head, **facts}))

    return edit


@pytest.mark.parametrize(
    "threshold",
    [float("nan"), float("inf"), float("-inf"), -0.01, 1.01, 10**400, True, "0.5", None, [0.5]],
    ids=lambda value: str(value)[:8],
)
def test_a_threshold_that_is_no_probability_is_refused(
    tmp_path: Path, logistic: bytes, threshold: object
) -> None:
    message = refusal(stored(tmp_path, edited(logistic, says(threshold=threshold))))
    first, second = message.splitlines()
    assert first.endswith(
        f"is a classifier file that has a threshold of {str(threshold)[:40]},"
        " where a number from 0 to 1 belongs"
    )
    assert second == "  use files that `mkhspc train` wrote"


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1])
def test_a_threshold_at_the_ends_is_taken(tmp_path: Path, logistic: bytes, threshold: float) -> None:
    assert read(stored(tmp_path, edited(logistic, says(threshold=threshold)))).threshold == threshold


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([*FEATURES[:3], FEATURES[0]], "names features twice: shape_a"),
        ([*FEATURES, FEATURES[0]], "names features twice: shape_a"),
        (FEATURES[:3], "leads out of its own bounds|learned from 4 features and names 3"),
        ([*FEATURES, "texture_e"], "learned from 4 features and names 5"),
        ([], "has features that are not names"),
        ([*FEATURES[:3], ""], "has features that are not names"),
        ([*FEATURES[:3], 7], "has features that are not names"),
        ("abcd", "has features that are not names"),
    ],
)
@pytest.mark.parametrize("name", ["logistic", "forest"])
def test_features_that_are_not_those_learned_from_are_refused(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, names: Any, words: str
) -> None:
    content = edited(request.getfixturevalue(name), says(feature_names=names))
    assert re.search(
        f"is a classifier file that (has a tree that )?({words})", refusal(stored(tmp_path, content))
    )


@pytest.mark.parametrize("calibration", [[float("nan"), 0.0], [1.0, float("inf")], ["1", 0.0]])
def test_a_calibration_that_is_not_of_numbers_is_refused(
    tmp_path: Path, logistic: bytes, calibration: list[Any]
) -> None:
    message = refusal(stored(tmp_path, edited(logistic, says(calibration=calibration))))
    assert "has a calibration of" in message
    assert "where two numbers belong" in message


@pytest.mark.parametrize("classes", [(1, 0), (1, 2), (0, 2)])
@pytest.mark.parametrize("name", ["logistic", "boosting"])
def test_other_classes_than_negative_and_positive_are_refused(
    tmp_path: Path, name: str, classes: tuple[int, int]
) -> None:
    made = classifier(name)
    estimator = made.fitted.members[0][-1] if name == "logistic" else made.fitted.members[0]
    estimator.classes_ = np.array(classes)
    assert f"tells apart the labels {list(classes)}, where [0, 1] belong" in refusal(
        stored(tmp_path, dumps(made))
    )


def test_a_small_file_of_90_mb_of_schema_is_refused_before_it_is_read(
    tmp_path: Path, logistic: bytes
) -> None:
    path = stored(tmp_path, bomb(logistic, b'{"protocol": 2, "x": [' + b"[]," * 30_000_000 + b"[]]}"))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    message = refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert "unpacks to 90 MB, more than 40 times its size" in message


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (b"[" + b"[]," * 6_000_000 + b"[]]", "has a schema of 18 MB; 17 MB are the most"),
        (b"[" + b"[]," * 300_000 + b"[]]", "has a schema that holds about 300,002 lists and objects"),
        (b"[" * 100_000, "has a schema that is nested too deep"),
        (b"[" + b"9" * 5000 + b"]", "has a schema that holds a whole number of 5,000 digits"),
    ],
    ids=["large", "many lists", "deep", "digits"],
)
def test_a_schema_beyond_its_limits_is_refused(
    tmp_path: Path, logistic: bytes, schema: bytes, words: str
) -> None:
    assert f"is a classifier file that {words}" in refusal(stored(tmp_path, bomb(logistic, schema)))


def bomb(content: bytes, schema: bytes) -> bytes:
    """The archive with another schema, packed well."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        new.writestr(SCHEMA, schema)
        for name in old.namelist():
            if name != SCHEMA:
                new.writestr(name, old.read(name))
    return out.getvalue()
