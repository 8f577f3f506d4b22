"""python -m dripgate."""

from dripgate.cli import program

program()
