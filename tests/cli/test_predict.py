"""Predictions in a table and on the pictures, against the loaded network."""

import csv
import io
import shutil

import pytest
import torch
from PIL import Image
from program import draw_picture

from cnnlab.api import load_run
from cnnlab.cli.predict import Options, main, predict
from cnnlab.data.sources.digits import digits
from cnnlab.errors import DataError, InputError


@pytest.fixture
def photos(tmp_path):
    """Five digits as PNG files, one of them in a folder of its own, and a file that is no picture."""
    images = digits().train
    for index in range(5):
        path = tmp_path / "photos" / ("deeper" if index == 4 else "") / f"digit {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.load(index, 1).resize((64, 48)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("batch_size", [2, 32])
def test_table_says_what_the_network_says(quick_run, photos, tmp_path, batch_size):
    folder = predict(
        Options(str(quick_run), str(photos), output=str(tmp_path / "out"), batch_size=batch_size), ["top_k=2"]
    )
    run = load_run(quick_run)
    table = rows(folder / "predictions.csv")
    assert sorted(row["image"] for row in table) == [
        "deeper/digit 4.png",
        *(f"digit {index}.png" for index in range(4)),
    ]
    for row in table:
        probabilities = run.predict([photos / row["image"]])[0]
        values, indices = probabilities.topk(2)
        assert [row["class_1"], row["class_2"]] == [run.classes[index] for index in indices]
        assert [float(row["probability_1"]), float(row["probability_2"])] == pytest.approx(values.tolist(), abs=2e-6)
    assert len(table[0]) == 5


def test_every_picture_is_annotated_and_on_the_sheet(quick_run, photos, tmp_path):
    folder = predict(Options(str(quick_run), str(photos), output=str(tmp_path / "out"), sheet_images=4))
    annotated = sorted(path.relative_to(folder / "pictures") for path in (folder / "pictures").rglob("*.png"))
    assert len(annotated) == 5
    assert {path.parent.as_posix() for path in annotated} == {".", "deeper"}
    assert Image.open(folder / "pictures" / annotated[-1]).width == 340
    assert Image.open(folder / "sheet.png").width == 4 * 190 + 10


@pytest.mark.parametrize(
    ("pictures", "files"),
    [
        ("all", {"pictures", "predictions.csv", "sheet.png"}),
        ("sheet", {"predictions.csv", "sheet.png"}),
        ("false", {"predictions.csv"}),
    ],
)
def test_pictures_say_what_is_written(quick_run, photos, tmp_path, capsys, pictures, files):
    main([f"run={quick_run}", f"images={photos}", f"output={tmp_path / 'out'}", f"pictures={pictures}"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 5
    said = capsys.readouterr().out
    assert [name for name in ("predictions.csv", "sheet.png") if name in said] == sorted(files - {"pictures"})


@pytest.mark.parametrize(("few", "annotates"), [(5, True), (4, False)])
def test_many_pictures_are_not_annotated_by_default(quick_run, photos, tmp_path, monkeypatch, few, annotates):
    monkeypatch.setattr("cnnlab.cli.predict.FEW", few)
    threads = torch.get_num_threads()
    folder = predict(Options(str(quick_run), str(photos), output=str(tmp_path / "out"), batch_size=2))
    assert (folder / "pictures").exists() == annotates
    assert (folder / "sheet.png").exists()
    assert torch.get_num_threads() == threads


def test_sheet_shows_the_pictures_above_their_captions(quick_run, tmp_path):
    """Also where the first picture cannot be read: the first tile is the second picture."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"broken")
    for name, colour in (("b", (250, 0, 0)), ("c", (0, 0, 250))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "photos" / f"{name}.png")
    run = load_run(quick_run)
    expected = [run.prepare(tmp_path / "photos" / f"{name}.png")[0, 5, 5].item() for name in "bc"]
    options = Options(str(quick_run), str(tmp_path / "photos"), output=str(tmp_path / "out"), pictures="sheet")
    sheet = Image.open(predict(options) / "sheet.png")
    assert [sheet.getpixel((10 + 190 * column + 90, 100))[0] for column in range(2)] == expected


def test_pictures_of_one_name_and_two_formats_are_both_kept(quick_run, tmp_path):
    draw_picture(tmp_path / "photos" / "a.png", "circle", 0)
    draw_picture(tmp_path / "photos" / "a.jpg", "square", 1)
    folder = predict(Options(str(quick_run), str(tmp_path / "photos"), output=str(tmp_path / "out")))
    assert len(rows(folder / "predictions.csv")) == 2
    assert len(list((folder / "pictures").iterdir())) == 2


def test_unreadable_picture_is_named_and_left_out(quick_run, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes((photos / "digit 0.png").read_bytes()[:60])
    folder = predict(Options(str(quick_run), str(photos), output=str(tmp_path / "out")))
    assert "broken.jpg" in capsys.readouterr().out
    assert len(rows(folder / "predictions.csv")) == 5


def test_only_unreadable_pictures_are_an_error(quick_run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="None of the pictures can be read"):
        predict(Options(str(quick_run), str(tmp_path / "photos"), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_single_picture_and_the_run_folders_own_place(quick_run, photos, tmp_path):
    shutil.copytree(quick_run / "checkpoints", tmp_path / "run" / "checkpoints")
    folder = predict(Options(str(tmp_path / "run"), str(photos / "digit 3.png")))
    assert folder == tmp_path / "run" / "predictions" / "digit 3.png"
    (row,) = rows(folder / "predictions.csv")
    assert row["image"] == "digit 3.png"
    shown = sum(float(value) for name, value in row.items() if name.startswith("probability"))
    assert 0 < shown <= 1 + 1e-5


def test_more_classes_than_there_are_means_all_of_them(quick_run, photos, tmp_path):
    folder = predict(Options(str(quick_run), str(photos), output=str(tmp_path / "out")), ["top_k=99"])
    table = rows(folder / "predictions.csv")
    assert len(table[0]) == 1 + 2 * 10
    sums = [sum(float(row[f"probability_{rank}"]) for rank in range(1, 11)) for row in table]
    assert sums == pytest.approx([1.0] * 5, abs=1e-5)


def test_animation_and_transparency_are_no_obstacle(quick_run, tmp_path):
    (tmp_path / "photos").mkdir()
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "photos" / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save(tmp_path / "photos" / "clear.webp")
    folder = predict(Options(str(quick_run), str(tmp_path / "photos"), output=str(tmp_path / "out")))
    assert len(rows(folder / "predictions.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=x"], "needs run=FOLDER, or model=... with model.weights=..."),
        (["run=nowhere", "images=x"], "is not a run"),
        (["run={run}", "images={photos}", "topk=3"], "Unknown key topk of predict. Did you mean top_k"),
        (["run={run}", "images={photos}", "top_k=many"], "top_k=many is not of type int"),
        (["run={run}", "images={photos}", "top_k=0"], "top_k=0"),
        (["run=x", "images=y", "batch_size=0"], "batch_size=0"),
        (["run=x", "images=y", "sheet_images=0"], "sheet_images=0"),
        (["run=x", "images=y", "pictures=some"], "pictures=some: use all, sheet, false"),
    ],
)
def test_wrong_arguments_are_named(quick_run, photos, arguments, message):
    with pytest.raises(InputError, match=message):
        main([argument.format(run=quick_run, photos=photos) for argument in arguments])
    assert not (quick_run / "predictions").exists()


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_no_picture_is_an_input_error(quick_run, tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=place):
        predict(Options(str(quick_run), str(tmp_path / place)))
