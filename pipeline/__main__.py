"""`python -m pipeline` is `mkhspc`."""

from pipeline.cli import main

main()
