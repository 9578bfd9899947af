"""Go for neural networks: rules, AlphaGo's 48 feature planes, SGF records and GTP; independent of torch."""

NEEDS_EXTRA = "Go needs packages that are not installed: pip install 'cnnlab[go]'"
