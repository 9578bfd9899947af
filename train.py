"""Train one configured network: `python train.py model=mobilenet_v2 freeze=features`."""

from cnnlab.cli.main import train

if __name__ == "__main__":
    train()
