"""Fixtures that every test may use, and the rule that a required skip is a failure."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ("serverdoubles", "sitefixtures")


def pytest_configure() -> None:
    """Gives what the tests start the surroundings of a command typed at a terminal on an idle machine.

    A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that. And threads
    of torch that wait for one another spin, which takes a third more of the cores when others want them too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


MARK_OF_FIXTURE = {
    "chromium": "browser",
    "sam2_checkpoint": "models",
    "shared": "shared",
    "torch": "models",
}
"""What a test that asks for a fixture is marked as, so that `-m` can leave it out."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, and puts files with slow tests first.

    A file that takes minutes and comes last would leave all test processes but its own with nothing to do.
    """
    for item in items:
        for name in MARK_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARK_OF_FIXTURE[name])
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def skip_or_fail(variable: str, reason: str) -> None:
    """Skips a test, or fails it when `variable` says that what it needs must be there."""
    if os.environ.get(variable) == "1":
        pytest.fail(f"{reason}, and {variable}=1 is set")
    pytest.skip(reason)


def need(package: str) -> Any:
    """A package of the models, else the test, or at the top of a file all of them, is as `skip_or_fail`."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed"
    if os.environ.get("REQUIRE_MODELS") == "1":
        pytest.fail(f"{reason}, and REQUIRE_MODELS=1 is set")
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides beside the repository; tests that use it are marked `shared`."""
    path = ROOT.parent / "shared"
    if not (path / "data" / "marrow" / "marrow.czi").exists():
        skip_or_fail("REQUIRE_SHARED", "the real marrow slides are not beside the repository")
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium binary; tests that use it are marked `browser`."""
    for candidate in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"):
        if Path(candidate).exists():
            return candidate
    skip_or_fail("REQUIRE_BROWSER", "no Chromium found (Debian: apt-get install chromium)")
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def torch() -> Any:
    """The package; tests that use it, or `usefixtures` it for what they call, are marked `models`."""
    return need("torch")


@pytest.fixture(scope="session")
def small_slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small simulated slides by id, one of them with two scenes; `truth.parquet` lies beside them."""
    from mkhspc.simulate import SlideSpec, write_demo_slides

    folder = tmp_path_factory.mktemp("slides")
    specs = (
        SlideSpec("DEMO_A", "F", "GC", sizes_um=((260.0, 230.0),), origins=((-300, 5000),)),
        SlideSpec(
            "DEMO_B", "M", "HU", sizes_um=((200.0, 180.0), (190.0, 200.0)), origins=((0, 0), (1200, 90))
        ),
    )
    return {slide.slide_id: slide.path for slide in write_demo_slides(folder, seed=3, specs=specs)}


@pytest.fixture(scope="session")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest simulated slide on which both types of cells are found: a second's work."""
    from mkhspc.simulate import SlideSpec, write_demo_slides

    folder = tmp_path_factory.mktemp("tiny")
    spec = SlideSpec("TINY", "F", "GC", sizes_um=((140.0, 130.0),))
    (slide,) = write_demo_slides(folder, seed=3, specs=(spec,))
    return slide.path


@pytest.fixture(scope="session")
def wide_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated slide of more than four halos a side, so that no window of 1024 px sees much of it."""
    from mkhspc.simulate import SlideSpec, write_demo_slides

    folder = tmp_path_factory.mktemp("wide")
    spec = SlideSpec("DEMO_C", "F", "HU", sizes_um=((900.0, 800.0),))
    (slide,) = write_demo_slides(folder, seed=3, specs=(spec,))
    return slide.path


@pytest.fixture(scope="session")
def sam2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest SAM2.1 with random weights, in the official format: 156 MB."""
    import torch
    from sam2.build_sam import build_sam2

    torch.manual_seed(4)
    net = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save({"model": net.state_dict()}, path)
    return path
