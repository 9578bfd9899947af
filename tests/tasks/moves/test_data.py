"""Positions as batches, against planes of whole games and symmetries that are worked out move by move."""

import numpy as np
import pytest
import torch
from go_records import write_games

from cnnlab.data.sampling import EpochSampler
from cnnlab.errors import DataError, InputError
from cnnlab.go.planes import game_planes
from cnnlab.go.symmetries import transform
from cnnlab.tasks.moves.data import GoDataModule, build_positions


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """(folder, moves of ten games)."""
    folder = tmp_path_factory.mktemp("go") / "records"
    return folder, write_games(folder, 10)


def built(folder, **options) -> GoDataModule:
    fixed = {"size": 9, "image_size": 9, "channels": options.get("features", 48), "seed": 3, "num_workers": 0}
    return build_positions(**{"root": folder, "cache_dir": folder.parent / "cache", **fixed, **options})


def whole(part):
    """Every position of a part."""
    found = [part.planes(index) for index in range(len(part))]
    return np.stack([planes for planes, _ in found]), np.array([label for _, label in found])


def test_positions_are_those_of_the_games(records):
    folder, games = records
    part = built(folder).parts.train
    expected = [game_planes(games[game], 9) for game in part.games]
    planes, labels = whole(part)
    assert np.array_equal(planes, np.concatenate([planes for planes, _ in expected]))
    assert np.array_equal(labels, np.concatenate([labels for _, labels in expected]))


def test_no_game_is_on_two_sides_whatever_the_seed(records):
    folder, _ = records
    one, other = built(folder, val_fraction=0.3), built(folder, val_fraction=0.3, seed=99)
    sides = [part.games.tolist() for part in (one.parts.train, one.parts.val, one.parts.test)]
    assert sorted(game for side in sides for game in side) == list(range(10))
    assert [len(side) for side in sides] == [6, 3, 1]
    assert one.split_hash == other.split_hash != built(folder, val_fraction=0.3, split_seed=1).split_hash


def test_batches_are_pixels_and_evaluation_leaves_the_board_as_it_is(records):
    folder, _ = records
    data = built(folder, val_fraction=0.3, batch_size=7)
    batches = list(data.val_dataloader())
    planes, labels = whole(data.parts.val)
    assert batches[0][0].dtype == torch.uint8
    assert torch.equal(torch.cat([images for images, _ in batches]), torch.from_numpy(planes * 255))
    assert torch.equal(torch.cat([targets for _, targets in batches]), torch.from_numpy(labels))


def test_a_symmetry_takes_the_move_along(records):
    """The move's own plane, turned by the same symmetry, has its stone at the new label; all eight occur."""
    folder, _ = records
    data = built(folder)
    dataset = data.train_dataset()
    seen = set()
    for epoch in range(4):
        for index in range(0, len(dataset), 5):
            pixels, label = dataset[(epoch, index)]
            planes, old = data.parts.train.planes(index)
            move = np.zeros((9, 9), np.uint8)
            move.flat[old] = 1
            fitting = {
                symmetry
                for symmetry in range(8)
                if np.array_equal(transform(planes, symmetry) * 255, pixels.numpy())
                and transform(move, symmetry).flat[label] == 1
            }
            assert fitting
            seen |= fitting if len(fitting) == 1 else set()
    assert seen == set(range(8))


def test_epochs_are_the_same_for_every_number_of_workers(records):
    folder, _ = records

    def epochs(workers):
        loader = built(folder, num_workers=workers, positions_per_epoch=60, batch_size=20).train_dataloader()
        batches = []
        for epoch in range(2):
            loader.batch_sampler.sampler.set_epoch(epoch)
            batches += list(loader)
        return batches

    for (one, first), (other, second) in zip(epochs(0), epochs(2), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(first, second)


def test_short_epochs_go_on_where_the_last_one_ended():
    sampler = EpochSampler(100, seed=5, epoch_size=30)
    drawn = []
    for epoch in range(10):
        sampler.set_epoch(epoch)
        assert len(sampler) == 30
        drawn += [index for _, index in sampler]
    for start in (0, 100, 200):
        assert sorted(drawn[start : start + 100]) == list(range(100))
    assert drawn[:100] != drawn[100:200]
    longer = EpochSampler(100, seed=5, epoch_size=250)
    assert [index for _, index in longer] == drawn[:250]


def test_subset_of_a_subset(records):
    folder, _ = records
    part = built(folder).parts.train
    few = part.subset([5, 40, 9]).subset([2, 0])
    assert [few.locate(index) for index in range(len(few))] == [part.locate(9), part.locate(5)]


def test_board_and_name_of_a_position(records):
    folder, games = records
    part = built(folder).parts.train
    game, number = part.locate(50)
    assert part.board(50).moves == games[game][:number]
    assert games[game][number][1] == divmod(part.planes(50)[1], 9)
    assert part.name(50) == f"{part.archive.names[game]} move {number + 1}"


def test_classes_are_the_names_of_the_points(records):
    classes = built(records[0]).classes
    assert len(classes) == 81
    assert [classes[index] for index in (0, 8, 9, 80)] == ["A9", "J9", "A8", "J1"]


def test_features_are_the_first_planes(records):
    folder, _ = records
    planes, _ = built(folder).parts.train.planes(30)
    few, _ = built(folder, features=12).eval_dataset(built(folder).parts.train)[(0, 30)]
    assert np.array_equal(few.numpy(), planes[:12] * 255)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 13}, InputError, "features=13: use 4, 12, 20 or 48"),
        ({"eye": "open"}, InputError, "eye=open"),
        (
            {"channels": 3},
            InputError,
            "takes 3 planes of 9 x 9, but the data have 48 .*: set model.in_channels=48",
        ),
        ({"size": 30, "image_size": 30}, InputError, "5 to 25 lines, got 30"),
        ({"positions_per_epoch": 0}, InputError, "data.positions_per_epoch=0"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, InputError, "add up to less than 1"),
        ({"max_games": 2}, DataError, "2 games are too few to split"),
        ({"size": 13, "image_size": 13}, DataError, r"has no game left: .* not wanted 10 \(board of 9 lines\)"),
    ],
)
def test_options_that_cannot_work_are_refused(records, options, error, message):
    with pytest.raises(error, match=message):
        built(records[0], **options)
