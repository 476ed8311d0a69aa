"""`python -P -m mkhspc` is `mkhspc`."""

from mkhspc.cli import main

main()
