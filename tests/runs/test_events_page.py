"""The real page in headless Chromium, opened by the command and the link that a comparison prints."""

import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from program import REPOSITORY

from cnnlab.runs.events import RunEvents, session
from cnnlab.runs.tensorboard import colour_of, command, link

PICTURES = REPOSITORY / "outputs" / "test_artifacts"
"""Where screenshots stay to be looked at; git ignores it."""
EPOCHS, INITS, SEEDS, IMAGES = 12, ("zero", "orthogonal"), (0, 1, 2), 40

COLOURS = """
JSON.stringify(Object.fromEntries([...document.querySelectorAll('runs-data-table tb-data-table-content-row')].map(
  row => [row.innerText.trim(), row.querySelector('.run-color-swatch, button[style]').style.backgroundColor])))
"""
"""Run -> the colour of its swatch."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


def accuracy(init: str, seed: int, epoch: int) -> float:
    return 0.1 if init == "zero" else 0.9 - 0.5 / (epoch + 1) + seed / 1000


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two settings with three seeds each, written as a run does, and one run that fails."""
    folder = tmp_path_factory.mktemp("sweep")
    for init in INITS:
        for seed in SEEDS:
            logger = RunEvents(str(folder / f"{init}-seed-{seed}"))
            with session([logger], {"model": "lenet5", "init": init, "deterministic": True, "lr": 0.002}, "val/acc"):
                for epoch in range(EPOCHS):
                    acc = accuracy(init, seed, epoch)
                    metrics = {"val/acc": acc, "val/loss": 1 - acc, "best/val/acc": acc}
                    means = {"train/acc_epoch": acc + 0.02, "train/loss_epoch": 0.9 - acc}
                    logger.log_metrics(metrics | means | {"epoch": epoch}, 10 * epoch + 9)
                for step in range(IMAGES):
                    logger.experiment.add_image("maps", np.zeros((1, 4, 4), np.uint8), step)
            logger.experiment.close()
    failed = RunEvents(str(folder / "failed-seed-0"))
    with pytest.raises(RuntimeError), session([failed], {"model": "x", "init": "x"}, "val/acc"):
        raise RuntimeError
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(address: str):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def port(sweep) -> Iterator[int]:
    """TensorBoard on the sweep, as the printed command starts it, once it knows every run."""
    port = free_port()
    words = [sys.executable, "-m", "tensorboard.main", *shlex.split(command(sweep))[1:], "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                if len(ask(f"http://127.0.0.1:{port}/data/runs")) == len(INITS) * len(SEEDS) + 1:
                    break
            except OSError:
                assert server.poll() is None
            time.sleep(0.5)
        yield port
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_server_keeps_every_step(port):
    query = urlencode({"tag": "epoch/val/acc", "run": "orthogonal-seed-1"})
    points = ask(f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?{query}")
    assert [(step, value) for _, step, value in points] == [
        (epoch, pytest.approx(accuracy("orthogonal", 1, epoch))) for epoch in range(EPOCHS)
    ]
    images = urlencode({"tag": "maps", "run": "zero-seed-0", "sample": 0})
    assert len(ask(f"http://127.0.0.1:{port}/data/plugin/images/images?{images}")) == IMAGES


def test_link_shows_pinned_curves_with_repeats_in_one_colour(port, browser, sweep):
    names = [path.name for path in sweep.iterdir()]
    browser.open(link("val/acc", colour_of(names, "init", [*INITS, "failed"]), port))
    last = f"{accuracy('zero', 0, EPOCHS - 1):.1f}"
    text = browser.text_with("Pinned", "4 cards", *names, last)
    browser.picture(PICTURES / "tensorboard_time_series.png")
    assert "4 cards" in text
    assert all(name in text for name in names)
    assert all(group in text for group in ("epoch/val", "epoch/train", "best/val"))
    assert re.search(r"zero-seed-0 +0\.1 +11", text)
    colours = json.loads(browser.evaluate(COLOURS))
    of_init = {init: {colours[f"{init}-seed-{seed}"] for seed in SEEDS} for init in INITS}
    assert all(len(found) == 1 for found in of_init.values())
    assert len(set().union(*of_init.values())) == len(INITS)


def test_hparams_tab_has_a_row_for_each_setting(port, browser):
    browser.open("about:blank")
    browser.open(f"http://127.0.0.1:{port}/#hparams")
    text = browser.text_with("Number of matching session groups: 3", "Trial ID", "orthogonal")
    browser.picture(PICTURES / "tensorboard_hparams.png")
    assert "Number of matching session groups: 3" in text
    assert "hp_metric" not in text
    assert "best/val/acc" in text
    mean = np.mean([accuracy("orthogonal", seed, EPOCHS - 1) for seed in SEEDS])
    assert re.search(rf"orthogonal .*{mean:.5f}", text)


def test_training_and_validation_are_in_one_chart(port, browser):
    browser.open("about:blank")
    browser.open(f"http://127.0.0.1:{port}/#custom_scalars")
    wanted = [f"epoch/{part}/acc (zero-seed-0)" for part in ("train", "val")]
    text = browser.text_with("training and validation", *wanted)
    browser.picture(PICTURES / "tensorboard_custom_scalars.png")
    chart = text.split("training and validation")[1].split("loss")[0]
    assert all(line in chart for line in wanted)
