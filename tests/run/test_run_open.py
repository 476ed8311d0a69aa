"""Opening a run again: what a later command may change, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mkhspc.config import RunConfig, load_config
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.errors import InputError, UsageError
from mkhspc.run.open import open_run, proposed
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.manifest import Manifest
from processes import mkhspc
from runs import put_manifest

Study = Callable[..., RunConfig]


@pytest.fixture
def study(tiny_slide: Path, tmp_path: Path) -> Study:
    """A config with the tiny slide, from the text of a file and from options."""

    def config(text: str = "", **options: Any) -> RunConfig:
        file = tmp_path / "study.toml"
        file.write_text(text)
        base = {"run.output_dir": str(tmp_path / "run"), "run.slides": (str(tiny_slide),)}
        return load_config(file, base | {key.replace("__", "."): value for key, value in options.items()})

    return config


def told(config: RunConfig) -> list[str]:
    """What a command says of a run that is not what it asked for; of a new one, what was chosen, too."""
    lines: list[str] = []
    open_run(config, tell=lines.append)
    return lines


def surprises(config: RunConfig) -> list[str]:
    return [line for line in told(config) if " by the detector '" not in line]


def test_which_detectors_were_chosen_and_why_is_known_when_a_run_begins(study: Study) -> None:
    (line,) = told(study(hspc__detector="classical"))
    assert line.startswith("MK by the detector 'classical': no weights of sam2 are here")
    assert told(study()) == []


def test_commands_print_which_detectors_were_chosen_and_why(tiny_slide: Path, tmp_path: Path) -> None:
    """Whole lines: on a terminal the live view has no room for them."""
    study = tmp_path / "study.toml"
    study.write_text(f'[run]\noutput_dir = "run"\nslides = ["{tiny_slide}"]\n')
    for words in (
        ("segment", "--czi-path", tiny_slide, "--output-dir", tmp_path / "a", "--shard", "99/100"),
        ("slurm", "--config", study, "--out", tmp_path / "jobs"),
        ("plan", "--czi-path", tiny_slide),
    ):
        said = mkhspc(*words).stderr
        for cell_type, model in (("MK", "sam2"), ("HSPC", "cellpose")):
            assert f"mkhspc: {cell_type} by the detector 'classical': no weights of {model} are here" in said


def test_the_run_of_a_clusters_jobs_is_for_their_gpus_and_not_for_those_here(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mkhspc.models.choice.present", lambda model: ["sam2.1-large", "cpsam"])
    monkeypatch.setattr("mkhspc.models.choice.gpus_here", list)
    with pytest.raises(UsageError, match="there is no device 'cuda:0'"):
        open_run(study(compute__device="cuda"))
    with pytest.raises(InputError, match=r"^sam2\.1-large: the weights are not in"):  # so SAM2 was chosen
        open_run(study(compute__device="cuda"), jobs_gpus=2)
    _, manifest, _ = open_run(study(), jobs_gpus=0)
    assert manifest.detectors["mk"].startswith("classical: the weights of sam2 are here, but no GPU is")


def test_a_later_edit_of_what_decides_no_cell_is_taken(study: Study, tmp_path: Path) -> None:
    open_run(study('[gallery]\ntitle = "Tpyo"\nmax_site_mb = 50\n[slurm]\ncpus = 2'))
    text = (
        '[gallery]\ntitle = "Typo"\n[slurm]\npartition = "long"\n[compute]\nmemory_gb = 3\n'
        '[mk]\nclassifier = "mk.skops"\n[groups]\nTINY = {sex = "F"}'
    )
    _, manifest, _ = open_run(study(text))
    config = manifest.config
    assert (config.gallery.title, config.gallery.max_site_mb) == ("Typo", 50)
    assert (config.slurm.partition, config.slurm.cpus) == ("long", 2)
    assert config.compute.memory_gb == 3
    assert config.mk.classifier == str(tmp_path / "mk.skops")
    assert config.groups == {"TINY": {"sex": "F"}}


def test_a_later_command_that_says_nothing_changes_nothing(study: Study) -> None:
    layout, first, _ = open_run(study('[gallery]\norder = "area"\n[compute]\nnum_workers = 3'))
    before = layout.manifest.read_bytes()
    assert surprises(study()) == []
    assert layout.manifest.read_bytes() == before
    assert first.config.gallery.order == "area"


def test_a_setting_given_as_its_default_is_given(study: Study) -> None:
    open_run(study('[gallery]\norder = "area"'))
    _, manifest, _ = open_run(study('[gallery]\norder = "random"'))
    assert manifest.config.gallery.order == "random"


@pytest.mark.parametrize(
    ("first", "later", "words"),
    [
        (
            {"run__sample_fraction": 0.5},
            {"run__sample_fraction": 0.1},
            "50% of its tiles before and does them all, not 10% alone",
        ),
        ({}, {"run__sample_fraction": 0.1}, "100% of its tiles"),
        ({}, {"run__scenes": (0,)}, "all scenes"),
    ],
)
def test_a_command_that_asks_for_less_than_the_run_is_told_so(
    study: Study, first: dict[str, object], later: dict[str, object], words: str
) -> None:
    assert surprises(study(**first)) == []
    (line,) = surprises(study(**later))
    assert words in line
    assert "\n" not in line


def test_a_command_that_asks_for_more_is_told_nothing(study: Study) -> None:
    assert surprises(study(run__sample_fraction=0.1, run__scenes=(0,))) == []
    assert surprises(study()) == []


def test_other_versions_than_the_run_began_with_are_told(study: Study) -> None:
    layout, manifest, _ = open_run(study())
    old = {**manifest.versions, "numpy": "0.1", "pillow": "0.2"}
    put_manifest(layout, replace(manifest, versions=old))
    (line,) = surprises(study())
    assert "numpy 0.1 (here " in line
    assert "pillow" not in line, "only what can move a cell"


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("TINI", '[groups] names "TINI", which is no slide of this run; slides without groups: TINY'),
        ("TINY = {sex = 'F'}\nNONE", '[groups] names "NONE", which is no slide of this run'),
        ("TINY", None),
    ],
)
def test_groups_of_a_slide_that_the_run_has_not_are_told(
    study: Study, groups: str, words: str | None
) -> None:
    expected = [] if words is None else [words]
    assert surprises(study(f"[groups]\n{groups} = {{sex = 'F'}}")) == expected
    assert surprises(study("[groups]\nTINY = {sex = 'F'}")) == [], (
        "a name that was corrected is not held against it"
    )


def test_a_proposal_changes_nothing_until_it_is_taken(study: Study) -> None:
    config = study(run__sample_fraction=0.1)
    with proposed(config) as proposal:
        drafted = proposal.plan("TINY")
        assert not proposal.layout.root.exists()
        assert proposal.take() == proposal.manifest == manifests.read(proposal.layout)
    layout = proposal.layout
    assert load_tile_plan(layout, "TINY", proposal.manifest.config_hash).tiles == drafted.tiles
    before = layout.manifest.read_bytes()
    with proposed(study()) as larger:
        assert larger.plan("TINY").tiles == drafted.tiles
        assert larger.manifest.config.run.sample_fraction == 1.0
    assert layout.manifest.read_bytes() == before
    assert not proposal.drafts.root.exists()


def test_what_is_not_accepted_is_not_written(study: Study) -> None:
    def never(manifest: Manifest) -> None:
        raise InputError("no")

    config = study()
    with pytest.raises(InputError, match="no"):
        open_run(config, accept=never)
    assert not Path(config.run.output_dir).exists()
    layout, manifest, _ = open_run(study(run__sample_fraction=0.1))
    with pytest.raises(InputError, match="no"):
        open_run(config, accept=never)
    assert manifests.read(layout) == manifest


def test_a_run_of_another_revision_of_a_detector_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, manifest, _ = open_run(study())
    assert manifest.model_hashes["hspc"] == f"classical-{ClassicalHspc().revision}"
    changed = {"mk": ClassicalMk(), "hspc": ClassicalHspc(revision="next")}
    monkeypatch.setattr("mkhspc.run.settings.build_detectors", lambda names, stored, models, service: changed)
    with pytest.raises(
        InputError, match="the hspc detector is classical-1 there and classical-next here"
    ) as error:
        open_run(study())
    assert "the version of mkhspc" in error.value.fix
    assert manifests.read(layout) == manifest
