"""mkhspc: megakaryocytes and stem/progenitor cells in whole-slide scans of bone marrow."""

__version__ = "0.1.0"

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
"""Read by pyarrow as it is first imported. Its own pools keep what was freed: 30 MB after a merge of tables
with a thousand deep columns, and what writes Parquet asks no other, whatever `set_memory_pool` was told."""
