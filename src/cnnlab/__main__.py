"""`python -m cnnlab VERB ...`."""

from cnnlab.cli.main import main

main()
