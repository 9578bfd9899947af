"""GNU Go over pipes. Debian keeps its binary off the PATH."""

import shutil
import subprocess

import pytest

GNUGO = shutil.which("gnugo") or shutil.which("gnugo", path="/usr/games")
needs_gnugo = pytest.mark.skipif(GNUGO is None, reason="GNU Go is not installed (apt-get install gnugo)")


def ask(commands, *options):
    """The replies of one GNU Go process to many commands, all of which succeed."""
    done = subprocess.run(
        [GNUGO, "--mode", "gtp", *options],
        input="\n".join([*commands, "quit", ""]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    replies = done.stdout.split("\n\n")[: len(commands)]
    assert all(reply.startswith("=") for reply in replies)
    return [reply[1:].strip() for reply in replies]


class Opponent:
    """A GNU Go process to play with."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [GNUGO, "--mode", "gtp", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate("quit\n", timeout=60)

    def __call__(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        lines = []
        while (line := self.process.stdout.readline().rstrip("\n")) or not lines:
            lines.append(line)
        assert lines[0].startswith("="), (command, lines)
        return "\n".join(lines)[1:].strip()
