"""Formats of annotations: what is read, and how every bad one is named."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from boxes import save_picture
from PIL import Image
from pycocotools import mask as reference

from cnnlab.errors import DataError
from cnnlab.tasks.detection.sources import penn_fudan as source
from cnnlab.tasks.detection.sources.coco import coco_folder
from cnnlab.tasks.detection.sources.outlines import outlines
from cnnlab.tasks.detection.sources.penn_fudan import penn_fudan
from cnnlab.tasks.detection.sources.shapes import shapes
from cnnlab.tasks.detection.sources.voc import voc_folder
from cnnlab.tasks.detection.sources.yolo import yolo_folder
from cnnlab.tasks.detection.truth import decode_masks

SIDE = {"width": 60, "height": 40}


def coco(folder, annotations, images=None, categories=None, name="annotations.json"):
    """A data set of two pictures of 60 x 40 in COCO's format; one annotation in each line."""
    for file in ("a.jpg", "b.jpg"):
        save_picture(folder / file, 60, 40)
    images = images or [{"id": 1, "file_name": "a.jpg", **SIDE}, {"id": 2, "file_name": "b.jpg", **SIDE}]
    lines = ",\n".join(json.dumps(each) for each in annotations)
    categories = categories or [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    text = f'{{"images": {json.dumps(images)},\n"categories": {json.dumps(categories)},\n"annotations": [\n{lines}\n]}}'
    (folder / name).write_text(text)
    return str(folder)


def objects(**entries):
    return {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 10], **entries}


def test_coco_boxes_polygons_and_crowds(tmp_path):
    polygon = [10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]
    square = np.zeros((40, 60), np.uint8)
    square[2:9, 3:12] = 1
    encoded = reference.encode(np.asfortranarray(square))
    changes = np.flatnonzero(np.diff(square.ravel(order="F"), prepend=-1))
    counts = np.diff([*changes, 2400]).tolist()
    rle = {"size": [40, 60], "counts": encoded["counts"].decode()}
    annotations = [
        objects(segmentation=[polygon], area=123.0),
        objects(id=2, category_id=3, segmentation=rle, bbox=[3, 2, 9, 7]),
        objects(id=3, segmentation={"size": [40, 60], "counts": counts}, iscrowd=1, bbox=[3, 2, 9, 7]),
    ]
    data = coco_folder(coco(tmp_path, annotations), "*.json", "error").train
    assert (data.classes, len(data), data.has_masks) == (["cat", "dog"], 2, True)
    found = data.truth(0)
    assert found.boxes.tolist() == [[10, 5, 30, 15], [3, 2, 12, 9], [3, 2, 12, 9]]
    assert (found.labels.tolist(), found.crowd.tolist()) == ([1, 0, 1], [False, False, True])
    assert found.areas.tolist() == [123.0, 63.0, 63.0]
    masks = decode_masks(found.masks, (40, 60))
    expected = reference.decode(reference.merge(reference.frPyObjects([polygon], 40, 60)))
    assert np.array_equal(masks[0], expected)
    assert np.array_equal(masks[1], square)
    assert np.array_equal(masks[2], square)
    assert len(data.truth(1).labels) == 0


BAD = {
    "box without area": (objects(bbox=[10, 5, 0, 10]), "no area"),
    "box outside": (objects(bbox=[50, 5, 30, 10]), "reaches outside the image of 60 x 40"),
    "box of text": (objects(bbox=[1, 2, "x", 4]), "bbox is"),
    "box of NaN": (objects(bbox=[1, 2, float("inf"), 4]), "JSON|number"),
    "category": (objects(category_id=5), "unknown category 5"),
    "image": (objects(image_id=9), "no image has the id 9"),
    "polygon": (objects(segmentation=[[1, 1, 5, 5]]), "2 points"),
    "odd polygon": (objects(segmentation=[[1, 1, 5, 5, 8, 8, 3]]), "7 numbers"),
    "mask": (objects(segmentation={"size": [10, 60], "counts": [600]}), "mask has 60 x 10 pixels"),
    "counts": (objects(segmentation={"size": [40, 60], "counts": [5]}), "run-length"),
    "counts below zero": (objects(segmentation={"size": [40, 60], "counts": [-10, 2410]}), "run-length"),
    "text that is no encoding": (objects(segmentation={"size": [40, 60], "counts": "!!no###"}), "run-length"),
    "encoding of fewer pixels": (objects(segmentation={"size": [40, 60], "counts": "`1"}), "run-length"),
    "category as text": (objects(category_id="7"), "unknown category '7'"),
    "category as list": (objects(category_id=[7]), "needs image_id and category_id"),
    "id as list": (objects(id=[5]), "the id is"),
    "area": (objects(area=-3), "area is -3"),
    "crowd": (objects(iscrowd="yes"), "iscrowd is yes"),
    "nothing": ({"id": 1, "image_id": 1, "category_id": 7}, "neither a bbox nor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_coco_annotations_are_named_by_line(tmp_path, case, caplog):
    bad, reason = BAD[case]
    good = objects(id=2)
    folder = coco(tmp_path, [good, {**bad, "id": 5} if case not in ("nothing", "id as list") else bad])
    with pytest.raises(DataError, match=reason) as error:
        coco_folder(folder, "*.json", "error")
    if case == "box of NaN":  # not JSON at all
        return
    assert f"{tmp_path / 'annotations.json'}, line 5 (annotations[1]" in str(error.value)
    with caplog.at_level(logging.WARNING):
        data = coco_folder(folder, "*.json", "skip").train
    assert reason in caplog.text
    assert [len(data.truth(index).labels) for index in range(2)] == [1, 0]


def test_boxes_are_clipped_on_demand(tmp_path):
    folder = coco(tmp_path, [objects(bbox=[50, -8, 30, 20])])
    data = coco_folder(folder, "*.json", "clip").train
    assert data.truth(0).boxes.tolist() == [[50, 0, 60, 12]]
    assert len(coco_folder(folder, "*.json", "skip").train.truth(0).labels) == 0


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([{"id": 1, "file_name": "c.jpg", **SIDE}], "c.jpg does not exist"),
        (
            [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 60}],
            "has 60 x 40 pixels, its annotation says 40 x 60",
        ),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}], "occurs twice"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], "occurs twice"),
        ([{"id": 1}], "needs an id and a file_name"),
        ([{"id": [1], "file_name": "a.jpg"}], "needs an id and a file_name"),
        ([{"id": 1, "file_name": "a.jpg", "width": "60", "height": 40}], "height and width are 40 and '60'"),
    ],
)
def test_bad_coco_images(tmp_path, images, reason):
    with pytest.raises(DataError, match=reason):
        coco_folder(coco(tmp_path, [objects()], images), "*.json", "error")


def test_duplicate_annotation_ids(tmp_path):
    with pytest.raises(DataError, match=r"line 5 .*the id 1 occurs twice"):
        coco_folder(coco(tmp_path, [objects(), objects()]), "*.json", "error")


def test_a_picture_stored_sideways_says_so(tmp_path):
    """Marked without turning it: the annotation has the width of the file as it is stored."""
    folder = coco(tmp_path, [objects()], [{"id": 1, "file_name": "a.jpg", **SIDE}])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(DataError, match="EXIF orientation"):
        coco_folder(folder, "*.json", "error")


def test_a_group_outlined_by_polygons_is_a_crowd(tmp_path):
    group = objects(segmentation=[[10, 5, 30, 5, 30, 15]], iscrowd=1)
    data = coco_folder(coco(tmp_path, [group, objects(id=2)]), "*.json", "error").train
    assert data.truth(0).crowd.tolist() == [True, False]


def test_two_images_of_one_name_are_named(tmp_path):
    """One text file, or one mask, cannot belong to a.jpg and a.png."""
    save_picture(tmp_path / "yolo/images/a.png", 60, 40)
    with pytest.raises(DataError, match=r"images/a\.png: another image has the same name"):
        yolo_folder(yolo(tmp_path / "yolo", "0 0.5 0.5 0.2 0.2"), "error")
    for name in ("a.jpg", "a.png"):
        save_picture(tmp_path / f"outlines/images/{name}", 60, 40)
    (tmp_path / "outlines/masks").mkdir()
    Image.fromarray(np.eye(40, 60, dtype=np.uint8)).save(tmp_path / "outlines/masks/a.png")
    with pytest.raises(DataError, match=r"images/a\.png: another image has the same name"):
        outlines(str(tmp_path / "outlines"), "person", "error")


def test_parts_of_coco(tmp_path):
    for part in ("train", "val"):
        coco(tmp_path, [objects()], name=f"instances_{part}2017.json")
    found = coco_folder(str(tmp_path), "*.json", "error")
    assert (len(found.train), len(found.val), found.test) == (2, 2, None)
    coco(tmp_path, [objects()], name="boxes_train2017.json")
    with pytest.raises(DataError, match=r"boxes_train2017\.json, instances_train2017\.json"):
        coco_folder(str(tmp_path), "*.json", "error")
    assert len(coco_folder(str(tmp_path), "boxes_*.json", "error").train) == 2


def test_coco_polygons_and_boxes_mixed_have_no_masks(tmp_path):
    both = [objects(segmentation=[[10, 5, 30, 5, 30, 15]]), objects(id=2)]
    assert not coco_folder(coco(tmp_path, both), "*.json", "error").train.has_masks


VOC = """<annotation>
  <filename>x.png</filename>
  <size><width>60</width><height>40</height></size>
  <object>
    <name>cat</name>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
  </object>
  <object>
    <name>dog</name>
    <bndbox>{box}</bndbox>
  </object>
</annotation>
"""
GOOD_BOX = "<xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax>"


def voc(folder, box=GOOD_BOX, text=None):
    for name in ("a", "b"):
        save_picture(folder / "JPEGImages" / f"{name}.jpg", 60, 40)
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations/a.xml").write_text(VOC.format(box=GOOD_BOX))
    (folder / "Annotations/b.xml").write_text(text or VOC.format(box=box))
    return str(folder)


def test_voc(tmp_path):
    folder = voc(tmp_path)
    data = voc_folder(folder, "error")
    assert (data.train.classes, len(data.train), data.val) == (["cat", "dog"], 2, None)
    # Pixels count from 1, and the last one is inside.
    assert data.train.truth(1).boxes.tolist() == [[0, 0, 60, 40], [10, 5, 30, 15]]
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for part, name in (("train", "a"), ("test", "b")):
        (tmp_path / f"ImageSets/Main/{part}.txt").write_text(f"{name}\n")
    data = voc_folder(folder, "error")
    assert (data.train.name(0), data.test.name(0)) == ("JPEGImages/a.jpg", "JPEGImages/b.jpg")
    (tmp_path / "ImageSets/Main/val.txt").write_text("\nq\n")
    with pytest.raises(DataError, match=r"val.txt, line 2: q has no file"):
        voc_folder(folder, "error")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("<xmin>11</xmin><ymin>6</ymin><xmax>11</xmax><ymax>15</ymax>", "line 8: dog: the box .* has no area"),
        ("<xmin>11</xmin><ymin>6</ymin><xmax>30</xmax>", "line 8: dog: bndbox needs"),
        ("<xmin>11</xmin><ymin>6</ymin><xmax>90</xmax><ymax>15</ymax>", "line 8: the box .* reaches outside"),
    ],
)
def test_bad_voc_boxes(tmp_path, box, reason):
    with pytest.raises(DataError, match=f"b.xml, {reason}"):
        voc_folder(voc(tmp_path, box), "error")
    assert len(voc_folder(voc(tmp_path, box), "skip").train.truth(1).labels) == 1


def test_xml_that_declares_entities_is_refused(tmp_path):
    text = '<!DOCTYPE a [<!ENTITY x "y">]><annotation><object><name>&x;</name></object></annotation>'
    with pytest.raises(DataError, match="entities"):
        voc_folder(voc(tmp_path, text=text), "error")
    with pytest.raises(DataError, match="not an XML file"):
        voc_folder(voc(tmp_path, text="<annotation>"), "error")


def yolo(folder, *lines, names="names: [cat, dog]"):
    for name in ("a", "b"):
        save_picture(folder / f"images/{name}.jpg", 60, 40)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels/a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(names)
    return str(folder)


def test_yolo(tmp_path):
    data = yolo_folder(yolo(tmp_path, "1 0.5 0.5 0.5 0.25", "", "0 0 0 1 1 0.5 0.5 0 1"), "error").train
    assert (data.classes, len(data), data.has_masks) == (["cat", "dog"], 2, False)
    found = data.truth(0)
    assert found.boxes[0].tolist() == [15, 15, 45, 25]
    assert found.labels.tolist() == [1, 0]
    assert len(data.truth(1).labels) == 0  # without a file there are no objects
    polygons = yolo_folder(yolo(tmp_path, "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"), "error").train
    assert polygons.has_masks
    assert int(decode_masks(polygons.truth(0).masks, (40, 60)).sum()) == 30 * 20


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.5 0.5", "unknown class 2: there are 2"),
        ("1 0.5 0.5 0.5", "is neither"),
        ("1 0.5 x 0.5 0.5", "is neither"),
        ("1 0.5 0.5 0 0.5", "no area"),
        ("1 0.9 0.5 0.5 0.5", "reaches outside"),
        ("1 0.5 0.5 0.6 0.6", None),
    ],
)
def test_bad_yolo_lines(tmp_path, line, reason):
    folder = yolo(tmp_path, "0 0.5 0.5 0.2 0.2", line)
    if reason is None:
        assert len(yolo_folder(folder, "error").train.truth(0).labels) == 2
        return
    with pytest.raises(DataError, match=f"a.txt, line 2: .*{reason}"):
        yolo_folder(folder, "error")


def test_yolo_without_class_names_or_with_a_label_without_picture(tmp_path):
    folder = yolo(tmp_path)
    (tmp_path / "labels/c.txt").write_text("")
    with pytest.raises(DataError, match=r"c.txt, line 1: no image in"):
        yolo_folder(folder, "error")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match="names no classes"):
        yolo_folder(folder, "error")


def test_outlines(tmp_path):
    for name in ("a", "b", "c"):
        save_picture(tmp_path / f"images/{name}.png", 60, 40)
    values = np.zeros((40, 60), np.uint8)
    values[5:15, 10:30] = 1
    values[20:30, 40:50] = 4
    values[0, :] = 255
    (tmp_path / "masks").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(values if name != "b" else 0 * values).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "split.json").write_text('{"test": ["c"], "note": "made by hand"}')
    found = outlines(str(tmp_path), "person", "error")
    assert (len(found.train), found.val, len(found.test), found.train.classes) == (2, None, 1, ["person"])
    assert found.train.truth(0).boxes.tolist() == [[10, 5, 30, 15], [40, 20, 50, 30]]
    assert found.train.truth(0).areas.tolist() == [200, 100]
    assert len(found.train.truth(1).labels) == 0
    Image.fromarray(values[:30]).save(tmp_path / "masks/b.png")
    with pytest.raises(DataError, match=r"b\.png: the mask has 60 x 30 pixels, the image 60 x 40"):
        outlines(str(tmp_path), "person", "error")


@pytest.fixture
def penn_fudan_zip(tmp_path, monkeypatch):
    """The authors' archive with three drawn photos, fetched from a file: address; the second is a test photo."""
    values = np.zeros((40, 60), np.uint8)
    values[5:15, 10:30] = 1
    server = tmp_path / "server/PennFudanPed"
    (server / "PedMasks").mkdir(parents=True)
    for number in range(1, 4):
        save_picture(server / f"PNGImages/FudanPed0000{number}.png", 60, 40, seed=number)
        Image.fromarray(values).save(server / f"PedMasks/FudanPed0000{number}_mask.png")
    path = Path(shutil.make_archive(str(server), "zip", server.parent, "PennFudanPed"))
    monkeypatch.setattr(source, "URL", path.as_uri())
    monkeypatch.setattr(source, "TEST", {"FudanPed": "2"})
    return path


def test_pedestrians_are_fetched_once_in_the_layout_of_their_authors(tmp_path, penn_fudan_zip):
    for _ in range(2):
        found = penn_fudan(str(tmp_path / "data/penn_fudan"), "error")
        assert [found.train.name(index) for index in range(2)] == [f"PNGImages/FudanPed0000{n}.png" for n in (1, 3)]
        assert [found.test.name(index) for index in range(len(found.test))] == ["PNGImages/FudanPed00002.png"]
        assert (found.val, found.train.classes, found.train.truth(0).areas.tolist()) == (None, ["person"], [200])
        penn_fudan_zip.unlink(missing_ok=True)
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data/penn_fudan"]


def test_pedestrians_that_cannot_be_fetched_or_are_incomplete(tmp_path, penn_fudan_zip, monkeypatch, no_network):
    monkeypatch.setattr(source, "TEST", {"FudanPed": "2 70"})
    with pytest.raises(DataError, match="test lists FudanPed00070, which is not among the images"):
        penn_fudan(str(tmp_path / "server/PennFudanPed"), "error")
    monkeypatch.setattr(source, "URL", "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip")
    with pytest.raises(DataError, match=r"name resolution(.|\n)*unpack https(.|\n)*data=shapes"):
        penn_fudan(str(tmp_path / "data/penn_fudan"), "error")
    assert no_network == [source.URL]


def test_the_test_photos_are_those_of_the_shared_split(shared_data):
    found = penn_fudan(str(shared_data / "detection/penn_fudan"), "error")
    names = {f"{start}{number:0>5}" for start, numbers in source.TEST.items() for number in numbers.split()}
    assert {Path(found.test.name(index)).stem for index in range(len(found.test))} == names
    assert len(found.train) == 120


def test_shapes_are_a_function_of_seed_and_number():
    first, second = (shapes(30, 64, 4, seed=0).train for _ in range(2))
    other = shapes(30, 64, 4, seed=1).train
    assert np.array_equal(np.asarray(first.load(7, 3)), np.asarray(second.subset([7]).load(0, 3)))
    assert not np.array_equal(np.asarray(first.load(7, 3)), np.asarray(other.load(7, 3)))
    assert [len(first.truth(index).labels) for index in (9, 19, 29)] == [0, 0, 0]
    for index in range(30):
        found = first.truth(index)
        for box, mask in zip(found.boxes, decode_masks(found.masks, (64, 64)), strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
