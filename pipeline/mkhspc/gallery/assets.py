"""The files that every site carries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mkhspc.resources import resource_dir

HASH_DIGITS = 10
"""Hexadecimal digits of a hash in a file's name."""


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
    static = resource_dir("static")
    files = {path.name: path.read_bytes() for path in sorted(static.glob("*/*")) if path.is_file()}
    names = b"\0".join(name.encode() for name in files)
    directory = f"app-{content_hash(names, *files.values())}"
    (assets / directory).mkdir(parents=True)
    for name, content in files.items():
        (assets / directory / name).write_bytes(content)
    return directory
