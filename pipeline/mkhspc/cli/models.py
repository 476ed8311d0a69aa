"""`mkhspc models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli import progress
from mkhspc.cli.options import command_line, json_option, print_json
from mkhspc.errors import CheckFailedError, UsageError
from mkhspc.units import MB

if TYPE_CHECKING:
    from mkhspc.models.weights.cache import Stored, Verdict
    from mkhspc.models.weights.catalogue import Weight

STATES = {
    "here": "here",
    "package": "here, in a Python package",
    "partial": "in part; fetch goes on",
    "damaged": "damaged: another size",
    "missing": "-",
}
"""States of a weight, as they are shown."""


@click.group(no_args_is_help=False, short_help="Weights of SAM2, Cellpose and the embedders.")
def models() -> None:
    """Weights of SAM2, Cellpose and the embedders: what there is, where it lies, and getting it.

    They lie in one directory, $MKHSPC_MODELS or else ~/.cache/mkhspc/models, which can be
    copied to a cluster without internet. Nothing else in mkhspc ever downloads weights.

    \b
    Examples:
      mkhspc models list
      mkhspc models fetch sam2.1-large cpsam
      mkhspc models verify
    """


@models.command("list", short_help="Every file of weights: size, licence, GPU, and whether it is here.")
@json_option
def list_(as_json: bool) -> None:
    """Every file of weights: what for, size, licence, advised GPU memory, and whether it is here.

    Looks at names and sizes only; `verify` reads the files.

    \b
    Example:
      mkhspc models list
    """
    from mkhspc.models.weights.cache import models_dir, stored
    from mkhspc.models.weights.catalogue import CATALOGUE

    directory = models_dir()
    found = {weight: stored(weight, directory) for weight in CATALOGUE.values()}
    if as_json:
        weights = [_facts(weight, state) for weight, state in found.items()]
        print_json({"directory": str(directory), "weights": weights})
        return
    click.echo(f"{'name':<20}{'for':<10}{'MB':>6}  {'GPU':>5}  {'licence':<14}state")
    for weight, state in found.items():
        click.echo(
            f"{weight.name:<20}{weight.use:<10}{weight.size_bytes / MB:>6,.0f}  "
            f"{weight.gpu_memory_gb:>2} GB  {weight.licence:<14}{STATES[state.state]}"
        )
    click.echo(f"in {directory}", err=True)


def _facts(weight: Weight, state: Stored) -> dict[str, Any]:
    return {
        "name": weight.name,
        "for": weight.use,
        "state": state.state,
        "path": None if state.path is None else str(state.path),
        "present_bytes": state.present_bytes,
        "file_name": weight.file_name,
        "size_bytes": weight.size_bytes,
        "sha256": weight.sha256,
        "url": weight.download.url,
        "licence": weight.licence,
        "gpu_memory_gb": weight.gpu_memory_gb,
    }


@models.command(short_help="Download weights into the cache directory.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@click.option("--url", help="Take the one weight from this address instead of its publisher's.")
@click.option("--mirror", metavar="URL", help="A server that holds the files of a cache directory.")
@click.option(
    "--offline",
    is_flag=True,
    envvar="MKHSPC_OFFLINE",
    help="Never try the network; say what is missing. Also MKHSPC_OFFLINE=1.",
)
@json_option
def fetch(names: tuple[str, ...], url: str | None, mirror: str | None, offline: bool, as_json: bool) -> None:
    """Download weights into the cache directory.

    Type the same command again to go on after a break: what has come is kept. A file gets its
    name only when size and SHA-256 are the published ones, wherever it came from. For a
    machine without internet, fetch elsewhere and copy the directory.

    \b
    Examples:
      mkhspc models fetch efficientnet-lite0
      mkhspc models fetch sam2.1-large cpsam resnet50
      mkhspc models fetch all --mirror http://mirror.lab/weights
      MKHSPC_MODELS=/scratch/weights mkhspc models fetch cpsam
    """
    from mkhspc.models.weights.cache import models_dir
    from mkhspc.models.weights.catalogue import named
    from mkhspc.models.weights.fetch import fetch as fetch_weight

    weights = named(names)
    if url is not None and (mirror is not None or len(weights) != 1):
        raise UsageError(
            "--url is the address of one file, and several were named",
            fix="name one file, or give --mirror for several",
        )
    files = []
    with progress.shown() as show:
        for weight in weights:
            source = weight.from_url(url) if url else weight.from_mirror(mirror) if mirror else None
            files.append(fetch_weight(weight, models_dir(), source, offline=offline, progress=show))
    if as_json:
        print_json([{"name": f.name, "path": str(f.path), "sha256": f.sha256} for f in files])
    else:
        for file in files:
            click.echo(f"{file.name}  {file.path}  sha256 {file.sha256}")


@models.command(short_help="Read weights from end to end and compare them with the published SHA-256.")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Read weights from end to end and compare them with the published SHA-256.

    Without a NAME, all that are here. Exit code 1 if one is damaged, or a named one is missing.
    Worth its minute after copying the directory to another machine.

    \b
    Examples:
      mkhspc models verify
      mkhspc models verify sam2.1-large cpsam --json
    """
    from mkhspc.models.weights.cache import models_dir, stored
    from mkhspc.models.weights.catalogue import CATALOGUE, named

    directory = models_dir()
    found = {weight: stored(weight, directory) for weight in named(names or CATALOGUE)}
    if not names:
        found = {
            weight: state for weight, state in found.items() if state.state not in ("missing", "partial")
        }
    if not found:
        raise CheckFailedError("no weights are here", where=directory, fix="see `mkhspc models list`")
    verdicts = _verdicts(found)
    if as_json:
        print_json([{**_facts(w, found[w]), "verdict": verdict} for w, verdict in verdicts.items()])
    else:
        for weight, verdict in verdicts.items():
            click.echo(f"{weight.name:<20}{verdict:<9}{found[weight].path or '-'}")
    wrong = [weight.name for weight, verdict in verdicts.items() if verdict != "right"]
    if wrong:
        raise CheckFailedError(
            f"{len(wrong)} of {len(verdicts)} are not the published files: {', '.join(wrong)}",
            fix=command_line("models", "fetch", *wrong),
        )


def _verdicts(found: dict[Weight, Stored]) -> dict[Weight, Verdict]:
    from mkhspc.models.weights.cache import verdict

    verdicts = {}
    with progress.shown() as show:
        for done, (weight, state) in enumerate(found.items()):
            show("verify", done, len(found), weight=weight.name)
            verdicts[weight] = verdict(weight, state)
        show("verify", len(found), len(found))
    return verdicts
