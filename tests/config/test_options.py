"""The keys of a verb: what is typed becomes a dataclass, what is wrong is listed, and help says all of it."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from cnnlab.config.options import help_of, parse_options
from cnnlab.errors import InputError


@dataclass
class Options:
    """Do something with a run.

    What it does takes two paragraphs.

    Example: cnnlab do run=outputs/x count=3

    run: run folder.
    count: how many times, which is said in a text that is so long that it does not fit into one line of the
    terminal.
    share: a part.
    packages: of your own.
    """

    run: str = MISSING
    count: int = 3
    share: float | None = None
    packages: list[str] = field(default_factory=list)
    quiet: bool = False


@dataclass
class Nothing:
    """Has no keys."""


def test_values_have_the_types_of_the_dataclass():
    found = parse_options(["run=a=b c", "count=4", "share=0.5", "packages=[x, y]", "quiet=true"], Options, "do")
    assert found == Options("a=b c", 4, 0.5, ["x", "y"], True)
    assert parse_options(["run=2024", "share=null"], Options, "do") == Options("2024")


def test_everything_wrong_is_listed():
    with pytest.raises(InputError) as error:
        parse_options(["cuont=1", "count=x", "share=much", "quiet=maybe", "word"], Options, "do")
    assert str(error.value).splitlines() == [
        "cnnlab do:",
        "  - Unknown key cuont of do. Did you mean count?",
        "  - count=x is not of type int.",
        "  - share=much is not of type float | None.",
        "  - quiet=maybe is not of type bool.",
        "  - 'word' is not of the form key=value.",
        "  - run=... is required.",
    ]


@pytest.mark.parametrize("text", ["packages=x", "packages=[x", "packages={a: 1}", "count=" + "9" * 5000, "run=${x}"])
def test_value_that_no_type_takes_is_an_input_error(text):
    with pytest.raises(InputError, match=text.split("=")[0] + r"=|x"):
        parse_options(["run=a", text], Options, "do")


def test_help_has_description_keys_and_example():
    assert help_of(Options, "do").splitlines() == [
        "usage: cnnlab do key=value ...",
        "",
        "Do something with a run.",
        "",
        "What it does takes two paragraphs.",
        "",
        "  run=...      run folder (str)",
        "  count=3      how many times, which is said in a text that is so long that it does not fit into one",
        "               line of the terminal (int)",
        "  share=null   a part (float | None)",
        "  packages=[]  of your own (list[str])",
        "  quiet=false  (bool)",
        "",
        "example:",
        "  cnnlab do run=outputs/x count=3",
    ]
    assert help_of(Nothing, "do") == "usage: cnnlab do key=value ...\n\nHas no keys."


def test_help_shows_the_number_one_as_a_number():
    @dataclass
    class Numbers:
        """Has numbers."""

        one: int = 1
        zero: float = 0.0
        on: bool = True

    shown = help_of(Numbers, "do")
    assert all(f"  {text} " in shown for text in ("one=1", "zero=0.0", "on=true"))
