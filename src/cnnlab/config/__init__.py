"""Configs: compose them, check them before any work, and build objects from them.

Imports nothing heavy, so that `train.py --help` answers immediately.
"""

from cnnlab.config.checking import check, stored_problems
from cnnlab.config.composing import CONFIG_DIR, Config, compose, plain_config
from cnnlab.config.objects import TRUSTED_TARGETS, build, build_entries, locate, trusted_prefixes
from cnnlab.config.overrides import quote_path, quoted
from cnnlab.config.schema import TrainConfig

__all__ = [
    "CONFIG_DIR",
    "TRUSTED_TARGETS",
    "Config",
    "TrainConfig",
    "build",
    "build_entries",
    "check",
    "compose",
    "locate",
    "plain_config",
    "quote_path",
    "quoted",
    "stored_problems",
    "trusted_prefixes",
]
