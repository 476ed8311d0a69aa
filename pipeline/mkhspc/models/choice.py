"""Which models a run uses, with which weights, and whether a device here is fit for them. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal

from mkhspc.config import ComputeSection, RunConfig
from mkhspc.models import cellpose, embedders, sam2, sam2_loader
from mkhspc.models.device import Footprint, Gpu, Precision, TorchError, device_names, find_gpus
from mkhspc.models.service import Loader
from mkhspc.models.weights.cache import Stored, WeightFile, models_dir, stored, weights_for
from mkhspc.models.weights.catalogue import CATALOGUE, Weight, weight_named
from mkhspc.units import GB

BEST_FIRST: Mapping[str, Sequence[str]] = {
    "sam2": tuple(
        f"{v}-{size}" for v in ("sam2.1", "sam2") for size in ("large", "base-plus", "small", "tiny")
    ),
    "cellpose": ("cpsam_v2", "cpsam"),
}
"""Weights of the catalogue that serve a model, in the order in which 'auto' takes them."""

MOSTLY_FREE = 0.9
"""The free share of a GPU's memory that counts as all of it, since a driver and a screen take theirs. What is
free is reported and decides nothing: it changes from moment to moment, and all commands that work on a run
must choose alike."""


def needed(config: RunConfig) -> list[str]:
    """The models that a run asks, by the names under which workers know them."""
    found = set(config.compute.embedders)
    found |= {"sam2"} & {config.mk.detector, *config.hspc.detector.split("+")}
    found |= {"cellpose"} & {*config.hspc.detector.split("+")}
    return sorted(found)


def with_weights(config: RunConfig, jobs_gpus: int | None = None) -> RunConfig:
    """The config with the weights named that 'auto' stands for: the best here that fit the GPU together.

    Where none are here it is the first of `BEST_FIRST`, so that the error says how to get it. Files of the
    user's own get their whole path: a run goes on wherever the command is typed.

    Args:
        jobs_gpus: see `fitness`.

    Raises:
        UsageError: a GPU that is asked for by name is not here.
    """
    if jobs_gpus is None:
        refuse_missing_device(config.compute.device)
    models, compute = needed(config), config.compute
    gpu = None
    if any(_asked_weights(model, compute) == "auto" for model in models):
        gpu = _smallest(_gpus_meant(compute.device)) if jobs_gpus is None and find_spec("torch") else None
    best = (_best_set(models, compute, gpu) if gpu else None) or _sets_of_weights(models, compute)[0]
    if "sam2" in best:
        compute = replace(compute, sam2_weights=_whole_path(best["sam2"]))
    if "cellpose" in best:
        compute = replace(compute, cellpose_weights=_whole_path(best["cellpose"]))
    return replace(config, compute=compute)


def _whole_path(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if name not in CATALOGUE and path.is_file() else name


def _asked_weights(model: str, compute: ComputeSection) -> str:
    """What a setting says of a model's weights: 'auto', a name or a path; an embedder's are its own."""
    name: str = getattr(compute, f"{model}_weights") if model in BEST_FIRST else model
    return name


def _sets_of_weights(models: Iterable[str], compute: ComputeSection) -> list[dict[str, str]]:
    """The weights that models can be used with here, one set after the other, the best first.

    Where 'auto' finds none of a model it is the first of `BEST_FIRST`.
    """
    models = list(models)
    asked = {model: _asked_weights(model, compute) for model in models}
    each = [
        (present(model) or BEST_FIRST[model][:1]) if asked[model] == "auto" else [asked[model]]
        for model in models
    ]
    return [dict(zip(models, names, strict=True)) for names in product(*each)]


def _best_set(models: Iterable[str], compute: ComputeSection, gpu: Gpu) -> dict[str, str] | None:
    """The best weights that models can be used with together on a GPU."""
    sets = _sets_of_weights(models, compute)
    return next((names for names in sets if _fit(names.values(), gpu.memory_bytes)), None)


def present(model: str) -> list[str]:
    """The catalogue's weights of a model that are here, the best first."""
    return [n for n in BEST_FIRST[model] if _stored(n).state in ("here", "package")]


def _stored(name: str) -> Stored:
    return stored(weight_named(name), models_dir())


@dataclass(frozen=True)
class RunModels:
    """The weights of a run's models.

    Attributes:
        weights: by the name under which workers know the model.
    """

    weights: Mapping[str, WeightFile]

    @classmethod
    def of(cls, config: RunConfig) -> RunModels:
        """Those of a config whose weights are named.

        Raises:
            InputError: weights are missing or damaged; says what to do.
        """
        return cls({m: weights_for(_asked_weights(m, config.compute)) for m in needed(config)})

    def digest(self, model: str) -> str:
        """16 hexadecimal digits that tell these weights from others."""
        return self.weights[model].sha256[:16]

    @property
    def resident_bytes(self) -> int:
        """The memory that a server of all of them is expected to take, before it has been measured."""
        return sum(loader.resident_bytes for loader in self.loaders)

    @property
    def loaders(self) -> list[Loader]:
        return [_loader(m, weights, self.footprint(m)) for m, weights in self.weights.items()]

    def footprint(self, model: str) -> Footprint | None:
        """What one of them takes of a GPU that holds all of them; None for a file of the user's own."""
        names = {m: weights.name for m, weights in self.weights.items() if weights.name in CATALOGUE}
        if model not in names:
            return None
        return footprints([CATALOGUE[name] for name in names.values()])[list(names).index(model)]

    def batches(self, kind: Literal["cpu", "cuda"], gpu_memory_bytes: int | None = None) -> dict[str, int]:
        """How many prompts, blocks or crops each of them gives to a device at once, while they fit.

        Args:
            gpu_memory_bytes: of the smallest GPU; enough unless said.
        """
        sizes = {model: _BATCHES.get(model, embedders.BATCH)[kind] for model in self.weights}
        if kind == "cuda" and gpu_memory_bytes is not None:
            for model, usual in sizes.items():
                if footprint := self.footprint(model):
                    sizes[model] = footprint.batch_in(gpu_memory_bytes, usual)
        return sizes

    def too_large_for(self, gpu_memory_bytes: int) -> list[str]:
        """Published weights that a GPU of this memory is too small for: some alone, else all together."""
        names = [weights.name for weights in self.weights.values() if weights.name in CATALOGUE]
        alone = [name for name in names if not _fit([name], gpu_memory_bytes)]
        return alone or ([] if _fit(names, gpu_memory_bytes) else names)


_BATCHES = {"sam2": sam2.BATCH, "cellpose": cellpose.BATCH}
_REDUCED = {"sam2": sam2.REDUCED, "cellpose": cellpose.REDUCED}


def _loader(model: str, weights: WeightFile, footprint: Footprint | None) -> Loader:
    match model:
        case "sam2":
            variant = weights.name if weights.name in CATALOGUE else None
            return sam2_loader.Sam2Loader(weights.path, variant, footprint)
        case "cellpose":
            return cellpose.CellposeLoader(weights, footprint)
        case _:
            return embedders.EmbedderLoader(model, weights, footprint)


def devices_for(models: RunModels, asked: str) -> list[str]:
    """Where a run's models are to be; none if it has none.

    Raises:
        UsageError: torch is not installed, or a device is not there.
    """
    return device_names(asked, gpus_here()) if models.weights else []


def refuse_missing_device(asked: str) -> None:
    """Raises `UsageError` for a GPU that is asked for by name and is not there, whoever would use it."""
    if asked not in ("auto", "cpu"):
        device_names(asked, gpus_here())


def precision(models: RunModels, asked: str) -> str:
    """In what a run's networks compute, and on what; empty without models. Errors as for `devices_for`."""
    gpus = gpus_here() if models.weights else []
    return ", ".join(
        "float32 on cpu" if name == "cpu" else _precisions(models, _gpu(gpus, name))
        for name in devices_for(models, asked)
    )


def _precisions(models: RunModels, gpu: Gpu) -> str:
    """On a GPU: one word if all models compute alike, else each by its name."""
    found: dict[str, Precision] = {
        model: gpu.precision_on(_REDUCED.get(model, embedders.REDUCED)) for model in models.weights
    }
    alike = len(set(found.values())) == 1
    listed = next(iter(found.values())) if alike else ", ".join(f"{m} {p}" for m, p in found.items())
    return f"{listed} on {gpu.name}"


@cache  # it takes torch some seconds to start
def gpus_here() -> list[Gpu]:
    """The GPUs of this machine; errors as for `find_gpus`."""
    return find_gpus()


@dataclass(frozen=True)
class Fitness:
    """Whether a model could be used here without being asked for by name, and why or why not."""

    is_fit: bool
    reason: str


def fitness(
    model: str, compute: ComputeSection, jobs_gpus: int | None = None, beside: Collection[str] = ()
) -> Fitness:
    """Whether the weights of a model are here, those asked for if any are, with a GPU that holds them.

    Args:
        jobs_gpus: that the jobs of a cluster get, which do the work instead of this machine.
        beside: other models that the run uses; the embedders, which `compute` tells, need not be named.

    Raises:
        InputError, UsageError: weights that are asked for by name are not here.
    """
    asked, device = _asked_weights(model, compute), compute.device
    if asked != "auto":
        weights_for(asked)
    elif not present(model):
        return Fitness(False, _why_absent(model))
    for package in ("torch", model):
        if find_spec(package) is None:
            return Fitness(False, f"the weights of {model} are here, but {package} is not installed")
    if device == "cpu":
        return Fitness(
            False, f"the weights of {model} are here, but the CPU is asked for: it would take days"
        )
    if jobs_gpus:
        return Fitness(True, f"its weights are here, and each job gets {jobs_gpus} GPU")
    try:
        gpus = [] if jobs_gpus == 0 else _gpus_meant(device)
    except TorchError as error:
        return Fitness(False, f"the weights of {model} are here, but {error.what}")
    for gpu in gpus:
        if gpu.fault and not gpu.is_in_use:
            return Fitness(False, f"the weights of {model} are here, but {gpu.name}: {gpu.fault}")
    smallest = _smallest(gpus)
    if smallest is None:
        return Fitness(False, f"the weights of {model} are here, but no GPU is: it would take days")
    others = sorted({*compute.embedders, *beside} - {model})
    best = _best_set([model, *others], compute, smallest)
    if best is None:
        is_too_large_alone = _best_set([model], compute, smallest) is None
        company = "" if is_too_large_alone else f" beside {' and '.join(others)}"
        return Fitness(
            False,
            f"the weights of {model} that are here need more memory{company} than {smallest.name} has",
        )
    return Fitness(True, f"its weights and {smallest.name} are here{_shortage(best.values(), gpus)}")


def _why_absent(model: str) -> str:
    """Why there are no weights of a model that 'auto' could take, with the files named that are not whole."""
    best = BEST_FIRST[model][0]
    for name in BEST_FIRST[model]:
        found = _stored(name)
        if found.state == "partial":
            return f"of the weights of {model} only a part is here, {found.path} (mkhspc models fetch {name})"
        if found.state == "damaged":
            return f"the weights of {model} in {found.path} are damaged (mkhspc models fetch {name})"
    return f"no weights of {model} are here (mkhspc models fetch {best})"


def _gpus_meant(device: str) -> list[Gpu]:
    """The GPUs that a setting of `device` means, if any."""
    gpus = [] if device == "cpu" else gpus_here()  # torch need not start for a CPU
    return [_gpu(gpus, name) for name in device_names(device, gpus) if name != "cpu"]


def _smallest(gpus: Sequence[Gpu]) -> Gpu | None:
    return min(gpus, key=lambda gpu: gpu.memory_bytes, default=None)


def _shortage(names: Collection[str], gpus: Sequence[Gpu]) -> str:
    """A clause on a GPU of which others hold too much just now for weights; empty if there is none."""
    for gpu in gpus:
        if gpu.is_in_use:
            return f", but others use {gpu.name} now: {gpu.fault}"
        if gpu.free_bytes is None or gpu.free_bytes >= MOSTLY_FREE * gpu.memory_bytes:
            continue
        if not _fit(names, gpu.free_bytes):
            free = f"{gpu.free_bytes / GB:.1f} GB of {gpu.name}"
            return f", but only {free} are free now: that may be too little"
    return ""


def _gpu(gpus: Sequence[Gpu], name: str) -> Gpu:
    return gpus[int(name.removeprefix("cuda:"))]


def _fit(names: Iterable[str], memory_bytes: int) -> bool:
    """Whether weights fit a GPU together; of a file of the user's own nothing is known."""
    return gpu_bytes([CATALOGUE[name] for name in names if name in CATALOGUE]) <= memory_bytes


def gpu_bytes(weights: Sequence[Weight]) -> int:
    """What one process with all these weights should find on its GPU; an estimate: one computes at a time."""
    return max((f.held_bytes + f.batch_bytes for f in footprints(weights)), default=0)


def footprints(weights: Sequence[Weight]) -> list[Footprint]:
    """What each of the weights takes of a GPU that holds all of them; estimates.

    Of what the catalogue advises for one alone, twice its file is held: for the weights, for copies in fewer
    bits and for what it keeps until it is asked again. So much is held of each of the others, too.
    """
    held_bytes = sum(2 * weight.size_bytes for weight in weights)
    return [Footprint(held_bytes, w.gpu_memory_gb * GB - 2 * w.size_bytes) for w in weights]
