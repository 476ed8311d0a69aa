"""mkhspc: megakaryocytes and stem/progenitor cells in whole-slide scans of bone marrow."""

__version__ = "0.1.0"
