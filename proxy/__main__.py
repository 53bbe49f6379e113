"""`python -m proxy`: the command `pypi-overlay`."""

from proxy.cli.main import main

main()
