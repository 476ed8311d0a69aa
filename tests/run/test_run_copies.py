"""One scan under two names is refused, whatever makes it two; scans that only look alike are not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import skip_or_fail
from czifiles import Block, mosaic_blocks, noise, set_ids, substitute, write_czi
from mkhspc.cli import run_command
from mkhspc.config import RunConfig, load_config
from mkhspc.errors import InputError
from mkhspc.run.opening.pending import pending_run
from mkhspc.slide.czi.content import SAMPLED_BLOCKS, is_same
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.store import manifest as manifests
from runs import committed, put_manifest


def study(run: Path, *slides: Path) -> RunConfig:
    return load_config(None, {"run.output_dir": str(run), "run.slides": tuple(map(str, slides))})


def blank(count: int = 1) -> list[Block]:
    """Images of glass in a row, uncompressed by default: each is stored as the same bytes."""
    return [Block(np.full((20, 20, 3), 240, np.uint8), 20 * n, 0) for n in range(count)]


@pytest.fixture
def alpha(tmp_path: Path) -> Path:
    blocks = mosaic_blocks(noise(90, 120), (0, 0), 50, 10)
    return write_czi(tmp_path / "alpha.czi", blocks, name="alpha")


def copied(slide: Path, name: Path) -> None:
    shutil.copy(slide, name)


def hard_linked(slide: Path, name: Path) -> None:
    name.hardlink_to(slide)


def linked(slide: Path, name: Path) -> None:
    name.symlink_to(slide)


def linked_to_a_copy(slide: Path, name: Path) -> None:
    name.symlink_to(shutil.copy(slide, name.with_suffix(".bak")))


def with_another_id(slide: Path, name: Path) -> None:
    shutil.copy(slide, name)
    set_ids(name, 7)


def described_anew(slide: Path, name: Path) -> None:
    shutil.copy(slide, name)
    substitute(name, b"alpha", b"gamma")


DOUBLES = [copied, hard_linked, linked, linked_to_a_copy, with_another_id, described_anew]


class TestRefused:
    @pytest.mark.parametrize("double", DOUBLES)
    def test_in_one_command(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        alpha: Path,
        double: Callable[[Path, Path], None],
    ) -> None:
        double(alpha, tmp_path / "beta.czi")
        slides = [word for name in (alpha, tmp_path / "beta.czi") for word in ("--czi-path", str(name))]
        for command in (["segment", *slides, "--output-dir", str(tmp_path / "run")], ["plan", *slides]):
            assert run_command(command) == 3
            message = capsys.readouterr().err
            assert "alpha.czi" in message
            assert "beta.czi" in message or (double is linked_to_a_copy and "beta" in message)
            assert message.endswith("give it once: its cells would count twice\n")
            assert len(message.splitlines()) == 2
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("double", DOUBLES)
    def test_in_a_later_command_that_adds_it(
        self, tmp_path: Path, alpha: Path, double: Callable[[Path, Path], None]
    ) -> None:
        layout, manifest, _ = committed(study(tmp_path / "run", alpha))
        double(alpha, tmp_path / "beta.czi")
        for slides in ([tmp_path / "beta.czi"], [alpha, tmp_path / "beta.czi"]):
            with pytest.raises(InputError, match=r"alpha.*beta") as refused:
                committed(study(tmp_path / "run", *slides))
            assert refused.value.fix == "give it once: its cells would count twice"
        assert manifests.read(layout) == manifest

    def test_the_words_name_both_slides_and_both_files(self, tmp_path: Path, alpha: Path) -> None:
        beta = Path(shutil.copy(alpha, tmp_path / "beta.czi"))
        with pytest.raises(InputError) as refused:
            committed(study(tmp_path / "run", alpha, beta))
        assert refused.value.what == (
            f"the slides 'alpha' and 'beta' are one scan: {alpha} and {beta} hold the same images"
        )

    def test_through_a_bind_mount(self, tmp_path: Path, alpha: Path) -> None:
        committed(study(tmp_path / "run", alpha))
        with bound(alpha, tmp_path / "beta.czi") as beta, pytest.raises(InputError, match="are one scan"):
            committed(study(tmp_path / "run", beta))

    def test_when_the_slide_of_the_run_is_no_longer_there(self, tmp_path: Path, alpha: Path) -> None:
        committed(study(tmp_path / "run", alpha))
        beta = alpha.rename(tmp_path / "beta.czi")
        with pytest.raises(InputError, match="'alpha' and 'beta' are one scan"):
            committed(study(tmp_path / "run", beta))

    def test_when_another_process_added_it_meanwhile(self, tmp_path: Path, alpha: Path) -> None:
        other = write_czi(tmp_path / "other.czi", [Block(noise(9, 9), 0, 0)])
        beta = Path(shutil.copy(alpha, tmp_path / "beta.czi"))
        committed(study(tmp_path / "run", other))
        with pending_run(study(tmp_path / "run", alpha)) as pending:
            committed(study(tmp_path / "run", beta))
            with pytest.raises(InputError, match="'beta' and 'alpha' are one scan"):
                pending.commit()


class TestNotRefused:
    @pytest.mark.parametrize("compression", [None, "zstd1:ExplicitLevel=1"])
    def test_two_scans_of_a_program_that_writes_one_id(self, tmp_path: Path, compression: str | None) -> None:
        """Uncompressed they differ in nothing but pixels: neither in size nor in their directories."""
        slides = []
        for seed, name in enumerate(("alpha", "omega")):
            blocks = mosaic_blocks(noise(90, 120, seed), (0, 0), 50, 10)
            slides.append(write_czi(tmp_path / f"{name}.czi", blocks, compression=compression, name="one"))
            set_ids(slides[-1], 7)
        if compression is None:
            fingerprints = set()
            for path in slides:
                with CziSlide.open(path) as slide:
                    fingerprints.add((slide.info.fingerprint, slide.info.size_bytes))
            assert len(fingerprints) == 1
        _, manifest, _ = committed(study(tmp_path / "run", *slides))
        assert [slide.slide_id for slide in manifest.slides] == ["alpha", "omega"]
        third = write_czi(
            tmp_path / "third.czi", mosaic_blocks(noise(90, 120, 3), (0, 0), 50, 10), name="one"
        )
        set_ids(third, 7)
        _, manifest, _ = committed(study(tmp_path / "run", third))
        assert len(manifest.slides) == 3

    @pytest.mark.parametrize("nth", [0, 1, 57, 99])
    def test_scans_of_glass_that_differ_in_one_image_of_many(self, tmp_path: Path, nth: int) -> None:
        """Whichever image it is: those that stand for the file may all be glass."""
        slides = []
        for name, pixels in (("alpha", blank()[0].pixels), ("omega", noise(20, 20))):
            blocks = blank(100)
            assert len(blocks) > 2 * SAMPLED_BLOCKS
            blocks[nth] = replace(blocks[nth], pixels=pixels)
            slides.append(write_czi(tmp_path / f"{name}.czi", blocks))
        _, manifest, _ = committed(study(tmp_path / "run", *slides))
        assert len(manifest.slides) == 2
        assert not is_same(*slides)

    def test_a_scan_and_its_copy_with_more_images(self, tmp_path: Path) -> None:
        slides = [write_czi(tmp_path / f"{n}.czi", blank(n)) for n in (3, 4)]
        _, manifest, _ = committed(study(tmp_path / "run", *slides))
        assert len(manifest.slides) == 2
        assert not is_same(*slides)

    def test_the_slide_of_a_run_from_another_place(self, tmp_path: Path, alpha: Path) -> None:
        committed(study(tmp_path / "run", alpha))
        (tmp_path / "moved").mkdir()
        moved = Path(shutil.copy(alpha, tmp_path / "moved" / "alpha.czi"))
        _, manifest, _ = committed(study(tmp_path / "run", moved))
        assert [slide.path for slide in manifest.slides] == [str(moved)]


class TestRunsOfBefore:
    """Their manifests hold fingerprints, but neither contents nor channels."""

    @pytest.fixture
    def old(self, tmp_path: Path, alpha: Path) -> Path:
        layout, manifest, _ = committed(study(tmp_path / "run", alpha))
        put_manifest(layout, replace(manifest, slides=tuple(map(as_before, manifest.slides))))
        assert '"content"' not in layout.manifest.read_text()
        assert '"channel"' not in layout.manifest.read_text()
        return layout.root

    def test_they_open_and_their_manifest_stays_as_it_is(self, old: Path, alpha: Path) -> None:
        before = (old / "manifest.json").read_bytes()
        with pending_run(study(old, alpha)) as pending:
            pending.commit()
            assert pending.notices() == []
        assert (old / "manifest.json").read_bytes() == before

    @pytest.mark.parametrize("double", [copied, hard_linked, linked, linked_to_a_copy])
    def test_a_copy_is_refused(
        self, tmp_path: Path, old: Path, alpha: Path, double: Callable[[Path, Path], None]
    ) -> None:
        double(alpha, tmp_path / "beta.czi")
        with pytest.raises(InputError, match="'alpha' and 'beta' are one scan"):
            committed(study(old, tmp_path / "beta.czi"))

    def test_another_scan_is_taken(self, tmp_path: Path, old: Path) -> None:
        other = write_czi(tmp_path / "other.czi", [Block(noise(9, 9), 0, 0)])
        _, manifest, _ = committed(study(old, other))
        assert [slide.content is None for slide in manifest.slides] == [True, False]

    def test_one_that_took_a_scan_twice_goes_on_and_is_reported(
        self, tmp_path: Path, old: Path, alpha: Path
    ) -> None:
        manifest = manifests.read(layout := committed(study(old, alpha))[0])
        twin = replace(manifest.slides[0], slide_id="twin", path=str(tmp_path / "twin.czi"), code="S02")
        put_manifest(layout, replace(manifest, slides=(*manifest.slides, twin)))
        with pending_run(study(old, alpha)) as pending:
            (line,) = pending.notices()
        assert line.startswith("the slides 'alpha' and 'twin' of the run are one scan and count as two")


def as_before(slide: manifests.SlideEntry) -> manifests.SlideEntry:
    scenes = tuple(replace(scene, channel=None, channel_name=None) for scene in slide.scenes)
    return replace(slide, scenes=scenes, content=None)


@contextmanager
def bound(file: Path, place: Path) -> Iterator[Path]:
    """The file under another name, by a bind mount."""
    if os.geteuid() != 0:
        skip_or_fail("REQUIRE_SLURM", "only root can mount a file system")
    place.touch()
    subprocess.run(["mount", "--bind", file, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
