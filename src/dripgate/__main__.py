"""python -m dripgate."""

from dripgate.cli import main

main()
