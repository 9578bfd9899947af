"""Go from records to a player: a tiny network on random 9 x 9 games through every verb."""

import json
import os
import re
import shutil
import sys
from multiprocessing import get_context
from subprocess import run
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from gnugo import Opponent, needs_gnugo
from go_records import random_moves, sgf, write_games
from in_process import KeptSignals, interrupt_at_epoch, train_in_process
from PIL import Image
from sklearn.metrics import log_loss, top_k_accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnlab.api import load_run
from cnnlab.cli import play as verb
from cnnlab.cli.evaluate import evaluate_run
from cnnlab.cli.predict import main as predict
from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.go.planes import game_planes
from cnnlab.go.symmetries import SYMMETRIES, restore, transform
from cnnlab.system.files import read_json
from cnnlab.tasks.moves.report import MoveScores, interval, report

TINY = (
    *("model=alphago_policy", "model.network.k=4", "model.network.layers=2", "data=go", "data.size=9", "trainer=cpu"),
    *("data.num_workers=0", "data.batch_size=16", "data.val_fraction=0.2", "data.test_fraction=0.2"),
)


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """(folder, moves of ten games); an eleventh is illegal."""
    folder = tmp_path_factory.mktemp("go") / "games"
    moves = write_games(folder, 10)
    (folder / "c.sgf").write_text(sgf([("B", (0, 0)), ("W", (0, 0))]))
    return folder, moves


@pytest.fixture(scope="module")
def trained(games):
    """The folder of a run of two epochs with the callbacks of data=go."""
    folder = games[0].parent / "run"
    train_in_process(
        *(folder, *TINY, f"data.root={games[0]}", "data.positions_per_epoch=80"),
        *("trainer.max_epochs=2", "logger=tensorboard", "trainer.log_every_n_steps=1"),
    )
    return folder


def test_run_says_which_games_were_on_which_side_and_which_were_left_out(trained):
    sides = {name: (trained / "splits" / f"{name}.txt").read_text().splitlines() for name in ("train", "val", "test")}
    assert {name: len(side) for name, side in sides.items()} == {"train": 6, "val": 2, "test": 2}
    assert len({game for side in sides.values() for game in side}) == 10
    assert (trained / "skipped_games.txt").read_text().startswith("c.sgf: move 2 (W at A9) is illegal")
    record = read_json(trained / "run.json")
    assert record["classes"] == 81
    moves = [move for seed in range(10) for move in random_moves(seed)]
    assert sum(record["images"].values()) == sum(point is not None for _, point in moves)


def test_interrupted_run_goes_on_where_it_was(games, tmp_path):
    """Short epochs share passes over the positions: the third epoch depends on where the second one ended."""
    settings = (*TINY, f"data.root={games[0]}", "data.positions_per_epoch=100", "trainer.max_epochs=3")
    quiet = ("callbacks=none", "logger=none", "optimizer.lr=0.01")
    train_in_process(tmp_path / "whole", *settings, *quiet)
    with pytest.MonkeyPatch.context() as patched, KeptSignals():
        interrupt_at_epoch(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            train_in_process(tmp_path / "twin", *settings, *quiet)
    train_in_process(tmp_path / "twin", *settings, *quiet, resume=True)
    whole, twin = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "twin")
    )
    assert all(torch.equal(value, twin[name]) for name, value in whole.items())


def test_fixed_positions_are_in_tensorboard_as_boards(trained):
    events = EventAccumulator(str(trained), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    assert [tag for tag in tags if tag.startswith("policy/")] == [f"policy/{number}" for number in range(4)]
    assert [event.step for event in events.Images("policy/0")] == [0, 5, 10]
    assert "filters/features.conv1" in tags
    assert "input/train" not in tags


def network_says(trained, games, part, symmetric):
    """(probabilities [N, 81], labels, numbers of the moves) of a part, board by board."""
    model = load_run(trained).network
    lines = (trained / "splits" / f"{part}.txt").read_text().splitlines()
    names = [f"{file}.sgf game {number}" for file in "ab" for number in range(1, 6)]
    shares, labels, numbers = [], [], []
    for name in lines:
        moves = games[1][names.index(name)]
        planes, played = game_planes(moves, 9)
        labels += played.tolist()
        numbers += [number for number, (_, point) in enumerate(moves, start=1) if point is not None]
        for board in planes:
            answers = []
            for symmetry in SYMMETRIES if symmetric else (0,):
                turned = torch.from_numpy(transform(board, symmetry).astype(np.float32).copy())[None]
                with torch.no_grad():
                    answer = model(turned).softmax(dim=1).numpy().reshape(9, 9)
                answers.append(restore(answer, symmetry).ravel())
            shares.append(np.mean(answers, axis=0))
    return np.array(shares, np.float64), np.array(labels), np.array(numbers)


@pytest.mark.parametrize("symmetric", [False, True])
def test_evaluation_agrees_with_scikit_learn(trained, games, symmetric):
    evaluate_run([f"run={trained}"])
    metrics = read_json(trained / "report" / "metrics.json")
    found = metrics["symmetries_8"] if symmetric else metrics
    shares, labels, numbers = network_says(trained, games, "test", symmetric)
    assert found["n"] == len(labels)
    assert found["acc"] == pytest.approx(np.mean(shares.argmax(1) == labels), abs=1e-9)
    assert found["acc_top5"] == pytest.approx(top_k_accuracy_score(labels, shares, k=5, labels=range(81)), abs=1e-9)
    shares /= shares.sum(1, keepdims=True)
    assert found["loss"] == pytest.approx(log_loss(labels, shares, labels=range(81)), abs=1e-5)
    assert list(found["by_phase"]) == ["1-50"]
    assert found["by_phase"]["1-50"]["n"] == np.sum(numbers <= 50)


def test_phases_and_the_interval_over_games():
    rank = np.array([0, 1, 0, 7, 0, 0])
    number = np.array([1, 50, 51, 150, 151, 300])
    game = np.array([0, 0, 0, 1, 1, 1])
    found = report(MoveScores(rank, np.arange(6.0), number, game))
    assert {name: (part["n"], part["acc"]) for name, part in found["by_phase"].items()} == {
        "1-50": (2, 0.5),
        "51-150": (2, 0.5),
        "151-": (2, 1.0),
    }
    assert found["acc"] == pytest.approx(4 / 6)
    assert found["acc_top5"] == pytest.approx(5 / 6)
    # Games that are all right or all wrong count like single observations: p +- 1.96 sqrt(p (1 - p) / (games - 1)).
    low, high = interval(np.repeat([True] * 30 + [False] * 20, 7), np.repeat(np.arange(50), 7))
    assert [low, high] == pytest.approx([0.6 - 1.96 * (0.24 / 49) ** 0.5, 0.6 + 1.96 * (0.24 / 49) ** 0.5])


def test_fewer_positions_and_other_parts(trained):
    found = evaluate_run([f"run={trained}", "positions=30", "split=train", "symmetries=1"])
    assert found.metrics["n"] == 30
    assert "symmetries_8" not in read_json(trained / "report" / "metrics.json")


def test_board_is_drawn_with_its_stones_the_last_move_and_what_was_played(trained, games, tmp_path):
    moves = games[1][3]
    (tmp_path / "game.sgf").write_text(sgf(moves))
    record = f"sgf={tmp_path / 'game.sgf'}"
    (path,) = visualize(["what=policy", f"run={trained}", record, "move=12", f"output={tmp_path}"])
    assert path == tmp_path / "game-12.png"
    board = Image.open(path).convert("RGB")
    planes, labels = game_planes(moves, 9)
    number = [n for n, (_, point) in enumerate(moves, start=1) if point is not None].index(12)
    own, other = planes[number][:2].astype(bool)
    top, left = board.height - 12 - 300, 12  # the lower part is a board of ten cells of 30 pixels

    def at(row, column, dx=0):
        return board.getpixel((left + 30 * (column + 1) + dx, top + 30 * (row + 1)))

    black, white = (own, other) if moves[11][0] == "B" else (other, own)
    for row, column in np.argwhere(black).tolist():
        assert at(row, column, -10) == pytest.approx((0, 0, 0), abs=8)
    for row, column in np.argwhere(white).tolist():
        assert at(row, column, -10) == pytest.approx((255, 255, 255), abs=8)
    row, column = divmod(int(labels[number]), 9)
    assert at(row, column, -13) == pytest.approx((20, 90, 200), abs=60)  # the frame of the move that was played


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["move=99"], r"move=99: the game has 40 moves; use 1 to 41"),
        (["game=2"], "game=2: .*game.sgf has 1 "),
        (["symmetries=3"], "symmetries=3: use 1 or 8"),
        (["mov=3"], "Unknown key mov .* Did you mean move"),
    ],
)
def test_what_cannot_be_drawn_is_said(trained, tmp_path, arguments, message):
    (tmp_path / "game.sgf").write_text(sgf(random_moves(0)))
    with pytest.raises(InputError, match=message):
        visualize(["what=policy", f"run={trained}", f"sgf={tmp_path / 'game.sgf'}", *arguments])


@pytest.mark.parametrize("what", ["features", "augmentation", "attribution"])
def test_pictures_of_images_are_refused_with_the_way_to_boards(trained, what):
    with pytest.raises(InputError, match=rf"what={what} .* the task moves.*policy"):
        visualize([f"what={what}", f"run={trained}"])


def test_predict_takes_no_network_of_boards(trained, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="cnnlab play run"):
        predict([f"run={trained}", f"images={tmp_path}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augmentation=flip", "augmentation: flip would change the board"),
        ("model.in_channels=3", "takes 3 planes of 9 x 9, .* 48 of 9 x 9: set model.in_channels=48"),
        ("data.features=13", "features=13: use 4, 12, 20 or 48"),
    ],
)
def test_settings_that_do_not_go_with_boards_are_refused(games, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        train_in_process(tmp_path / "run", *TINY, f"data.root={games[0]}", "callbacks=none", "logger=none", override)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("features", [4, 20])
def test_network_takes_as_many_planes_as_the_data_give(games, tmp_path, features):
    train_in_process(
        *(tmp_path / "run", *TINY, f"data.root={games[0]}", "callbacks=none", "logger=none", "debug=smoke"),
        f"data.features={features}",
    )
    weight = load_run(tmp_path / "run").network.network.features.conv1.weight
    assert weight.shape == (4, features, 5, 5)


def play(trained, commands, *arguments):
    """What `cnnlab play` answers, and its exit code."""
    command = [sys.executable, "-m", "cnnlab", "play", f"run={trained}", *arguments]
    done = run(command, input="\n".join([*commands, ""]), capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr, done.returncode


@pytest.mark.slow  # an interpreter of its own; the games below go through pipes of a fork
def test_play_speaks_nothing_but_gtp(trained):
    stdout, stderr, code = play(trained, ["boardsize 9", "1 genmove b", "play w E5", "boardsize 19", "quit", "name"])
    replies = stdout.split("\n\n")
    assert code == 0, stderr
    assert replies[0] == "= "
    assert replies[1][:3] == "=1 "
    assert replies[2:] == ["= ", "? unacceptable size", "= ", ""]


def test_play_needs_a_run_of_go(trained, tmp_path, capsys):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["data"] = {"name": "digits", "dataset": {"_target_": "cnnlab.data.sources.digits.digits"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"This run was trained on data=digits, without .* Use a run of data=go\."):
        verb.main([f"run={tmp_path}"])
    assert capsys.readouterr().out == ""


@needs_gnugo
def test_a_game_against_gnugo_as_the_referee(trained):
    """The engine's whole game is replayed by GNU Go, which refuses what is illegal."""
    with Opponent("--level", "1", "--seed", "1", "--boardsize", "9") as gnugo:
        passes, colour = 0, "black"
        engine = Engine(trained)
        for _ in range(200):
            move = engine(f"genmove {colour}") if colour == "black" else gnugo(f"genmove {colour}")
            if move.lower() == "resign":
                break
            (gnugo if colour == "black" else engine)(f"play {colour} {move}")
            passes = passes + 1 if move.lower() == "pass" else 0
            if passes == 2:
                break
            colour = "white" if colour == "black" else "black"
        else:
            pytest.fail("the game does not end")
        assert gnugo("final_score")[0] in "BW0"
        engine.close()


SABAKI = """
const {Controller} = require('@sabaki/gtp')
async function main() {
  const [program, ...options] = process.argv.slice(1)
  const engine = new Controller(program, options)
  engine.start()
  for (const line of ['boardsize 9', 'play b E5', 'play w E5', 'genmove w', 'undo', 'no_such_command']) {
    const [name, ...args] = line.split(' ')
    const {error, content} = await engine.sendCommand({name, args})
    console.log(JSON.stringify([line, error, content]))
  }
  await engine.stop()
}
main()
"""


def sabaki_is_there():
    """Where `npm install @sabaki/gtp` was run: in the repository, or in a folder of NODE_PATH."""
    return shutil.which("node") and run(["node", "-e", "require('@sabaki/gtp')"], capture_output=True).returncode == 0


@pytest.mark.skipif(not sabaki_is_there(), reason="node or its package @sabaki/gtp is not installed")
def test_sabaki_drives_the_engine(trained):
    engine = [sys.executable, "-m", "cnnlab", "play", f"run={trained}"]
    done = run(["node", "-e", SABAKI, "--", *engine], capture_output=True, text=True, timeout=120)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [error for _, error, _ in replies] == [False, False, True, False, False, True], done.stderr
    assert replies[2][2] == "illegal move"
    assert re.fullmatch("[A-HJ][1-9]", replies[3][2])


class Engine(Opponent):
    """`cnnlab play` over pipes, in a copy of this process."""

    def __init__(self, trained):
        (commands, mine), (others, replies) = os.pipe(), os.pipe()
        self.child = get_context("fork").Process(target=self.play, args=(trained, commands, replies, mine, others))
        self.child.start()
        os.close(commands)
        os.close(replies)
        self.process = SimpleNamespace(stdin=open(mine, "w"), stdout=open(others))  # noqa: SIM115

    @staticmethod
    def play(trained, commands, replies, *not_mine):
        for pipe in not_mine:
            os.close(pipe)
        os.dup2(commands, 0)
        os.dup2(replies, 1)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        verb.main([f"run={trained}", "temperature=0.5"])

    def close(self):
        self("quit")
        self.child.join(60)
        assert self.child.exitcode == 0
        self.process.stdin.close()
        self.process.stdout.close()
