"""What a run is asked to do: a TOML file and command-line options, resolved once.

`RunConfig` is frozen. It is resolved when a run is created, written to the run's manifest with the
hash of its *identity* (the settings that decide which cells there are), and read from there by
every later stage.

    schema.py    the settings, defaults and limits    typed.py     plain values -> dataclasses
    reading.py   TOML, options, manifest <-> config   limits.py    ranges of numbers, in words
    identity.py  what decides which cells there are   checks.py    settings that depend on each other
"""

from mkhspc.config.checks import check, check_filter, check_um_per_px
from mkhspc.config.identity import config_hash, differences, identity
from mkhspc.config.limits import Limit, either
from mkhspc.config.reading import from_dict, load_config, to_dict, with_free_settings, with_options
from mkhspc.config.schema import (
    CELL_TYPES,
    DETECTORS,
    EMBEDDERS,
    NO_EMBEDDER,
    ORDERS,
    UM_PER_PX,
    CellRange,
    CellSection,
    CellType,
    ComputeSection,
    GallerySection,
    Order,
    RunConfig,
    RunSection,
    SlurmSection,
)

__all__ = [
    "CELL_TYPES",
    "DETECTORS",
    "EMBEDDERS",
    "NO_EMBEDDER",
    "ORDERS",
    "UM_PER_PX",
    "CellRange",
    "CellSection",
    "CellType",
    "ComputeSection",
    "GallerySection",
    "Limit",
    "Order",
    "RunConfig",
    "RunSection",
    "SlurmSection",
    "check",
    "check_filter",
    "check_um_per_px",
    "config_hash",
    "differences",
    "either",
    "from_dict",
    "identity",
    "load_config",
    "to_dict",
    "with_free_settings",
    "with_options",
]
