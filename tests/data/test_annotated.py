"""Labelled crops of the target: each holds a labelled pixel, and coarse labels stand for all that they may show."""

import json

import cv2
import numpy as np
import pytest
import torch
from training_runs import make_dataset

from iccld_cli.data.annotated import AnnotatedCrops, meaning_of
from iccld_cli.data.batches import FramePool, TrainingBatches
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.data.sampling import sample_rng
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, IGNORE
from iccld_cli.sections import DataConfig

ROAD, BUILDING, SKY, CAR, TRUCK, BUS = CITYSCAPES.ids_of(("road", "building", "sky", "car", "truck", "bus"))
CLASSES = (ROAD, BUILDING, SKY, CAR)
CONFIG = DataConfig(crop=(64, 32), batch_size=4, workers=0)


def relabel(root, change):
    """Rewrite the labels of a set: `change` gets (number, label) and returns the new one, or None for no label."""
    lines = []
    for number, line in enumerate((root / "index.jsonl").read_text().splitlines()):
        row = json.loads(line)
        label = change(number, cv2.imread(str(root / row["label"]), cv2.IMREAD_GRAYSCALE))
        if label is None:
            row |= {"label": None, "pixels": None}
        else:
            cv2.imwrite(str(root / row["label"]), label)
            ids, counts = np.unique(label, return_counts=True)
            row["pixels"] = {str(i): int(n) for i, n in zip(ids, counts, strict=True)}
        lines.append(json.dumps(row))
    (root / "index.jsonl").write_text("\n".join(lines) + "\n")
    return root


def points(number, label):
    """Two labelled pixels a frame; none in frame 1, no label for frame 2."""
    found = np.full_like(label, IGNORE)
    if number != 1:
        for row, column in ((3, 5), (40, 60 + number)):
            found[row, column] = label[row, column]
    return None if number == 2 else found


def crops_of(root, classes=CLASSES, covers=(), folds=None, height=64.0, config=CONFIG):
    pool = FramePool.of([PreparedDataset(root)])
    return AnnotatedCrops(config, pool, meaning_of([dict(covers)], classes, folds or {}, 19), folds or {}, height)


@pytest.mark.parametrize("height", [64.0, 30.0])
def test_every_crop_holds_a_labelled_pixel(tmp_path, height):
    crops = crops_of(relabel(make_dataset(tmp_path / "few"), points), height=height)
    assert len(crops.pool.frames) == 3
    for seed in range(60):
        image, label, name = crops.draw(np.random.default_rng(seed))
        assert image.shape == (32, 64, 3) and label.shape == (32, 64)
        assert (label != IGNORE).sum() >= 1
        assert name.startswith("few/images/train-")


def test_rare_classes_are_drawn_as_often_as_common_ones(tmp_path):
    def mostly_road(number, label):
        return np.where((label == CAR) & (number > 0), np.uint8(IGNORE), label)

    crops = crops_of(relabel(make_dataset(tmp_path / "few"), mostly_road))
    seen = sum((crops.draw(np.random.default_rng(seed))[1] == CAR).any() for seed in range(40))
    assert seen > 10  # one frame of five has a car, of 252 pixels


def test_labels_coarser_than_the_classes_stand_for_all_that_they_cover():
    covers = {TRUCK: CAR, BUS: CAR, 3: BUILDING}
    meaning = meaning_of([covers, {}], (*CLASSES, TRUCK, BUS), {}, 19)
    assert meaning.groups == ((CAR, TRUCK, BUS),)  # walls are not learnt, so a building is one
    first, second = meaning.tables
    assert (first[CAR], first[BUILDING], first[3], first[ROAD]) == (19, BUILDING, IGNORE, ROAD)
    assert (second[CAR], second[TRUCK]) == (CAR, TRUCK)
    folded = meaning_of([{}], CLASSES, {TRUCK: CAR}, 19)
    assert folded.tables[0][TRUCK] == CAR and folded.groups == ()
    coarse_alone = meaning_of([covers], (TRUCK, BUS, ROAD), {}, 19)
    assert coarse_alone.groups == ((TRUCK, BUS),)  # what the label itself says is not learnt


def test_crops_carry_the_groups(tmp_path):
    crops = crops_of(make_dataset(tmp_path / "few"), (*CLASSES, TRUCK), {TRUCK: CAR})
    labels = np.stack([crops.draw(np.random.default_rng(seed))[1] for seed in range(8)])
    assert set(np.unique(labels)) == {ROAD, BUILDING, SKY, 19, IGNORE}


def test_a_set_without_a_pixel_to_learn_from_is_one_line(tmp_path):
    root = relabel(make_dataset(tmp_path / "few"), lambda number, label: np.full_like(label, TRUCK))
    with pytest.raises(IccldError, match=r"few has no labelled pixel of the classes trained on"):
        crops_of(root)
    assert crops_of(root, folds={TRUCK: CAR}).draw(np.random.default_rng(0))[1].max() == CAR


def test_batches_hold_labelled_crops_as_a_function_of_the_sample(tmp_path):
    source, target = make_dataset(tmp_path / "source"), make_dataset(tmp_path / "target", labelled=False, seed=5)
    few = relabel(make_dataset(tmp_path / "few", seed=7), points)
    pools = [FramePool.of([PreparedDataset(root)]) for root in (source, target)]
    plain = TrainingBatches(CONFIG, 7, *pools, CLASSES)[3]
    assert plain.annotated is None
    crops = crops_of(few)
    whole = TrainingBatches(CONFIG, 7, *pools, CLASSES, annotated=crops)[3]
    assert whole.annotated.shape == (4, 3, 32, 64) and whole.annotation.shape == (4, 32, 64)
    assert len(whole.names) == 3
    for key in ("source", "label", "paste", "target", "pseudo_valid"):  # the rest of the batch is the same as without
        assert torch.equal(getattr(whole, key), getattr(plain, key))
    halves = CONFIG.model_copy(update={"batch_size": 2})
    parts = [TrainingBatches(halves, 7, *pools, CLASSES, rank=r, world=2, annotated=crops)[3] for r in range(2)]
    assert torch.equal(torch.cat([part.annotation for part in parts]), whole.annotation)
    assert torch.equal(whole.annotation[1], torch.from_numpy(crops.draw(sample_rng(7, 3, 1, 3))[1]))
