"""The settings of a run: what a command asks for, with every 'auto' replaced by what it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mkhspc.config import CELL_TYPES, CellType, RunConfig, with_options
from mkhspc.detect.resolve import DetectorChoice, build_detectors, choose_detectors
from mkhspc.models.choice import RunModels, devices_for, with_weights
from mkhspc.models.service import NoModels
from mkhspc.run.opening.versions import versions_here
from mkhspc.store.manifest import Manifest, SlideEntry

CHOSEN = (
    ("mk", "detector"), ("hspc", "detector"), ("compute", "sam2_weights"), ("compute", "cellpose_weights"),
)  # fmt: skip
"""Settings, by section and key, that may be 'auto'."""


@dataclass(frozen=True)
class RunSettings:
    """What a command asks of a run, resolved once.

    Attributes:
        config: with the names of detectors and weights in the place of 'auto'.
        choices: which detector finds each cell type, and why.
        jobs_gpus: how many GPUs each job of a cluster gets; None when this machine does the work.
    """

    config: RunConfig
    choices: Mapping[CellType, DetectorChoice]
    jobs_gpus: int | None = None

    @cached_property
    def models(self) -> RunModels:
        """The run's models with their weights.

        Raises:
            InputError: weights are missing or damaged.
        """
        return RunModels.of(self.config)

    @cached_property
    def devices(self) -> list[str]:
        """Names of the devices that hold the models; none without models.

        Raises:
            UsageError: torch is not installed, or a device is not here.
        """
        return devices_for(self.models, self.config.compute.device)

    @cached_property
    def model_hashes(self) -> dict[str, str]:
        """Name and revision of the detector of each cell type, and the SHA-256 of each model's weights.

        They distinguish the cells of one detector from those of another, and from its own of an earlier
        revision. Errors as for `models`.
        """
        names = {t: self.config.cells(t).detector for t in CELL_TYPES}
        stored = {t: self.config.stored(t) for t in CELL_TYPES}
        detectors = build_detectors(names, stored, self.models, NoModels())
        return {
            **{t: f"{detector.name}-{detector.revision}" for t, detector in detectors.items()},
            **{model: weights.sha256 for model, weights in self.models.weights.items()},
        }

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries whose numbers enter the results; see `versions_here`."""
        return versions_here(self.models, self.config.compute.device, self.jobs_gpus)

    def new_manifest(self, slides: Sequence[SlideEntry]) -> Manifest:
        """The manifest of a run that begins with these slides."""
        detectors = {t: f"{choice.name}: {choice.reason}" for t, choice in self.choices.items()}
        return Manifest.begin(self.config, slides, detectors, self.versions, self.model_hashes)


def run_settings(
    config: RunConfig, jobs_gpus: int | None = None, kept: RunConfig | None = None
) -> RunSettings:
    """Resolves what a command asks for.

    Args:
        config: of the command; 'auto' stands for the best that can run here.
        jobs_gpus: how many GPUs each job of a cluster gets; None when this machine does the work.
        kept: the settings of a run that exists, whose detectors and weights 'auto' then stands for.

    Raises:
        UsageError: a detector or a device that is asked for by name does not exist here.
        InputError: weights that are asked for by name are not here.
    """
    if kept is not None:
        config = _with_models_of(kept, config)
    choices = choose_detectors(config, jobs_gpus)
    config = replace(
        config,
        mk=replace(config.mk, detector=choices["mk"].name),
        hspc=replace(config.hspc, detector=choices["hspc"].name),
    )
    return RunSettings(with_weights(config, jobs_gpus), choices, jobs_gpus)


def _with_models_of(kept: RunConfig, config: RunConfig) -> RunConfig:
    """The config with a run's own detectors and weights where it names none."""
    names = {
        f"{section}.{key}": getattr(getattr(kept, section), key)
        for section, key in CHOSEN
        if getattr(getattr(config, section), key) == "auto"
    }
    return with_options(config, names)
