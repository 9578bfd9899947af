"""Go for networks: rules, AlphaGo's 48 feature planes, SGF records and the GTP protocol; knows nothing of torch."""

NEEDS_EXTRA = "Go needs packages that are not installed: pip install 'cnnlab[go]'"
