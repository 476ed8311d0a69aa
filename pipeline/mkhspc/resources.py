"""Files that ship with the package: templates, styles and scripts of the pages it writes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from mkhspc.errors import InputError

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]
"""Where an editable install lies: the source tree, with `pipeline/mkhspc` in it."""


def resource_dir(name: str) -> Path:
    """The folder `site_templates` or `static`: inside an installed package, else beside it.

    A wheel carries both inside the package; an editable install finds them in the source tree.
    """
    for folder in (PACKAGE / name, REPOSITORY / name):
        if folder.is_dir():
            return folder
    raise InputError(f"the folder '{name}' of mkhspc is missing", where=PACKAGE, fix="reinstall mkhspc")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_dir("site_templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **context: Any) -> str:
    """Fills a template of `site_templates`; every value is escaped, a missing one is an error."""
    return _environment().get_template(template).render(**context)
