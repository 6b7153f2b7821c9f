"""Batches are a function of (seed, step, sample), however they are split."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))

import kornia
from training_runs import make_dataset

from iccld_cli.adapt.augment import blur
from iccld_cli.data.batches import FramePool, TrainingBatches, read_steps, trained_height
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE
from iccld_cli.sections import DataConfig

CLASSES = (0, 2, 10, 13)


@pytest.fixture
def pools(tmp_path):
    source = FramePool.of([PreparedDataset(make_dataset(tmp_path / "source"))])
    return source, FramePool.of([PreparedDataset(make_dataset(tmp_path / "target", labelled=False, seed=5))])


def batches(pools, size, **options):
    given = {name: options.pop(name) for name in ("workers", "context", "same_window") if name in options}
    config = DataConfig(**{"crop": (64, 32), "batch_size": size, "workers": 0, **given})
    return TrainingBatches(config, 7, *pools, CLASSES, **options)


def test_ranks_and_micro_batches_together_hold_the_samples_of_one_batch(pools):
    whole = batches(pools, 8)[3]
    parts = {}
    for rank in range(2):
        for micro in range(2):
            part = batches(pools, 2, rank=rank, world=2, accumulate=2)[3 * 2 + micro]
            assert part.micro == (micro, 2)
            parts[part.first] = part
    assert sorted(parts) == [0, 2, 4, 6]
    for key in ("source", "label", "paste", "target", "pseudo_valid"):
        assert torch.equal(torch.cat([getattr(parts[n], key) for n in sorted(parts)]), getattr(whole, key)), key
    assert sum(p.labelled for p in parts.values()) == whole.labelled == int((whole.label != IGNORE).sum())


@pytest.mark.parametrize(
    ("scales", "rows"), [((1.0, 1.5), 1.0), ((0.5, 0.5), 0.5), ((0.8, 1.6), 1.0), ((1.25, 2.0), 1.25)]
)
def test_the_trained_height_is_the_one_nearest_to_the_frames_own(pools, scales, rows):
    config = DataConfig(target_scale=scales)
    assert trained_height(config, pools[1]) == round(rows * pools[1].median_height())
    assert trained_height(config, None) is None


def test_target_crops_are_cut_out_of_what_the_teacher_sees(pools):
    alone, batch = batches(pools, 8)[3], batches(pools, 8, context=(96, 64))[3]
    assert alone.surroundings is None and alone.places is None
    assert batch.surroundings.shape == (8, 3, 64, 96)
    for crop, around, (top, left) in zip(batch.target, batch.surroundings, batch.places.tolist(), strict=True):
        assert torch.equal(crop, around[:, top : top + 32, left : left + 64])
    assert torch.equal(batch.source, alone.source)  # the rest of the batch is the same as without
    assert batch.names == alone.names
    assert batch.pseudo_valid.shape == (8, 32, 64)


def test_a_target_crop_can_be_cut_where_the_source_crop_is(tmp_path):
    """Red tells how far to the right in its frame a pixel is, green how far down, whatever the frame's size."""
    pools = []
    for name, size in (("source", (160, 80)), ("target", (240, 120))):
        root = make_dataset(tmp_path / name, size=size)
        across, down = np.linspace(0, 250, size[0]), np.linspace(0, 250, size[1])
        image = np.zeros((*size[::-1], 3), np.uint8)
        image[..., 2], image[..., 1] = across[None], down[:, None]
        for path in (root / "images").iterdir():
            cv2.imwrite(str(path), image)
        pools.append(FramePool.of([PreparedDataset(root)]))

    def apart(**options):
        batch = batches(pools, 16, **options)[3]
        return (batch.source.float() - batch.target.float()).abs().amax((1, 2, 3))

    assert apart(same_window=True).max() < 8
    assert apart().min() > 20
    assert batches(pools, 16, same_window=True)[3].label.equal(batches(pools, 16)[3].label)


def test_workers_and_the_first_step_change_nothing(pools):
    alone = list(read_steps(batches(pools, 1, accumulate=2), 0, 4, pin_memory=False))
    helped = list(read_steps(batches(pools, 1, accumulate=2, workers=2), 2, 4, pin_memory=False))
    assert [len(step) for step in alone] == [2] * 4
    for a, b in zip(alone[2:], helped, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x.source, y.source)
            assert x.names == y.names


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_cannot_be_read_is_one_clean_error(pools, workers):
    for _, frame in pools[0].frames:
        (pools[0].datasets[0].root / frame.image).write_bytes(b"not a picture")
    with pytest.raises(IccldError) as error:
        list(read_steps(batches(pools, 1, workers=workers), 0, 2, pin_memory=False))
    assert error.value.message.startswith("cannot read image ")
    assert "Traceback" not in str(error.value)
    assert error.value.hint == "prepare the data set again"


def test_target_labels_are_never_opened(tmp_path, pools):
    root = make_dataset(tmp_path / "labelled", seed=5)
    for path in (root / "labels").iterdir():
        path.unlink()
    batch = batches((pools[0], FramePool.of([PreparedDataset(root)])), 2)[0]
    assert batch.target.shape == (2, 3, 32, 64)


def test_blur_agrees_with_kornia_and_leaves_an_image_without_sigma_alone():
    images = torch.rand(2, 3, 12, 16)
    found = blur(images, torch.tensor([0.0, 1.1]))
    expected = kornia.filters.gaussian_blur2d(images[1:], (7, 7), (1.1, 1.1))
    np.testing.assert_allclose(found[1:], expected, atol=1e-6)
    np.testing.assert_allclose(found[:1], images[:1], atol=1e-6)


def test_what_is_no_scene_of_a_target_has_no_pseudo_labels(tmp_path):
    """A picture of the bonnet beside the frames reaches every target crop where the crop shows the bonnet."""
    root = make_dataset(tmp_path / "target", labelled=False, seed=5)
    source = FramePool.of([PreparedDataset(make_dataset(tmp_path / "source"))])
    plain = batches((source, FramePool.of([PreparedDataset(root)])), 8)[3]
    assert plain.ignored is None
    frame = PreparedDataset(root).frames("train")[0]
    region = np.zeros((frame.height, frame.width), np.uint8)
    region[frame.height // 2 :] = 255
    data = cv2.imencode(".png", region)[1].tobytes()
    (root / "ignored.png").write_bytes(data)
    info = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    (root / "dataset.json").write_text(json.dumps(info | {"ignored": hashlib.sha256(data).hexdigest()}))
    pools = source, FramePool.of([PreparedDataset(root)])
    found = batches(pools, 8)[3]
    assert torch.equal(found.target, plain.target)
    assert 0 < found.ignored.float().mean() < 1
    assert torch.equal(found.pseudo_valid, plain.pseudo_valid & ~found.ignored)
    columns = found.ignored.float().std(dim=2)
    assert not columns.any()  # whole rows, the lower ones
    assert (found.ignored.float().diff(dim=1) >= 0).all()
    (root / "ignored.png").write_bytes(data + b"x")
    with pytest.raises(IccldError, match="checksum differs"):
        batches((source, FramePool.of([PreparedDataset(root)])), 8)[3]
