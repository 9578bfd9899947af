"""Files from somebody else, through everything that opens them: none runs code, and each is refused in clear words."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from browser import CHROMIUM, Browser
from go_records import write_games
from in_process import DIGITS, train_in_process
from malicious import unpickle, write_malicious
from planted import plant
from program import draw_picture

from cnnlab.cli import cache, compare, play, predict
from cnnlab.cli.evaluate import evaluate_pretrained, evaluate_run
from cnnlab.cli.visualize import visualize
from cnnlab.config import TRUSTED_TARGETS
from cnnlab.errors import CnnlabError, DataError, InputError
from cnnlab.go.archive import Filters, open_archive

SHORT = (*DIGITS, "trainer.max_epochs=1", "trainer.limit_train_batches=1")
FORMATS = (".pth", ".pt", ".ckpt", ".safetensors", ".npz", ".npy")


@pytest.fixture
def marker(tmp_path) -> Path:
    """What malicious files make when they are unpickled; it must not be there at the end."""
    path = tmp_path / "was_run"
    yield path
    assert not path.exists()


@pytest.fixture
def foreign_run(quick_run, tmp_path) -> Path:
    """A run folder that somebody sent."""
    return Path(shutil.copytree(quick_run, tmp_path / "foreign"))


@pytest.mark.parametrize("name", [f"x{suffix}" for suffix in FORMATS] + ["x.json"])
def test_malicious_files_are_malicious(tmp_path, name):
    marker = tmp_path / "was_run"
    if name.endswith(".safetensors"):  # a format without code: a pickle of that name
        unpickle(write_malicious(tmp_path / "x.json", marker))
    else:
        unpickle(write_malicious(tmp_path / name, marker))
    assert marker.exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_that_would_run_code_are_refused(tmp_path, marker, suffix):
    weights = write_malicious(tmp_path / f"weights{suffix}", marker)
    with pytest.raises(CnnlabError, match=rf"weights\{suffix}.*(could run code|cannot be read|unknown format)"):
        train_in_process(tmp_path / "run", *SHORT, f"model.weights='{weights}'")
    with pytest.raises(CnnlabError, match=rf"weights\{suffix}"):
        evaluate_pretrained(["model=lenet5", f"model.weights={weights}", "data=digits"])


def test_checkpoint_to_resume_from_that_would_run_code_is_refused(tmp_path, marker):
    write_malicious(tmp_path / "run" / "checkpoints" / "last.ckpt", marker)
    with pytest.raises(DataError, match=r"last\.ckpt was not opened: .*could run code"):
        train_in_process(tmp_path / "run", *SHORT, resume=True)


@pytest.mark.parametrize(
    "use",
    [
        lambda run: evaluate_run([f"run={run}"]),
        lambda run: predict.main([f"run={run}", f"images={run.parent / 'x.png'}"]),
        lambda run: visualize(["what=filters", f"run={run}"]),
        lambda run: play.main([f"run={run}"]),
    ],
)
def test_run_whose_checkpoint_would_run_code_is_refused(foreign_run, marker, use):
    draw_picture(foreign_run.parent / "x.png", "circle", 0)
    write_malicious(foreign_run / "checkpoints" / "best.ckpt", marker)
    with pytest.raises(DataError, match=r"best\.ckpt was not opened: .*could run code"):
        use(foreign_run)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch MARKER"},
        {"_target_": "builtins.exec", "_args_": ["open('MARKER', 'w')"], "_partial_": True},
        {"_target_": "cnnlab.system.files.os.system", "command": "touch MARKER"},
        {"_target_": "torch.hub.load", "repo_or_dir": "MARKER", "source": "local"},
    ],
)
def test_target_in_the_files_of_a_run_is_refused(foreign_run, marker, node):
    node = json.loads(json.dumps(node).replace("MARKER", str(marker)))
    config = yaml.safe_load((foreign_run / "config.yaml").read_text())
    config["data"]["dataset"] = node
    config["trusted_packages"] = ["os", "builtins"]  # of no effect: that is for the user to say
    (foreign_run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=f"{node['_target_']} is (not in|defined in)"):
        evaluate_run([f"run={foreign_run}"])
    checkpoint = foreign_run / "checkpoints" / "best.ckpt"
    contents = torch.load(checkpoint, weights_only=True)
    for name, value in (("network", node), ("surgery", [node])):
        own = contents["hyper_parameters"] | {name: value, "trusted_packages": ["os", "builtins"]}
        torch.save(contents | {"hyper_parameters": own}, checkpoint)
        with pytest.raises(InputError, match=f"{node['_target_']} is (not in|defined in)"):
            evaluate_run([f"run={foreign_run}"])


def test_object_in_the_yaml_of_a_run_is_refused(foreign_run, marker):
    config = (foreign_run / "config.yaml").read_text()
    (foreign_run / "config.yaml").write_text(f"{config}x: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(InputError, match=r"is not a run folder: .*config\.yaml cannot be read: could not determine"):
        evaluate_run([f"run={foreign_run}"])


# --- Caches ---

CACHED = (
    *("model=lenet5", "data=image_folder", "data.val_fraction=0.3", "trainer=cpu", "trainer.max_epochs=2"),
    *("preprocessing=standardize", "augmentation=none", "callbacks=none", "logger=none", "data.num_workers=0"),
)


def test_cache_of_a_run_that_would_run_code_is_made_anew(pictures, tmp_path, marker, capsys):
    data = f"data.root='{pictures}'"
    settings = {
        "features": (*CACHED, data, "freeze=features", "freeze.cache=on", "data.record_cache=off"),
        "records": (*CACHED, data, "data.record_cache=on"),
    }
    first = {name: train_in_process(tmp_path / name, *own)["last"] for name, own in settings.items()}
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    kinds = {path.relative_to(tmp_path / "cache").parts[0] for path in files}
    assert kinds == {"features", "records", "scans", "preprocessing"}
    for path in files:
        write_malicious(path, marker)
    cache.main(["ls", f"cache_dir={tmp_path / 'cache'}"])
    assert "No entries in" in capsys.readouterr().out  # no entry can be read
    for name, own in settings.items():
        assert train_in_process(tmp_path / f"{name}-again", *own)["last"] == first[name]
    cache.main(["ls", f"cache_dir={tmp_path / 'cache'}"])
    assert f"{len(list(tmp_path.glob('cache/*/*/about.json')))} entries" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["about.json", "games.bin", "moves.bin", "names.txt"])
def test_cache_of_games_that_would_run_code_is_made_anew(tmp_path, marker, caplog, name):
    write_games(tmp_path / "games", 4)
    archive = open_archive(tmp_path / "games", Filters(size=9), tmp_path / "cache")
    expected = [archive.moves(game).tolist() for game in range(len(archive))]
    write_malicious(archive.folder / name, marker)
    caplog.set_level(logging.WARNING)
    again = open_archive(tmp_path / "games", Filters(size=9), tmp_path / "cache")
    assert [again.moves(game).tolist() for game in range(len(again))] == expected
    assert f"{archive.folder} was removed" in caplog.text


def test_only_these_packages_are_trusted():
    packages = {"cnnlab.", "torch.", "torchvision.", "torchmetrics.", "lightning.", "timm."}
    assert set(TRUSTED_TARGETS) == packages


# --- Pages ---

HOSTILE = ["<script>alert(1)<", "<img src=x onerror=alert(2)>", "'\"><svg onload=alert(3)>"]
"""Class folders; the first is what `mkdir -p '<script>alert(1)</script>'` makes, with a folder inside."""
TRAP = "window.ran = []; for (const name of ['alert', 'confirm', 'prompt']) window[name] = (what) => ran.push(what);"
INTRUDERS = """
[...document.querySelectorAll('*')].filter(element =>
  [...element.attributes].some(attribute => attribute.name.startsWith('on'))
  || (element.tagName === 'SCRIPT' && /alert/.test(element.textContent) && !element.id)).map(e => e.outerHTML)
"""


@pytest.fixture
def hostile_pages(tmp_path, capsys) -> dict[str, Path]:
    """Every page that cnnlab writes of a run on data whose names are HTML."""
    for label, name in enumerate(HOSTILE):
        folder = tmp_path / "pictures" / name / ("script>" if label == 0 else "")
        for number in range(6):
            shape = ("circle", "square")[label % 2]
            draw_picture(folder / f'{number}" onerror="alert(4)" x=\'<b>.png', shape, 100 * label + number)
    run = tmp_path / "<img src=x onerror=alert(5)>"
    train_in_process(run, *CACHED, f"data.root='{tmp_path / 'pictures'}'", "data.name='<script>alert(6)<'")
    evaluate_run([f"run={run}", "split=train"])
    predict.main([f"run={run}", f"images={tmp_path / 'pictures'}", f"output={tmp_path / 'predictions'}"])
    (explored,) = visualize(["what=explore", f"run={run}", f"output={tmp_path / 'explore'}"])
    runs = tmp_path / "<svg onload=alert(7)>"
    for value in HOSTILE:
        for seed in range(2):
            plant(runs / f"{value}{seed}", [f"init={value}"], seed, [0.5, 0.6], error=value)
    compare.main([str(runs), f"output={tmp_path / 'comparison'}"])
    capsys.readouterr()
    return {
        "report": run / "report" / "report.html",
        "comparison": tmp_path / "comparison" / "comparison.html",
        "explore": explored,
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_names_in_pages_are_text_and_run_nothing(hostile_pages, tmp_path):
    bait = tmp_path / "bait.html"
    bait.write_text(f"<!doctype html><title>bait</title>{HOSTILE[1]}")
    assert not list(tmp_path.glob("predictions/**/*.htm*"))  # tables and pictures only
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=TRAP)
        browser.open(bait.as_uri())
        browser.text_with("bait")
        browser.wait_for("ran.length")
        assert browser.evaluate("ran") == [2]  # the trap catches what is not escaped
        for name, page in hostile_pages.items():
            shown = [HOSTILE[1], HOSTILE[2]] if name != "explore" else []
            browser.open(page.as_uri())
            text = browser.text_with("alert", *shown)
            assert all(word in text for word in shown), text[:500]
            assert "alert(" in text
            browser.wait_for("document.readyState === 'complete'")
            assert browser.evaluate("document.readyState") == "complete"
            assert browser.evaluate("ran") == []
            assert browser.evaluate(INTRUDERS) == []
            browser.picture(tmp_path / f"{name}.png")
