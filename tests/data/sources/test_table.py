"""Images listed in tables that csv, pandas, pyarrow and people write, and every row that is wrong."""

import csv
import gzip
import io
import logging
from pathlib import Path

import pytest
from in_process import digits_with, train_in_process
from program import draw_picture

from cnnlab.cli.main import run_verb
from cnnlab.data.groups import group_names
from cnnlab.data.sources.table import table
from cnnlab.errors import DataError, InputError

ROWS = [
    {"file": f"images/{number:02d}.png", "kind": kind, "patient": f"p{number // 2}", "part": part}
    for number, (kind, part) in enumerate(
        [("circle", "train"), ("square", "train"), ("circle", "Validation"), ("square", "val")] * 4
        + [("circle", "TEST"), ("square", "test")]
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    for number, row in enumerate(ROWS):
        draw_picture(folder / row["file"], row["kind"], number)
    return folder


def text_of(rows: list[dict[str, str]], delimiter: str = ",", **options) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def written(folder: Path, text: str, encoding: str = "utf-8", name: str = "labels.csv") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def read(path: Path, **options):
    return table(str(path), **{"image_column": "file", "label_column": "kind"} | options)


def listed(images) -> list[tuple[str, str]]:
    return [(path.name, images.classes[label]) for path, label in zip(images.paths, images.labels, strict=True)]


EXPECTED = [(Path(row["file"]).name, row["kind"]) for row in ROWS]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_delimiter_and_encoding_is_read(folder, delimiter, encoding):
    found = read(written(folder, text_of(ROWS, delimiter), encoding))
    assert listed(found.train) == EXPECTED
    assert found.train.classes == ["circle", "square"]
    assert found.val is found.test is None


def test_gzip_quotes_and_line_ends_are_read(folder):
    rows = [{"note": 'a "b",\n; | c', **row} for row in ROWS]
    for text in (text_of(rows, lineterminator="\r\n"), text_of(rows, quoting=csv.QUOTE_ALL), "\n" + text_of(rows)):
        (folder / "labels.csv.gz").write_bytes(gzip.compress(text.encode()))
        assert listed(read(folder / "labels.csv.gz").train) == EXPECTED


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_parquet_is_read(folder, library):
    if library == "pyarrow":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(ROWS), folder / "labels.parquet")
    else:
        pytest.importorskip("pandas").DataFrame(ROWS).to_parquet(folder / "labels.parquet")
    assert listed(read(folder / "labels.parquet").train) == EXPECTED


def test_table_written_by_pandas_is_read(folder):
    """With an index in a column without a name, and labels that are numbers."""
    frame = pytest.importorskip("pandas").DataFrame(ROWS)
    frame["grade"] = [10, 9] * (len(ROWS) // 2)
    frame.to_csv(folder / "labels.csv")
    found = read(folder / "labels.csv", label_column="grade")
    assert found.train.classes == ["9", "10"]
    assert found.train.labels.tolist() == [1, 0] * (len(ROWS) // 2)


def test_parquet_without_a_library_is_an_error(folder, monkeypatch):
    (folder / "labels.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("cnnlab.data.sources.table.find_spec", lambda name: None)
    with pytest.raises(InputError, match="which pyarrow or pandas reads: pip install pyarrow"):
        read(folder / "labels.parquet")


def test_column_says_the_part_and_the_group(folder):
    found = read(written(folder, text_of(ROWS)), split_column="part", groups="patient")
    for images, words in ((found.train, "train"), (found.val, "val"), (found.test, "test")):
        rows = [row for row in ROWS if row["part"].lower().startswith(words)]
        assert listed(images) == [(Path(row["file"]).name, row["kind"]) for row in rows]
        assert group_names([images], "patient") == [[row["patient"] for row in rows]]
    assert read(written(folder, text_of(ROWS)), groups=r"(\d)\.png").train.groups is None


def test_paths_are_absolute_or_relative_to_the_root(folder, tmp_path):
    rows = [row | {"file": str(folder / row["file"])} for row in ROWS]
    assert listed(read(written(tmp_path, text_of(rows))).train) == EXPECTED
    rows = [row | {"file": row["file"].replace("/", "\\")} for row in ROWS]
    found = read(written(tmp_path, text_of(rows)), root=str(folder)).train
    assert listed(found) == EXPECTED
    assert found.name(0) == "00.png"


def test_bad_rows_are_named_by_their_line(folder, caplog):
    rows = [dict(row) for row in ROWS]
    rows[1]["file"], rows[4]["kind"], rows[6]["file"], rows[7]["kind"] = "images/no.png", "", "", " "
    rows[3]["patient"] = "two\nlines"
    path = written(folder, text_of(rows))
    with pytest.raises(DataError) as error:
        read(path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"4 of {len(ROWS)} rows of {path} cannot be used:"
    assert lines[1] == f"  line 3: images/no.png not found in {folder}"
    assert lines[2:5] == ["  line 7: no label", "  line 9: no image", "  line 10: no label"]
    assert lines[5] == "Mend them, set data.root, or skip them with data.bad_rows=skip."
    with caplog.at_level(logging.WARNING):
        kept = read(path, bad_rows="skip").train
    assert listed(kept) == [each for number, each in enumerate(EXPECTED) if number not in (1, 4, 6, 7)]
    assert "line 9: no image" in caplog.text


def changed(**cells: str) -> str:
    return text_of([ROWS[0], ROWS[1] | cells, *ROWS[2:]])


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (text_of(ROWS), {"image_column": "fille"}, InputError, "data.image_column=fille: .* has no column .*mean file"),
        (text_of(ROWS), {"label_column": "x"}, InputError, "has no column x. Available: file, kind, patient, part"),
        (text_of(ROWS), {"groups": "patent"}, InputError, "data.groups=patent: .* Did you mean patient"),
        (text_of(ROWS), {"bad_rows": "drop"}, InputError, "data.bad_rows=drop: use error or skip"),
        (text_of(ROWS), {"split_column": "patient"}, DataError, "line 2: 'p0' is not a part. Use train, val or test"),
        (text_of(ROWS) + "a,b\n", {}, DataError, "line 20: 2 cells in a table of 4 columns"),
        (text_of(ROWS) + "a,b,c,d,e\n", {}, DataError, "line 20: 5 cells in a table of 4 columns"),
        (text_of(ROWS) + '"a,b,c,d\n', {}, DataError, "line 20: unexpected end of data"),
        ("file,kind\n", {}, DataError, "no rows below its head"),
        ("", {}, DataError, "no rows below its head"),
        ("file,file,kind\na,b,c\n", {}, InputError, "has several columns file"),
        (changed(file=ROWS[0]["file"]), {}, DataError, "lines? 2 and line 3: 00.png has two labels, circle and square"),
        (
            changed(file=ROWS[0]["file"], kind="circle", part="val"),
            {"split_column": "part"},
            DataError,
            "00.png is in two parts, train and val",
        ),
        (
            text_of([*ROWS[:2], ROWS[3] | {"kind": "star"}]),
            {"split_column": "part"},
            DataError,
            "line 4: star is not the label of any training image",
        ),
        (text_of(ROWS[3:4]), {"split_column": "part"}, DataError, "lists no images to train on"),
        ("file,kind\0", {}, DataError, "neither text nor Parquet"),
        ("file,kind\n\udcff,a\n", {}, DataError, "line 2: this is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_said(folder, text, options, error, message):
    (folder / "labels.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(error, match=message):
        read(folder / "labels.csv", **options)


def test_missing_and_damaged_files_are_errors(folder):
    with pytest.raises(DataError, match=r"nowhere\.csv not found. Set data.file"):
        read(folder / "nowhere.csv")
    (folder / "labels.csv.gz").write_bytes(gzip.compress(text_of(ROWS).encode())[:-20])
    with pytest.raises(DataError, match="is damaged"):
        read(folder / "labels.csv.gz")


def test_repeated_rows_are_left_out(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert listed(read(written(folder, text_of([*ROWS, ROWS[3]]))).train) == EXPECTED
    assert "1 rows of" in caplog.text


def test_run_on_a_table_is_evaluated_on_another_one(folder, tmp_path, capsys):
    """A run with groups from a column says so, and `cnnlab evaluate data.file=` scores the images of another table."""
    path = written(folder, text_of(ROWS[:16]))
    options = ["model.image_size=32", "model.resize_size=32", "trainer.max_epochs=1", "data.val_fraction=0.25"]
    overrides = digits_with(
        *("data=table", f"data.file={path}", "data.image_column=file", "data.label_column=kind"),
        *("data.groups=patient", *options),
    )
    record = train_in_process(tmp_path / "run", *overrides)
    assert record["groups"] == "0 of 8 groups on two sides"
    assert record["images"] == {"train": 12, "val": 4}
    other = written(tmp_path, text_of([row | {"file": str(folder / row["file"])} for row in ROWS]), name="more.csv")
    run_verb("evaluate", [f"run={tmp_path / 'run'}", f"data.file={other}", "data.split_column=part", "split=test"])
    assert "n 2" in capsys.readouterr().out


def test_keys_of_a_table_are_refused_for_other_data(tmp_path):
    with pytest.raises(InputError, match=r"data\.file: data=digits does not read a table\. Use data=table\."):
        train_in_process(tmp_path / "run", *digits_with("+data.file=x.csv"))
