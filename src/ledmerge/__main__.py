"""`python -m ledmerge`."""

from ledmerge.cli.app import main

main()
