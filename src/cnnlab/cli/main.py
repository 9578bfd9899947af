"""The entry points `cnnlab` and `train.py`: run a verb, and turn its errors into messages and exit codes.

This module imports nothing heavy, so that help and errors on the command line appear immediately.
"""

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from cnnlab import __version__
from cnnlab.config.options import HELP, help_of
from cnnlab.errors import InputError
from cnnlab.system.faults import translate_error
from cnnlab.system.memory import keep_freed_memory

VERBS = {
    "train": "train a network: cnnlab train model=mobilenet_v2 freeze=features",
    "check": "try a run for a few steps, and estimate time and memory: cnnlab check model=vgg16 freeze=features",
    "evaluate": "score a run, or pretrained weights, and write a report: cnnlab evaluate run=outputs/...",
    "predict": "predict what is in pictures: cnnlab predict run=outputs/... images=photos/",
    "compare": "compare the settings of a sweep, with tests of significance: cnnlab compare outputs/...",
    "ls": "list runs: cnnlab ls outputs sort=metric",
    "diff": "show what differs between two runs: cnnlab diff RUN RUN",
    "visualize": "draw what a network learned: cnnlab visualize run=outputs/... what=features layer=0",
    "cache": "list or remove cached features and images: cnnlab cache ls, cnnlab cache rm unused_days=30",
    "play": "play Go over GTP, the protocol of Sabaki and GoGui: cnnlab play run=outputs/...",
}
EXIT_CODES = "0 finished, 1 a bug, 2 wrong input or config, 3 data or file trouble, 4 diverged, 130 interrupted"
DEBUG = "CNNLAB_DEBUG"
"""The environment variable that adds the traceback to an error's message."""


def main() -> None:
    """Entry point of `cnnlab`."""
    prepare_process()
    verb, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if verb in HELP:
        print(usage())
    elif verb == "--version":
        print(f"cnnlab {__version__}")
    elif verb not in VERBS:
        sys.exit(complain(InputError(f"Unknown verb {verb!r}. Available: {', '.join(VERBS)}.")))
    elif verb == "train":
        train(arguments)
    else:
        run_verb(verb, arguments)


def prepare_process() -> None:
    """Set what holds for the whole process of a command."""
    keep_freed_memory()
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # data.decoding refuses such pictures
    # Of joblib, where /dev/shm is read-only; a sweep that would use it says so itself.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")


def usage() -> str:
    """Return the help of `cnnlab` itself."""
    verbs = "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
    return (
        f"usage: cnnlab VERB key=value ...\n\n{verbs}\n\ncnnlab VERB --help lists the keys of a verb.\n"
        f"exit codes: {EXIT_CODES}\n{DEBUG}=1 in the environment adds the traceback to an error's message."
    )


def run_verb(verb: str, arguments: Sequence[str]) -> None:
    """Run a verb other than `train`, or print its help; on an error, exit with its code."""
    module = importlib.import_module(f"cnnlab.cli.{verb}")
    try:
        if any(argument in HELP for argument in arguments):
            print(module.help_text(arguments) if hasattr(module, "help_text") else help_of(module.Options, verb))
        else:
            module.main(list(arguments))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(complain(error))


def train(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `train.py` and `cnnlab train`: one run or, with `-m`, one for each combination of values.

    arguments: those after `cnnlab train`; None: those of `train.py`, from sys.argv.
    """
    from cnnlab.cli.train import start

    prepare_process()
    program = sys.argv[:1] if arguments is None else sys.argv[:2]
    try:
        sys.exit(start(program, list(sys.argv[1:] if arguments is None else arguments)))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(complain(error))


def complain(error: Exception) -> int:
    """Print an error on stderr and return its exit code; raise one that is a bug."""
    if isinstance(error, BrokenPipeError):  # the reader has closed the pipe: cnnlab cache ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if DEBUG in os.environ:
        traceback.print_exception(error)
    if (own := translate_error(error)) is None:
        raise error
    print(f"Error: {own}", file=sys.stderr)
    return own.exit_code
