"""`python -m vcloud`."""

from vcloud.cli.app import main

main()
