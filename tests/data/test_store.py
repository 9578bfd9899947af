"""The store: shared by processes, whole after any crash, and never larger than it may be for long."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from cnnlab.data.store import Store, bucket_count, key_of, remove
from cnnlab.seeds import derive

IMAGES = [f"{derive('image', number):032x}"[::-1] for number in range(200)]
PARTS = {"network": "Net", "view": 0}


def value(image: str) -> torch.Tensor:
    return torch.tensor([float(int(image[:6], 16)), 1.0])


class Producer:
    """Gives `value` of each image, and remembers which were asked for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self.seconds = seconds

    def __call__(self, batches: Iterator[Sequence[str]]) -> Iterator[list[torch.Tensor]]:
        for batch in batches:
            self.asked += batch
            time.sleep(self.seconds)
            yield [value(image) for image in batch]


def fill(folder: Path, images: Sequence[str] = IMAGES, seconds: float = 0.0) -> list[str]:
    """Fill the entry of PARTS; returns the images that this call computed."""
    producer = Producer(seconds)
    Store(folder).entry("features", PARTS).fill(images, producer, 16, "test", show=False)
    return producer.asked


def assert_whole(folder: Path) -> None:
    entry = Store(folder).entry("features", PARTS)
    assert entry.missing(IMAGES) == []
    assert all(torch.equal(entry[image], value(image)) for image in IMAGES)


def in_process(function, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_what_is_filled_is_read_back_and_never_computed_again(tmp_path):
    assert sorted(fill(tmp_path)) == sorted(IMAGES)
    assert fill(tmp_path) == []
    assert_whole(tmp_path)


def test_subsets_share_one_entry(tmp_path):
    fill(tmp_path, IMAGES[:70])
    assert sorted(fill(tmp_path, IMAGES[50:])) == sorted(IMAGES[70:])
    assert_whole(tmp_path)


def test_images_that_occur_twice_are_computed_once(tmp_path):
    assert fill(tmp_path, [IMAGES[0], IMAGES[1], IMAGES[0]]) in ([IMAGES[0], IMAGES[1]], [IMAGES[1], IMAGES[0]])


def test_every_part_of_the_key_counts():
    parts = {"network": "Net", "view": 0, "versions": {"torch": "2.14"}}
    changed = [{**parts, "network": "Other"}, {**parts, "view": None}, {**parts, "versions": {"torch": "2.15"}}]
    assert len({key_of(parts), *map(key_of, changed)}) == 4
    assert key_of(dict(reversed(parts.items()))) == key_of(parts)


def _fill_and_tell(folder: Path, queue) -> None:
    queue.put(fill(folder, seconds=0.05))


def test_processes_that_fill_at_once_share_the_work(tmp_path):
    queue = multiprocessing.get_context("fork").Queue()
    processes = [in_process(_fill_and_tell, tmp_path, queue) for _ in range(3)]
    asked = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    together = [image for images in asked for image in images]
    assert sorted(together) == sorted(IMAGES)
    assert_whole(tmp_path)


def test_small_entry_is_filled_by_one_while_others_wait(tmp_path):
    first = in_process(fill, tmp_path, IMAGES[:20], 1.0)
    entry = Store(tmp_path).entry("features", PARTS)
    while not list(entry.path.glob("*.lock")):
        time.sleep(0.01)
    assert fill(tmp_path, IMAGES[:20]) == []
    first.join(60)


def _die_at_third_shard(folder: Path) -> None:
    replace, calls = os.replace, []

    def dies(source, target) -> None:
        if str(target).endswith(".safetensors"):
            calls.append(target)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = dies
    fill(folder)


def test_entry_survives_a_process_that_is_killed_while_it_writes(tmp_path):
    killed = in_process(_die_at_third_shard, tmp_path)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    entry = Store(tmp_path).entry("features", PARTS)
    held = [image for image in IMAGES if image in entry]
    assert 0 < len(held) < len(IMAGES)
    assert all(torch.equal(entry[image], value(image)) for image in held)
    assert len(list(entry.path.glob(".*"))) == 1
    assert sorted(fill(tmp_path)) == sorted(set(IMAGES) - set(held))
    assert_whole(tmp_path)
    assert list(entry.path.glob(".*")) == []


def test_failure_while_computing_gives_the_claims_back(tmp_path):
    def fails(batches):
        next(batches)
        raise ZeroDivisionError
        yield

    entry = Store(tmp_path).entry("features", PARTS)
    with pytest.raises(ZeroDivisionError):
        entry.fill(IMAGES, fails, 16, "test", show=False)
    assert sorted(fill(tmp_path)) == sorted(IMAGES)


def test_shard_that_the_disk_has_no_room_for_is_an_oserror_and_leaves_nothing(tmp_path):
    """The operating system's limit on the size of a file stands for the full disk."""
    entry = Store(tmp_path).entry("features", PARTS)
    large = {IMAGES[0]: torch.zeros(100_000, dtype=torch.uint8)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            next(entry.claims(IMAGES)).write(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in entry.path.iterdir() if path.suffix != ".lock"] == [".json"]
    assert sorted(fill(tmp_path)) == sorted(IMAGES)


def test_damaged_shard_is_computed_again(tmp_path, caplog):
    fill(tmp_path)
    shard = sorted(next(tmp_path.glob("features/*")).glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-5])
    again = fill(tmp_path)
    assert 0 < len(again) < len(IMAGES)
    assert "is damaged" in caplog.text
    assert_whole(tmp_path)


def test_least_recently_used_entries_go_beyond_the_limit(tmp_path):
    for view in range(4):
        entry = Store(tmp_path).entry("features", {**PARTS, "view": view})
        entry.fill(IMAGES, Producer(), 16, "test", show=False)
        os.utime(entry.path / "about.json", (1000.0 + view, 1000.0 + view))
    size = max(info.size for info in Store(tmp_path).infos())
    store = Store(tmp_path, limit_gib=2.5 * size / 2**30)
    store.entry("features", {**PARTS, "view": 0})
    removed = store.shrink()
    assert [info.parts["view"] for info in removed] == [1, 2]
    assert {info.parts["view"] for info in store.infos()} == {0, 3}
    assert Store(tmp_path, limit_gib=None).shrink() == []


def test_reader_keeps_what_is_removed_and_writer_brings_it_back(tmp_path):
    fill(tmp_path)
    entry = Store(tmp_path).entry("features", PARTS)
    remove(entry.path)
    assert not entry.path.exists()
    assert all(torch.equal(entry[image], value(image)) for image in IMAGES)
    late = Store(tmp_path).entry("features", {**PARTS, "view": 1})
    remove(late.path)
    late.fill(IMAGES, Producer(), 16, "test", show=False)
    assert [info.parts["view"] for info in Store(tmp_path).infos()] == [1]


@pytest.mark.parametrize(("images", "buckets"), [(1, 1), (64, 1), (3670, 64), (1_281_167, 1024)])
def test_portions_suit_the_number_of_images(images, buckets):
    assert bucket_count(images) == buckets
