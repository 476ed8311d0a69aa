"""`mkhspc doctor`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import click

from mkhspc import __version__
from mkhspc.cli.options import json_option, print_json
from mkhspc.errors import CheckFailedError
from mkhspc.units import GB

MODELS = ("torch", "torchvision", "sam2", "cellpose")
TOOLS = {
    "git": "needed by `mkhspc publish`; Debian: apt-get install git",
    "chromium": "needed by the tests of the gallery; Debian: apt-get install chromium",
    "node": "needed by the tests of the gallery; Debian: apt-get install nodejs",
    "sbatch": "needed on a cluster; Debian: apt-get install slurm-client",
}

WEIGHT_STATES = {"missing": "not here", "package": "here, in its package", "partial": "not here as a whole"}


@click.command(short_help="What is installed here and what is missing.")
@json_option
def doctor(as_json: bool) -> None:
    """What is installed here and what is missing. Exit code 1 if a needed library is missing.

    \b
    Example:
      mkhspc doctor
    """
    from mkhspc.models.weights.cache import models_dir, stored
    from mkhspc.models.weights.catalogue import CATALOGUE
    from mkhspc.process.limits import memory_limit, usable_cores

    libraries = {name: _version(name) for name in _required()}
    models = {name: _version(name) if importlib.util.find_spec(name) else None for name in MODELS}
    facts = {
        "mkhspc": __version__,
        "python": platform.python_version(),
        "cores": usable_cores(),
        "memory_gb": round(memory_limit().limit_bytes / GB, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / GB, 1),
        "libraries": libraries,
        "models": models,
        "gpus": _gpus() if models["torch"] else {},
        "weights_dir": str(models_dir()),
        "weights": {name: stored(weight, models_dir()).state for name, weight in CATALOGUE.items()},
        "tools": {name: shutil.which(name) for name in TOOLS},
    }
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    if not as_json and None in models.values():
        click.echo("the classical detectors need no model; docs/models.md says how to install the others")
    missing = [name for name, found in libraries.items() if found is None]
    if missing:
        raise CheckFailedError(
            f"missing: {', '.join(missing)}", fix="reinstall: pip install --force-reinstall mkhspc"
        )


def _gpus() -> dict[str, str]:
    """The GPUs by the names that --device takes, or why torch cannot list them."""
    from mkhspc.errors import UsageError
    from mkhspc.models.device import find_gpus

    try:
        found = find_gpus()
    except UsageError as error:
        return {"unknown": error.what}
    return {
        f"cuda:{number}": f"{gpu.name}, {gpu.memory_bytes / GB:.0f} GB, {gpu.precision}"
        for number, gpu in enumerate(found)
    }


def _required() -> list[str]:
    lines = distribution("mkhspc").requires or []
    names = [line.split(";")[0] for line in lines if "extra ==" not in line]
    return sorted(name.split(">")[0].split("=")[0].strip() for name in names)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _print(facts: dict[str, object]) -> None:
    for name, found in facts.items():
        if not isinstance(found, dict):
            click.echo(f"{name:>12}  {found}")
            continue
        click.echo(f"{name:>12}{'' if found else '  none'}")
        for item, state in found.items():
            hint = f" ({TOOLS[item]})" if state is None and item in TOOLS else ""
            click.echo(f"{'':>12}  {item} {WEIGHT_STATES.get(str(state), state) or 'not here'}{hint}")
