"""Opening a run again: what a later command may change, and what it says of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mkhspc.config import RunConfig, load_config
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.errors import InputError, UsageError
from mkhspc.run.opening.pending import pending_run
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.store import manifest as manifests
from processes import mkhspc
from runs import committed, files_of, put_manifest

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


def lines_of(config: RunConfig) -> list[str]:
    """What a command says of a run that is not what it asked for; of a new one, what was chosen, too."""
    with pending_run(config) as pending:
        pending.commit()
        return pending.notices() + pending.choices()


def surprises(config: RunConfig) -> list[str]:
    return [line for line in lines_of(config) if " by the detector '" not in line]


def test_which_detectors_were_chosen_and_why_is_known_when_a_run_begins(study: Study) -> None:
    (line,) = lines_of(study(hspc__detector="classical"))
    assert line.startswith("MK by the detector 'classical': no weights of sam2 are here")
    assert lines_of(study()) == []


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
        committed(study(compute__device="cuda"))
    with pytest.raises(InputError, match=r"^sam2\.1-large: the weights are not in"):  # so SAM2 was chosen
        committed(study(compute__device="cuda"), jobs_gpus=2)
    _, manifest, _ = committed(study(), jobs_gpus=0)
    assert manifest.detectors["mk"].startswith("classical: the weights of sam2 are here, but no GPU is")


def test_a_later_edit_of_what_decides_no_cell_is_taken(study: Study, tmp_path: Path) -> None:
    committed(study('[gallery]\ntitle = "Tpyo"\nmax_site_mb = 50\n[slurm]\ncpus = 2'))
    text = (
        '[gallery]\ntitle = "Typo"\n[slurm]\npartition = "long"\n[compute]\nmemory_gb = 3\n'
        '[mk]\nclassifier = "mk.skops"\n[groups]\nTINY = {sex = "F"}'
    )
    _, manifest, _ = committed(study(text))
    config = manifest.config
    assert (config.gallery.title, config.gallery.max_site_mb) == ("Typo", 50)
    assert (config.slurm.partition, config.slurm.cpus) == ("long", 2)
    assert config.compute.memory_gb == 3
    assert config.mk.classifier == str(tmp_path / "mk.skops")
    assert config.groups == {"TINY": {"sex": "F"}}


def test_a_later_command_that_says_nothing_changes_nothing(study: Study) -> None:
    layout, first, _ = committed(study('[gallery]\norder = "area"\n[compute]\nnum_workers = 3'))
    before = layout.manifest.read_bytes()
    assert surprises(study()) == []
    assert layout.manifest.read_bytes() == before
    assert first.config.gallery.order == "area"


def test_a_setting_given_as_its_default_is_given(study: Study) -> None:
    committed(study('[gallery]\norder = "area"'))
    _, manifest, _ = committed(study('[gallery]\norder = "random"'))
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
def test_a_command_that_asks_for_less_than_the_run_says_so(
    study: Study, first: dict[str, object], later: dict[str, object], words: str
) -> None:
    assert surprises(study(**first)) == []
    (line,) = surprises(study(**later))
    assert words in line
    assert "\n" not in line


def test_a_command_that_asks_for_more_says_nothing(study: Study) -> None:
    assert surprises(study(run__sample_fraction=0.1, run__scenes=(0,))) == []
    assert surprises(study()) == []


def test_a_run_of_before_imagecodecs_gives_no_notice(study: Study) -> None:
    layout, manifest, _ = committed(study())
    old = {
        **manifest.versions,
        "reader": "zstd by pyarrow, JPEG-XR by pylibCZIrw, reduced levels by aicspylibczi",
    }
    del old["imagecodecs"]
    put_manifest(layout, replace(manifest, versions=old))
    with pending_run(study()) as pending:
        assert pending.notices() == []


def test_other_versions_than_the_run_began_with_are_lines_of(study: Study) -> None:
    layout, manifest, _ = committed(study())
    old = {**manifest.versions, "numpy": "0.1", "pillow": "0.2"}
    put_manifest(layout, replace(manifest, versions=old))
    (line,) = surprises(study())
    assert "numpy 0.1 (here " in line
    assert "pillow" not in line, "only what can move a cell"


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("TINI", '[groups] names "TINI", but the run has no such slide; slides without groups: TINY'),
        ("TINY = {sex = 'F'}\nNONE", '[groups] names "NONE", but the run has no such slide'),
        ("TINY", None),
    ],
)
def test_groups_of_a_slide_that_the_run_has_not_are_named(
    study: Study, groups: str, words: str | None
) -> None:
    expected = [] if words is None else [words]
    assert surprises(study(f"[groups]\n{groups} = {{sex = 'F'}}")) == expected
    assert surprises(study("[groups]\nTINY = {sex = 'F'}")) == [], (
        "a name that was corrected is not held against it"
    )


def test_a_pending_run_changes_nothing_until_it_is_committed(study: Study) -> None:
    config = study(run__sample_fraction=0.1)
    with pending_run(config) as pending:
        drafted = pending.tile_plan("TINY")
        assert not pending.layout.root.exists()
        assert pending.commit() == pending.manifest == manifests.read(pending.layout)
    layout = pending.layout
    assert load_tile_plan(layout, "TINY", pending.manifest.config_hash).tiles == drafted.tiles
    before = layout.manifest.read_bytes()
    with pending_run(study()) as larger:
        assert larger.tile_plan("TINY").tiles == drafted.tiles
        assert larger.manifest.config.run.sample_fraction == 1.0
    assert layout.manifest.read_bytes() == before
    assert not pending.scratch.root.exists()


def test_a_run_that_is_opened_and_given_up_is_not_written(study: Study) -> None:
    config = study()
    with pending_run(config) as pending:
        pending.tile_plan("TINY")
    assert not Path(config.run.output_dir).exists()
    layout, manifest, _ = committed(study(run__sample_fraction=0.1))
    with pending_run(config) as pending:
        assert pending.manifest != manifest
    assert manifests.read(layout) == manifest


def test_a_commit_keeps_what_another_process_asked_for_meanwhile(study: Study) -> None:
    with pending_run(study(run__sample_fraction=0.1)) as pending, pending_run(study()) as other:
        other.commit()
        manifest = pending.commit()
    assert manifest.config.run.sample_fraction == 1.0
    with pending_run(study('[gallery]\ntitle = "ours"')) as pending:
        committed(study('[slurm]\npartition = "theirs"'))
        manifest = pending.commit()
    assert (manifest.config.gallery.title, manifest.config.slurm.partition) == ("ours", "theirs")
    assert manifests.read(pending.layout) == manifest


def test_a_commit_of_a_run_that_names_an_unfit_classifier_meanwhile_is_refused(
    study: Study, tmp_path: Path
) -> None:
    with pending_run(study(run__sample_fraction=0.1)) as pending:
        layout, _, _ = committed(study('[mk]\nclassifier = "gone.skops"', run__sample_fraction=0.05))
        before = files_of(layout.root)
        with pytest.raises(InputError, match=r"gone\.skops"):
            pending.commit()
    assert files_of(layout.root) == before


def test_a_commit_is_refused_when_another_process_created_another_run_meanwhile(study: Study) -> None:
    with pending_run(study(run__seed=1)) as pending:
        layout, theirs, _ = committed(study(run__seed=2))
        with pytest.raises(InputError, match="--seed is 2 there and 1 here"):
            pending.commit()
    assert manifests.read(layout) == theirs


def test_a_run_of_another_revision_of_a_detector_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, manifest, _ = committed(study())
    assert manifest.model_hashes["hspc"] == f"classical-{ClassicalHspc().revision}"
    changed = {"mk": ClassicalMk(), "hspc": ClassicalHspc(revision="next")}
    monkeypatch.setattr(
        "mkhspc.run.opening.settings.build_detectors", lambda names, stored, models, service: changed
    )
    with pytest.raises(
        InputError, match="the hspc detector is classical-1 there and classical-next here"
    ) as error:
        committed(study())
    assert "the version of mkhspc" in error.value.fix
    assert manifests.read(layout) == manifest
