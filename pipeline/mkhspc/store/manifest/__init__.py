"""The manifest: what a run was asked to do, resolved once and read by every later stage.

record.py      what it says         exclusions.py   what has left the study
revisions.py   read and change it   text.py         as JSON, and back
"""

from mkhspc.store.manifest.record import Manifest, SceneEntry, SlideEntry, blind_codes
from mkhspc.store.manifest.revisions import create, read, update
from mkhspc.store.manifest.text import checksum, dumps, loads

__all__ = [
    "Manifest",
    "SceneEntry",
    "SlideEntry",
    "blind_codes",
    "checksum",
    "create",
    "dumps",
    "loads",
    "read",
    "update",
]
