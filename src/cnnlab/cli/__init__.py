"""The command line: `python train.py ...` and `cnnlab VERB ...`."""
