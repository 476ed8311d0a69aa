"""Versions of the libraries whose numbers enter a run's results, and the precision of its models."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mkhspc import __version__
from mkhspc.models.choice import RunModels, precision
from mkhspc.progress import Journal
from mkhspc.slide.czi.unpack import READERS
from mkhspc.store.manifest import Manifest

LIBRARIES = (
    "numpy", "scipy", "opencv-python-headless", "aicspylibczi", "imagecodecs", "pylibCZIrw", "pyarrow",
    "pillow",
)  # fmt: skip
"""Packages of the base install whose versions are written into the manifest."""
MODEL_LIBRARIES = ("torch", "torchvision", "sam2", "cellpose")
"""Packages whose versions are written too where a run uses models."""
NUMERIC = (
    "mkhspc", "numpy", "scipy", "opencv-python-headless", "imagecodecs",
    *MODEL_LIBRARIES, "precision",
)  # fmt: skip
"""The versions in a manifest whose change can move a cell's outline by a pixel. `reader` is not among them:
all that has ever decoded images gives the same pixels."""
CPU = "cpu"
"""The device's name in a precision such as `float32 on cpu`."""


def versions_here(models: RunModels, device: str, jobs_gpus: int | None = None) -> dict[str, str]:
    """Versions of the libraries whose numbers enter the results, by name.

    Args:
        jobs_gpus: how many GPUs each job of a cluster gets; None when this machine does the work. What a
            cluster's jobs compute in is known when they have begun, so `precision` is left out for them.
    """
    libraries = {name: version(name) for name in LIBRARIES}
    own = {"mkhspc": __version__, "python": platform.python_version(), "reader": READERS, **libraries}
    if not models.weights:
        return own
    packages = {name: _version_of(name) for name in MODEL_LIBRARIES if find_spec(name)}
    if jobs_gpus is not None:
        return {**own, **packages}
    return {**own, **packages, "precision": precision(models, device)}


def _version_of(name: str) -> str:
    """The version of a package that is here, perhaps installed under another name than it is imported by."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def changed_versions(begun_with: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The versions that a run began with and that are others here, each as `NAME VERSION (here VERSION)`.

    A library that the run does not know is left out.
    """
    return [
        f"{name} {begun_with[name]} (here {here[name]})"
        for name in NUMERIC
        if name in here and name in begun_with and not _is_same(name, begun_with[name], here[name])
    ]


def _is_same(name: str, there: str, here: str) -> bool:
    """Whether the numbers are the same; what models compute in is unknown until a merge has recorded it."""
    if name == "precision":
        parts = (part.partition(" on ") for part in here.split(", "))
        return all(_is_recorded(precision, device, there) for precision, _, device in parts)
    return there == here


def with_precisions(manifest: Manifest, journals: Sequence[Journal]) -> Manifest:
    """The manifest with the precisions in which models computed, as far as it lacks them.

    Whoever creates a run for a cluster cannot know them, and jobs that may end at any moment leave the
    manifest alone: the journals hold them, and the merge records them.
    """
    recorded = manifest.versions.get("precision", "")
    loaded = [event.facts for journal in journals for event in journal.events if event.name == "models"]
    found = {
        f"{precision} on {facts['device']}"
        for facts in loaded
        for precision in facts["precision"].values()
        if not _is_recorded(precision, str(facts["device"]), recorded)
    }
    if not found:
        return manifest
    words = "; ".join([*([recorded] if recorded else []), *sorted(found)])
    return replace(manifest, versions={**manifest.versions, "precision": words})


def _is_recorded(precision: str, device: str, recorded: str) -> bool:
    """Whether a precision is among the recorded ones, of a GPU by any name; of the CPU by its own."""
    if device == CPU:
        return f"{precision} on {CPU}" in recorded
    return precision in re.sub(rf"\w+ on {CPU}\b", "", recorded)
