"""The files that every site carries, and the templates its pages are made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import pipeline
from pipeline.errors import MkhspcError

HASH_DIGITS = 10


def resource_directory(name: str) -> Path:
    """`static` or `site_templates`: inside an installed package, else beside it in the source tree.

    Raises:
        MkhspcError: it is in neither place.
    """
    package = Path(pipeline.__file__).resolve().parent
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise MkhspcError(f"the installation lacks '{name}'", where=package, fix="install mkhspc again")


def environment() -> Environment:
    """The one Jinja environment: everything is escaped, an unknown name is an error."""
    return Environment(
        loader=FileSystemLoader(resource_directory("site_templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def content_hash(*contents: bytes) -> str:
    """Ten hexadecimal digits that name these contents, in this order."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:HASH_DIGITS]


def write_app(assets: Path) -> str:
    """Copies scripts and styles below `assets`; returns the name of their directory.

    All lie in one directory named by the hash of them all, so that scripts can import each other
    by plain names while a changed one is never taken from a cache.
    """
    static = resource_directory("static")
    files = {path.name: path.read_bytes() for path in sorted(static.glob("*/*")) if path.is_file()}
    names = b"\0".join(name.encode() for name in files)
    directory = f"app-{content_hash(names, *files.values())}"
    (assets / directory).mkdir(parents=True)
    for name, content in files.items():
        (assets / directory / name).write_bytes(content)
    return directory
