"""Which models a run uses, with which weights, and whether a device here is fit for them. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.config import ComputeSection, RunConfig
from pipeline.models import cellpose, embedders, sam2
from pipeline.models.cache import WeightFile, models_dir, stored, weights_for
from pipeline.models.catalogue import CATALOGUE, weight_named
from pipeline.models.device import Gpu, device_names, find_gpus
from pipeline.models.service import Loader

BEST_FIRST: Mapping[str, Sequence[str]] = {
    "sam2": tuple(
        f"{v}-{size}" for v in ("sam2.1", "sam2") for size in ("large", "base-plus", "small", "tiny")
    ),
    "cellpose": ("cpsam_v2", "cpsam"),
}
"""Weights of the catalogue that serve a model, in the order in which 'auto' takes them."""
GB = 1_000_000_000


def needed(config: RunConfig) -> list[str]:
    """The models that a run asks, by the names under which workers know them."""
    found = set(config.compute.embedders)
    found |= {"sam2"} & {config.mk.detector, *config.hspc.detector.split("+")}
    found |= {"cellpose"} & {*config.hspc.detector.split("+")}
    return sorted(found)


def with_weights(config: RunConfig, jobs_gpus: int | None = None) -> RunConfig:
    """The config with the weights named that 'auto' stands for: the best that are here and fit the GPU.

    Where none are here it is the first of `BEST_FIRST`, so that the error says how to get it. Files of the
    user's own get their whole path: a run goes on wherever the command is typed.

    Args:
        jobs_gpus: see `fitness`.
    """
    used, compute = needed(config), config.compute
    if "sam2" in used:
        compute = replace(compute, sam2_weights=_settled("sam2", compute, jobs_gpus))
    if "cellpose" in used:
        compute = replace(compute, cellpose_weights=_settled("cellpose", compute, jobs_gpus))
    return replace(config, compute=compute)


def _settled(model: str, compute: ComputeSection, jobs_gpus: int | None) -> str:
    name = _asked_weights(model, compute)
    if name == "auto":
        return _best(model, compute.device, jobs_gpus)
    path = Path(name).expanduser()
    return str(path.absolute()) if name not in CATALOGUE and path.is_file() else name


def _asked_weights(model: str, compute: ComputeSection) -> str:
    return compute.sam2_weights if model == "sam2" else compute.cellpose_weights


def _best(model: str, device: str, jobs_gpus: int | None) -> str:
    here = present(model)
    if not here:
        return BEST_FIRST[model][0]
    gpu = _smallest_gpu(device) if jobs_gpus is None and find_spec("torch") else None
    return next((name for name in here if gpu and _fits(name, gpu)), here[0])


def present(model: str) -> list[str]:
    """The catalogue's weights of a model that are here, the best first."""
    directory = models_dir()
    return [n for n in BEST_FIRST[model] if stored(weight_named(n), directory).state in ("here", "package")]


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
        return cls({model: weights_for(_named_weights(config, model)) for model in needed(config)})

    def digest(self, model: str) -> str:
        """16 hexadecimal digits that tell these weights from others."""
        return self.weights[model].sha256[:16]

    @property
    def resident_bytes(self) -> int:
        """What an owner of all of them is expected to take of memory, before it has been measured."""
        return sum(loader.resident_bytes for loader in self.loaders)

    @property
    def loaders(self) -> list[Loader]:
        return [_loader(model, weights) for model, weights in self.weights.items()]

    def batches(self, kind: Literal["cpu", "cuda"]) -> dict[str, int]:
        """How many prompts, blocks or crops each of them gives to a device at once, while they fit."""
        return {model: _BATCHES.get(model, embedders.BATCH)[kind] for model in self.weights}

    def too_large_for(self, gpu_memory_bytes: int) -> list[str]:
        """Published weights that a GPU of this memory is too small for, as the catalogue says."""
        published = [CATALOGUE[w.name] for w in self.weights.values() if w.name in CATALOGUE]
        return [weight.name for weight in published if weight.gpu_memory_gb * GB > gpu_memory_bytes]


_BATCHES = {"sam2": sam2.BATCH, "cellpose": cellpose.BATCH}


def _named_weights(config: RunConfig, model: str) -> str:
    name: str = getattr(config.compute, f"{model}_weights") if model in BEST_FIRST else model
    return name


def _loader(model: str, weights: WeightFile) -> Loader:
    match model:
        case "sam2":
            return sam2.Sam2Loader(weights.path, weights.name if weights.name in CATALOGUE else None)
        case "cellpose":
            return cellpose.CellposeLoader(weights)
        case _:
            return embedders.EmbedderLoader(model, weights)


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
        "float32 on cpu" if name == "cpu" else f"{_gpu(gpus, name).precision} on {_gpu(gpus, name).name}"
        for name in devices_for(models, asked)
    )


@cache  # it takes torch some seconds to start
def gpus_here() -> list[Gpu]:
    """The GPUs of this machine; errors as for `find_gpus`."""
    return find_gpus()


@dataclass(frozen=True)
class Fitness:
    """Whether a model could be used here without being asked for by name, and why or why not."""

    is_fit: bool
    reason: str


def fitness(model: str, compute: ComputeSection, jobs_gpus: int | None = None) -> Fitness:
    """Whether the weights of a model are here, those asked for if any are, with a GPU that holds them.

    Args:
        jobs_gpus: that the jobs of a cluster get, which do the work instead of this machine.

    Raises:
        InputError, UsageError: weights that are asked for by name are not here.
    """
    asked, device = _asked_weights(model, compute), compute.device
    here = present(model) if asked == "auto" else [weights_for(asked).name]
    if not here:
        return Fitness(False, f"no weights of {model} are here (mkhspc models fetch {BEST_FIRST[model][0]})")
    for package in ("torch", model):
        if find_spec(package) is None:
            return Fitness(False, f"the weights of {model} are here, but {package} is not installed")
    if jobs_gpus and device != "cpu":
        return Fitness(True, f"its weights are here, and each job gets {jobs_gpus} GPU")
    smallest = None if jobs_gpus == 0 else _smallest_gpu(device)
    if smallest is None:
        return Fitness(False, f"the weights of {model} are here, but no GPU is: it would take days")
    if not any(_fits(name, smallest) for name in here):
        return Fitness(
            False, f"the weights of {model} that are here need more memory than {smallest.name} has"
        )
    return Fitness(True, f"its weights and {smallest.name} are here")


def _smallest_gpu(device: str) -> Gpu | None:
    """Of the GPUs that a setting of `device` means, if any."""
    gpus = [] if device == "cpu" else gpus_here()
    used = [_gpu(gpus, name) for name in device_names(device, gpus) if name != "cpu"]
    return min(used, key=lambda gpu: gpu.memory_bytes, default=None)


def _gpu(gpus: Sequence[Gpu], name: str) -> Gpu:
    return gpus[int(name.removeprefix("cuda:"))]


def _fits(name: str, gpu: Gpu) -> bool:
    """Whether published weights fit, as the catalogue says; of a file of the user's own nothing is known."""
    return name not in CATALOGUE or CATALOGUE[name].gpu_memory_gb * GB <= gpu.memory_bytes
