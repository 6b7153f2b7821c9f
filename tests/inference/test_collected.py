"""Kinds of `predict` beyond pictures: palette, labelIds, probabilities, numbers of frames, and a set to train on."""

import json
import sys

import cv2
import numpy as np
import pytest
from factories import CLASSES, make_dataset, make_model, make_video, scene
from PIL import Image
from safetensors import safe_open

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.inference.facts import facts_of, most_worth_labelling
from iccld_cli.inference.inputs import collect
from iccld_cli.inference.model import Sampling, Segmentation, load_model
from iccld_cli.inference.outputs import label_ids
from iccld_cli.inference.predict import predict
from iccld_cli.inference.predict_options import PredictOptions
from iccld_cli.labels import CITYSCAPES, CITYSCAPES_LABEL_IDS, LabelSpace

# name and id of the classes that are scored, from the table of the benchmark
OFFICIAL = dict(
    zip(CITYSCAPES.names, (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), strict=True)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "m.safetensors"), "cpu")


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """Frames in the layout and with the names of Cityscapes, and a video."""
    root = tmp_path_factory.mktemp("drive")
    for number in range(3):
        path = root / f"leftImg8bit/test/bonn/bonn_{number:06d}_000019_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scene(number, 64, 48)[0][..., ::-1])
    make_video(root / "v.mp4", frames=5, size=(64, 48))
    return root


def run(model, given, out, **options):
    return predict(model, collect(given, out), PredictOptions(out=out, **options))


def test_label_ids_have_the_benchmarks_numbers_and_names(model, drive, tmp_path):
    run(model, [drive / "leftImg8bit/test"], tmp_path, save=("labels", "labelIds", "palette"))
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("labelIds/**/*.png"))
    assert names == [f"labelIds/bonn/bonn_{n:06d}_000019_labelIds.png" for n in range(3)]
    table = np.array([OFFICIAL[name] for name in CITYSCAPES.names], np.uint8)
    for n in range(3):
        labels = cv2.imread(str(tmp_path / f"labels/bonn/bonn_{n:06d}_000019_leftImg8bit.png"), -1)
        ids = cv2.imread(str(tmp_path / f"labelIds/bonn/bonn_{n:06d}_000019_labelIds.png"), -1)
        assert (ids.ndim, ids.dtype) == (2, np.uint8)
        assert np.array_equal(ids, table[labels])
        with Image.open(tmp_path / f"palette/bonn/bonn_{n:06d}_000019_leftImg8bit.png") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), labels)
            assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(CITYSCAPES.colors, np.uint8)[labels])


def test_other_classes_have_no_label_ids():
    assert {name: CITYSCAPES_LABEL_IDS[name] for name in CITYSCAPES.names} == OFFICIAL
    with pytest.raises(IccldError, match="'cow' is none of them"):
        label_ids(LabelSpace("farm", ("road", "cow"), ((0, 0, 0), (1, 1, 1))))


def test_two_inputs_never_share_a_label_ids_name(model, tmp_path):
    for name in ("x", "x_leftImg8bit"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), scene(0, 64, 48)[0])
    run(model, [tmp_path / "x.png", tmp_path / "x_leftImg8bit.png"], tmp_path / "out", save=("labelIds",))
    assert len(list((tmp_path / "out/labelIds").iterdir())) == 2


def test_probabilities_name_their_classes_and_agree_with_the_labels(model, drive, tmp_path):
    run(model, [drive / "v.mp4"], tmp_path, save=("labels", "probabilities", "side"))
    with safe_open(tmp_path / "probabilities/v/000003.safetensors", "np") as file:
        assert json.loads(file.metadata()["classes"]) == list(CITYSCAPES.names)
        found = file.get_tensor("probabilities")
    assert (found.shape, found.dtype) == ((19, 48, 64), np.float16)
    assert np.allclose(found.sum(axis=0, dtype=np.float32), 1, atol=5e-3)
    labels = cv2.imread(str(tmp_path / "labels/v/000003.png"), -1)
    best = np.take_along_axis(found, labels[None].astype(int), 0)[0]
    assert np.array_equal(best, found.max(axis=0))  # fp16 may tie, never lose
    video = cv2.VideoCapture(str(tmp_path / "side/v.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (128, 48)


def test_frames_tell_what_the_other_results_show(model, drive, tmp_path):
    run(model, [drive / "v.mp4"], tmp_path, save=("labels", "confidence", "frames"))
    rows = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert [(row["name"], row["frame"], row["time"]) for row in rows] == [("v", i, i / 25) for i in range(5)]
    for row in rows:
        labels = cv2.imread(str(tmp_path / f"labels/v/{row['frame']:06d}.png"), -1)
        shares = {CITYSCAPES.names[i]: (labels == i).mean() for i in np.unique(labels)}
        assert row["classes"] == pytest.approx(shares, abs=1e-6)
        assert (row["width"], row["height"]) == (64, 48)
        assert 0 < row["confidence"] <= 1


def test_frames_of_other_inputs_stay_and_the_same_ones_are_replaced(model, drive, tmp_path):
    bonn = drive / "leftImg8bit/test"
    run(model, [drive / "v.mp4"], tmp_path, save=("frames", "dataset"))
    run(model, [bonn], tmp_path, save=("frames", "dataset"))
    first = (tmp_path / "frames.jsonl").read_text()
    run(model, [bonn], tmp_path, save=("frames", "dataset"), overwrite=True)
    assert (tmp_path / "frames.jsonl").read_text() == first
    assert len(first.splitlines()) == 8
    data = PreparedDataset(tmp_path / "dataset")
    assert (data.info.splits, data.info.extra["labelled"]) == ({"train": 8}, 8)


@pytest.mark.parametrize("save", [("frames",), ("dataset",), ("labels", "frames", "dataset")])
def test_numbers_and_data_set_are_results_that_exist(model, drive, tmp_path, save):
    given = [drive / "v.mp4", *sorted((drive / "leftImg8bit/test/bonn").iterdir())[:2]]
    run(model, given[:2], tmp_path, save=save)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(IccldError, match="exists"):
        run(model, given[:2], tmp_path, save=save)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    done = run(model, given, tmp_path, save=save, skip_existing=True)
    assert (done.skipped, done.images, done.frames) == (2, 1, 0)
    if "frames" in save:
        assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 7
    if "dataset" in save:
        assert PreparedDataset(tmp_path / "dataset").info.splits == {"train": 7}


def test_a_line_that_is_missing_is_made_again(model, drive, tmp_path):
    run(model, [drive / "v.mp4"], tmp_path, save=("labels",))
    done = run(model, [drive / "v.mp4"], tmp_path, save=("labels", "frames"), skip_existing=True)
    assert (done.skipped, done.frames) == (0, 5)


def test_what_lies_in_the_way_of_the_data_set_is_kept(model, drive, tmp_path):
    (tmp_path / "dataset/labels/v").mkdir(parents=True)
    (tmp_path / "dataset/labels/v/notes.txt").write_text("mine")
    with pytest.raises(IccldError, match="holds other files"):
        run(model, [drive / "v.mp4"], tmp_path, save=("dataset",), overwrite=True)
    assert (tmp_path / "dataset/labels/v/notes.txt").read_text() == "mine"


def test_flags_say_what_is_unusual():
    labels = np.zeros((1, 8, 8), np.uint8)
    sure, unsure = np.full((1, 8, 8), 0.9, np.float32), np.full((1, 8, 8), 0.3, np.float32)
    black = np.zeros((8, 8, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    assert facts_of(black, Segmentation(labels, unsure, sure), 0).flags == ("dark", "flat", "one_class", "unsure")
    assert facts_of(black + np.uint8(255), Segmentation(labels, sure, sure), 0).flags == ("bright", "flat", "one_class")
    labels[0, :4] = 3
    assert facts_of(noise, Segmentation(labels, sure, unsure), 0).flags == ()


def test_what_is_no_scene_is_neither_dark_nor_bright():
    labels, sure = np.zeros((1, 16, 8), np.uint8), np.full((1, 16, 8), 0.9, np.float32)
    labels[0, :2] = 3
    labels[0, 4:] = 255
    noise = np.random.default_rng(0).integers(60, 200, (16, 8, 3)).astype(np.uint8)
    for bonnet in (0, 255):
        noise[4:] = bonnet
        assert facts_of(noise, Segmentation(labels, sure, sure), 0).flags == ()
    noise[:4] = 5
    assert facts_of(noise, Segmentation(labels, sure, sure), 0).flags == ("dark", "flat")
    labels[:] = 255
    assert facts_of(noise, Segmentation(labels, 0 * sure, sure), 0).flags == ()


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0])
def test_the_data_set_holds_what_the_model_is_sure_of(model, drive, tmp_path, threshold):
    done = run(model, [drive], tmp_path, save=("labels", "dataset"), threshold=threshold)
    data = PreparedDataset(tmp_path / "dataset")
    assert done.dataset.digest == data.digest
    assert data.info.classes_known == CITYSCAPES.names_of(CLASSES)
    frames = data.frames("train")
    assert len(frames) == 8
    for frame in frames:
        image, label = data.read_image(frame), data.read_label(frame)  # which compare sizes, ids and checksums
        stem = frame.image.removeprefix("images/").rpartition(".")[0]
        predicted = cv2.imread(str(tmp_path / f"labels/{stem}.png"), -1)
        answer = model.segment(image[None], ["confidence"], sampling=Sampling())
        if frame.image.endswith(".png"):  # the very pixels that were predicted
            sure = (answer.confidence[0] >= threshold) & np.isin(predicted, CLASSES)
            assert np.array_equal(label, np.where(sure, predicted, 255))
        assert {int(i): int((label == i).sum()) for i in np.unique(label)} == frame.pixels
    counted = sum(frame.pixels.get(255, 0) for frame in frames)
    assert data.info.extra["pixels"].get("ignore", 0) == counted


def test_a_set_of_another_threshold_is_not_added_to(model, drive, tmp_path):
    run(model, [drive / "v.mp4"], tmp_path, save=("dataset",), threshold=0.2)
    before = (tmp_path / "dataset/index.jsonl").read_bytes()
    with pytest.raises(IccldError, match="another model or threshold"):
        run(model, [drive / "leftImg8bit"], tmp_path, save=("dataset",), threshold=0.3)
    assert (tmp_path / "dataset/index.jsonl").read_bytes() == before


def test_a_set_of_predictions_can_be_trained_on(model, drive, tmp_path, monkeypatch):
    from iccld_cli.__main__ import main

    run(model, [drive], tmp_path / "p", save=("dataset",), threshold=0.0)
    target = make_dataset(tmp_path / "target", counts=(("train", 2),), labelled=False)
    small = ["model.tiny_channels=[8,8,16,16]", "model.latent_channels=8", "data.workers=0", "run.overlay_every=0"]
    sets = [word for value in small for word in ("--set", value)]
    data = ["--source", tmp_path / "p/dataset", "--target", target, "--out", tmp_path / "run"]
    sizes = ["--preset", "tiny", "--iterations", "2", "--batch-size", "2", "--crop", "32x32"]
    monkeypatch.setattr(sys, "argv", ["iccld", "adapt-seg", *map(str, data), *sizes, *sets])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    trained = load_model(tmp_path / "run/stage1.safetensors", "cpu")
    assert trained.header.classes == CLASSES
    assert trained.header.datasets[0]["digest"] == PreparedDataset(tmp_path / "p/dataset").digest


def test_the_frames_to_label_first_are_unsure_and_differ():
    shares = np.array([[1, 0, 0], [0.99, 0.01, 0], [0, 1, 0], [0, 0, 1], [0, 0.01, 0.99]], np.float32)
    unsure = np.array([0.5, 0.49, 0.2, 0.3, 0.01], np.float32)
    chosen = most_worth_labelling(shares, unsure, 4)
    assert [number for number, _ in chosen] == [0, 3, 2, 1]  # 1 is unsure, but as good as 0
    assert [distance for _, distance in chosen[:3]] == [1, 1, 1]
    assert [number for number, _ in most_worth_labelling(shares[[0, 0, 0]], unsure[[4, 0, 1]], 9)] == [1, 2, 0]


def test_the_list_names_frames_that_can_be_found(model, drive, tmp_path):
    done = run(model, [drive], tmp_path, save=("dataset",), to_label=3)
    rows = [json.loads(line) for line in (tmp_path / "to_label.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert len(done.to_label) == 3
    for row in rows:
        assert (tmp_path / row["image"]).is_file()
    assert rows[0]["uncertainty"] >= max(row["uncertainty"] for row in rows)
