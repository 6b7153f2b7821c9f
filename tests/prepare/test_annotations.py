"""Labels drawn with Labelme: files as the tool writes them, and what is made of mistakes in them."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_files import photo

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, IGNORE
from iccld_cli.prepare.coco import parsed_coco
from iccld_cli.prepare.inspect import own_warnings
from iccld_cli.prepare.labelmap import parse_label_map
from iccld_cli.prepare.labelme import read_labelme
from iccld_cli.prepare.own import own_images
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.shapes import Pens, draw, shrink_marks

ROAD, BUILDING, SKY, PERSON, CAR, TRUCK = (
    CITYSCAPES.id_of(name) for name in ("road", "building", "sky", "person", "car", "truck")
)
WIDTH, HEIGHT = 60, 40


def shape(label, kind, *points, **more):
    """A shape as version 5 writes it."""
    return {
        "label": label,
        "points": [list(point) for point in points],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **more,
    }


def annotate(path, drawn, image=None, **changes):
    """A file as version 5.5 writes it: `json.dump(data, f, ensure_ascii=False, indent=2)`."""
    tree = {
        "version": "5.5.0",
        "flags": {},
        "shapes": drawn,
        "imagePath": image or f"{path.stem}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    tree |= changes
    tree = {key: value for key, value in tree.items() if value != "left out"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=2), encoding="utf-8")


def prepared(tmp_path, masks="shots", table=None, **options):
    label_map = None if table is None else parse_label_map(table)
    _, source = own_images(str(tmp_path / "shots"), str(tmp_path / masks), label_map, tmp_path)
    return prepare(source, tmp_path / "out", "mine", PrepareOptions(workers=1, **options))[0]


def label_of(data, number=0):
    return data.read_label(data.frames("train")[number])


@pytest.fixture
def shot(tmp_path):
    """A folder with one image; returns a function that annotates it and prepares the folder."""
    photo(tmp_path / "shots/a.jpg", shape=(HEIGHT, WIDTH))

    def make(*drawn, table=None, size=None, **changes):
        annotate(tmp_path / "shots/a.json", list(drawn), **changes)
        return prepared(tmp_path, table=table, size=size)

    return make


def test_points_lines_and_areas_lie_where_they_were_drawn(shot):
    data = shot(
        shape("road", "polygon", (0, 30), (59.9, 30), (59.9, 39.9), (0, 39.9)),
        shape("sky", "rectangle", (50.2, 9.7), (10.5, 2.1)),  # from any corner
        shape("building", "linestrip", (5, 15), (5, 25), (30, 25)),
        shape("person", "point", (40.5, 20.5)),
        shape("car", "circle", (50, 20), (50, 24)),
        shape("truck", "line", (20, 35), (40, 35)),
    )
    label = label_of(data)
    assert label.shape == (HEIGHT, WIDTH)
    assert (label[31:33] == ROAD).all() and label[35, 30] == TRUCK  # later shapes lie over earlier ones
    assert (label[3:9, 12:49] == SKY).all() and label[1, 30] == IGNORE
    assert set(label[20, 3:8].tolist()) == {BUILDING} and label[20, 9] == IGNORE and label[25, 28] == BUILDING
    person = np.argwhere(label == PERSON)
    assert person.mean(axis=0).tolist() == [20, 40] and len(person) in range(13, 26)  # 5 pixels wide
    assert 40 < (label == CAR).sum() < 70 and label[20, 50] == CAR
    assert data.info.extra["labelled"] == 1 and data.info.classes_known == CITYSCAPES.names


def test_widths_names_and_classes_of_ones_own(shot):
    table = {
        "line_width": 1,
        "point_size": 1,
        "names": {"lorry": "truck", "lamp": "ignore", "sky": "sky"},
        "covers": {"bus": "truck"},
    }
    data = shot(
        shape("sky", "polygon", (0, 0), (60, 0), (60, 10), (0, 10)),
        shape("lorry", "point", (3.5, 20.5)),
        shape("lorry", "linestrip", (10, 20), (20, 20)),
        shape("lamp", "point", (5.5, 5.5)),
        table=table,
    )
    label = label_of(data)
    assert np.argwhere(label == TRUCK).tolist() == [[20, 3], *([20, x] for x in range(10, 21))]
    assert label[5, 5] == IGNORE and label[5, 6] == SKY
    assert data.info.classes_known == ("sky", "truck") and data.info.covers == {"bus": "truck"}
    assert data.info.source["options"]["pens"] == [1, 1]


def test_masks_and_files_without_a_size_or_a_kind(shot, tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 1:7] = 1
    packed = io.BytesIO()
    Image.fromarray(mask).save(packed, "PNG")
    text = base64.b64encode(packed.getvalue()).decode()
    old = {"label": "road", "line_color": None, "fill_color": None, "points": [[0, 30], [59, 30], [59, 39], [0, 39]]}
    data = shot(
        old,
        shape("car", "mask", (56.2, 30.0), (63.0, 35.0), mask=text),
        imageHeight="left out",
        imageWidth="left out",
        version="left out",
    )
    label = label_of(data)
    assert np.argwhere(label == CAR).tolist() == [[y, x] for y in (32, 33) for x in (57, 58, 59)]
    assert (label[34:38] == ROAD).all()


def test_images_that_were_not_annotated_are_taken_without_a_label(tmp_path):
    for name in ("a", "b/c", "b/d"):
        photo(tmp_path / f"shots/{name}.png", shape=(HEIGHT, WIDTH), seed=len(name))
    annotate(tmp_path / "shots/b/c.json", [shape("road", "point", (5.5, 5.5))], image="c.png")
    data = prepared(tmp_path)
    assert [frame.label for frame in data.frames("train")] == [None, "labels/train/b/c.png", None]
    assert data.info.extra["notices"] == ["2 of 3 images have no annotation; they were taken without a label"]
    told = own_warnings(data.info)
    assert "mine: points or scribbles: 21 labelled pixels, labelled frames: 1; classes road" in told
    assert not any("tiny" in text or "no frame" in text for text in told)


def test_annotations_in_a_folder_or_template_of_their_own(tmp_path):
    photo(tmp_path / "shots/a.jpg", shape=(HEIGHT, WIDTH))
    photo(tmp_path / "shots/b.jpg", 1, shape=(HEIGHT, WIDTH))
    annotate(tmp_path / "ann/a.json", [shape("road", "point", (5, 5))])
    (tmp_path / "ann/b.png").write_bytes(cv2.imencode(".png", np.full((HEIGHT, WIDTH), SKY, np.uint8))[1].tobytes())
    data = prepared(tmp_path, masks="ann")
    assert [set(np.unique(label_of(data, n)).tolist()) for n in (0, 1)] == [{ROAD, IGNORE}, {SKY}]
    images, masks = str(tmp_path / "shots/{frame}.jpg"), str(tmp_path / "ann/{frame}.json")
    _, source = own_images(images, masks, None, tmp_path)
    again, _ = prepare(source, tmp_path / "out", "template", PrepareOptions(workers=1))
    assert [frame.label for frame in again.frames("train")] == ["labels/train/a.png", None]


def test_points_survive_a_smaller_size(shot):
    data = shot(shape("road", "point", (6.5, 7.5)), table={"point_size": 1, "names": {"road": "road"}}, size=(15, 10))
    assert np.argwhere(label_of(data) == ROAD).tolist() == [[1, 1]]
    dense = np.random.default_rng(0).integers(0, 5, (40, 60)).astype(np.uint8)
    expected = cv2.resize(dense, (15, 10), interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.array_equal(shrink_marks(dense, (15, 10)), expected)


def test_a_png_with_points_is_a_mask_like_any_other(tmp_path):
    photo(tmp_path / "shots/a.jpg", shape=(HEIGHT, WIDTH))
    marks = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
    marks[7, 9] = CAR
    (tmp_path / "marks").mkdir()
    cv2.imwrite(str(tmp_path / "marks/a.png"), marks)
    data = prepared(tmp_path, masks="marks")
    assert np.array_equal(label_of(data), marks)
    assert data.frames("train")[0].pixels == {CAR: 1, IGNORE: marks.size - 1}


POINT = shape("road", "point", (5, 5))


@pytest.mark.parametrize(
    ("shapes", "changes", "says"),
    [
        ([shape("rode", "point", (5, 5))], {}, r"names a class that is not known: 'rode' \(did you mean 'road'\?\)"),
        ([shape("road\x1b[2J", "point", (5, 5))], {}, r"'road\\x1b\[2J'"),
        ([POINT], {"imageWidth": 61}, "is 61x40, its image is 60x40"),
        ([POINT], {"imageWidth": 10**9}, "which cannot be drawn"),
        ([POINT], {"imageWidth": "60"}, "image size that is no number"),
        ([POINT], {"shapes": "left out"}, "no list `shapes`, so it is no file of Labelme"),
        ([POINT], {"shapes": {}}, "no list `shapes`"),
        ([POINT, 7], {}, r"\(the 2. in the file\) without a label"),
        ([shape(7, "point", (5, 5))], {}, "without a label"),
        ([shape("road", "ellipse", (5, 5))], {}, "of type 'ellipse'; known are polygon"),
        ([shape("road", "polygon", (5, 5), (6, 6))], {}, "of type polygon with 2 points; it needs 3"),
        ([shape("road", "point")], {}, "with 0 points"),
        ([shape("road", "point", (5, "5"))], {}, "no pairs"),
        ([shape("road", "point", (5, 5, 5))], {}, "no pairs"),
        ([shape("road", "point", (5, 1e300))], {}, "no pairs"),
        ([shape("road", "point", (5, 1e6))], {}, r"at \(5, 1e\+06\), far outside the frame"),
        ([shape("road", "mask", (5, 5), (9, 9))], {}, "mask is no base64"),
        ([shape("road", "mask", (5, 5), (9, 9), mask="aGFsbG8=")], {}, "whose mask"),
    ],
)
def test_a_mistake_is_one_line(shot, shapes, changes, says):
    with pytest.raises(IccldError, match=says) as error:
        shot(*shapes, **changes)
    assert "a.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 9999, b'{"images": [], "annotations": []}'])
def test_what_is_no_annotation_is_one_line(content, tmp_path):
    photo(tmp_path / "shots/a.jpg", shape=(HEIGHT, WIDTH))
    (tmp_path / "shots/a.json").write_bytes(content)
    with pytest.raises(IccldError, match=r"a\.json"):
        prepared(tmp_path)
    assert prepared_names(tmp_path) == []


def prepared_names(tmp_path):
    return [path.name for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")]


def test_a_folder_of_images_is_no_folder_of_labels(tmp_path):
    photo(tmp_path / "shots/a.png", shape=(HEIGHT, WIDTH))
    with pytest.raises(IccldError, match=r"holds no annotation files \(\.json\) beside its images"):
        prepared(tmp_path)


def test_a_file_of_another_name_lets_no_missing_mask_pass(tmp_path):
    for name in "abc":
        photo(tmp_path / f"shots/{name}.jpg", shape=(HEIGHT, WIDTH))
    (tmp_path / "masks").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"masks/{name}.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "masks/classes.json").write_text("[]")
    source = own_images(str(tmp_path / "shots"), str(tmp_path / "masks"), None, tmp_path / "out")[1]
    with pytest.raises(IccldError, match=r"c\.png is missing"):
        prepare(source, tmp_path / "out", "few", PrepareOptions(workers=0))


def test_shapes_without_a_meaning_can_be_left_out(shot):
    table = {"unknown": "ignore", "names": {"road": "road"}}
    data = shot(shape("road", "point", (5, 5)), shape("cow", "point", (20, 20)), table=table)
    assert isinstance(data, PreparedDataset)
    assert set(np.unique(label_of(data)).tolist()) == {ROAD, IGNORE}


def coco(tmp_path, *annotations, **changes):
    """A file of COCO beside the images: `a.jpg` and `sub/b.jpg`, which nobody annotated."""
    for number, name in enumerate(("a", "sub/b")):
        photo(tmp_path / f"shots/{name}.jpg", number, shape=(HEIGHT, WIDTH))
    tree = {
        "info": {"description": "", "version": "1.0"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 0}
            for i, name in ((4, "a.jpg"), (7, "b.jpg"))
        ],
        "categories": [
            {"id": 1, "name": "road", "supercategory": ""},
            {"id": 5, "name": "person", "supercategory": "", "keypoints": ["nose", "foot"], "skeleton": []},
        ],
        "annotations": [{"id": n, "image_id": 4, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(tree | changes))
    return prepared(tmp_path, masks="instances.json")


def test_coco_polygons_masks_and_keypoints(tmp_path):
    square = [0, 30, 59.9, 30, 59.9, 39.9, 0, 39.9]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:9, 10:20] = True
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=True)), prepend=0).tolist()
    runs[-1] += HEIGHT * WIDTH - sum(runs)
    assert sum(runs) == HEIGHT * WIDTH
    data = coco(
        tmp_path,
        {"category_id": 1, "segmentation": [square, [0, 0, 4, 0, 4, 4]], "bbox": [0, 30, 60, 10], "area": 600},
        {"category_id": 5, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}, "iscrowd": 1},
        {"category_id": 5, "keypoints": [40.5, 20.5, 2, 0, 0, 0], "num_keypoints": 1, "bbox": [39, 19, 3, 3]},
    )
    first, second = data.frames("train")
    assert second.label is None
    assert data.info.extra["notices"] == ["1 of 2 images have no annotation; they were taken without a label"]
    label = data.read_label(first)
    assert (label[32:38] == ROAD).all() and label[1, 3] == ROAD
    assert np.array_equal(label[4:10, 9:21] == PERSON, mask[4:10, 9:21])
    assert label[20, 40] == PERSON and (label == PERSON).sum() == mask.sum() + 21


def test_packed_run_lengths_of_coco():
    from iccld_cli.prepare.coco import _numbers

    def packed(runs):  # as cocoapi's maskApi.c, rleToString
        text = ""
        for i, run in enumerate(runs):
            x = run - runs[i - 2] if i > 2 else run
            more = True
            while more:
                c = x & 31
                x >>= 5
                more = x != -1 if c & 16 else x != 0
                text += chr((c | 32 if more else c) + 48)
        return text

    for seed in range(20):
        runs = np.random.default_rng(seed).integers(0, 10 ** (1 + seed % 5), 30).tolist()
        assert _numbers(packed(runs)) == runs


@pytest.mark.parametrize(
    ("annotation", "changes", "says"),
    [
        (
            {"category_id": 9, "segmentation": [[0, 0, 4, 0, 4, 4]]},
            {},
            r"a\.jpg \(id 1\) of a category that it does not",
        ),
        ({"category_id": 1, "bbox": [0, 0, 5, 5]}, {}, "a box alone"),
        ({"category_id": 1, "segmentation": [[0, 0, 4, 0]]}, {}, "no numbers"),
        ({"category_id": 1, "segmentation": [[0, 0, 4, 0, 4]]}, {}, "no numbers"),
        ({"category_id": 1, "segmentation": "x"}, {}, "no numbers"),
        ({"category_id": 1, "segmentation": {"size": [40, 60], "counts": [7]}}, {}, "do not fill its 60x40"),
        ({"category_id": 1, "segmentation": {"size": [40, 60], "counts": "\u20ac"}}, {}, "no numbers"),
        ({"category_id": 1, "segmentation": {"size": [10**9, 60], "counts": [7]}}, {}, "cannot be drawn"),
        ({"category_id": 1, "keypoints": [1, 2]}, {}, "no numbers"),
        ({"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}, {"images": {}}, "no file of COCO"),
        ({"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]], "image_id": 5}, {}, "is damaged"),
        (
            {"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]},
            {"categories": [{"id": 1, "name": "raod"}]},
            "'raod' .did you mean 'road'",
        ),
    ],
)
def test_a_mistake_in_coco_is_one_line(annotation, changes, says, tmp_path):
    with pytest.raises(IccldError, match=says) as error:
        coco(tmp_path, annotation, **changes)
    assert "instances.json" in str(error.value) and "\n" not in str(error.value)


def test_no_such_file_of_coco(tmp_path):
    photo(tmp_path / "shots/a.jpg")
    with pytest.raises(IccldError, match=r"no annotation file at \S+none\.json"):
        prepared(tmp_path, masks="none.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask", "x", None])
POINTS = st.lists(st.tuples(*[st.floats(-50, 150) | st.integers(-(10**10), 10**10)] * 2).map(list), max_size=5)
SHAPES = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["road", "sky", "ignore"]) | VALUES,
        "shape_type": KINDS | VALUES,
        "points": POINTS | VALUES,
    },
    optional={"mask": VALUES},
)


def drawn_or_refused(read, size=(60, 40)):
    try:
        shapes = read()
        label = draw(shapes, size, None, CITYSCAPES, Pens())
    except IccldError as error:
        assert error.message and "\n" not in error.message
    else:
        assert label.shape == size[::-1] and ((label < 19) | (label == IGNORE)).all()


@settings(max_examples=300, deadline=None)
@given(
    VALUES | st.fixed_dictionaries({"shapes": st.lists(SHAPES | VALUES, max_size=4)}, optional={"imageWidth": VALUES})
)
def test_anything_in_a_file_of_labelme_is_drawn_or_refused(tree):
    drawn_or_refused(lambda: read_labelme(json.dumps(tree).encode())[0])


OUTLINES = st.lists(st.lists(st.floats(-50, 150) | VALUES, max_size=8) | VALUES, max_size=3) | st.fixed_dictionaries(
    {"size": st.just([3, 4]) | VALUES, "counts": st.lists(st.integers(-1, 2**62), max_size=4) | st.text(max_size=6)}
)
ANNOTATIONS = st.fixed_dictionaries(
    {"image_id": st.just(1) | VALUES, "category_id": st.just(1) | VALUES},
    optional={"segmentation": OUTLINES | VALUES, "keypoints": VALUES, "id": VALUES},
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANNOTATIONS | VALUES, max_size=3), VALUES)
def test_anything_in_a_file_of_coco_is_drawn_or_refused(annotations, odd):
    for images in ([{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}], odd):
        tree = {"images": images, "categories": [{"id": 1, "name": "road"}], "annotations": annotations}

        def read(tree=tree):
            file = parsed_coco(json.dumps(tree).encode())
            return [shape for name in file.annotations for shape in file.shapes(name)]

        drawn_or_refused(read)
