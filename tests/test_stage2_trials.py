"""benchmarks/stage2_trials.py in a tiny form: each trial from frames to its result, and what its numbers mean."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import stage2_trials
from stage2 import jobs, label_judge, repair, retrain
from stage2.frames import Draws, Frozen
from stage2.masked import complementary
from stage2.scores import score

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.labels import IGNORE
from iccld_cli.metrics.calibration import ErrorDetection
from iccld_cli.metrics.confusion import ConfusionMatrix

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a small encoder of random weights."""
    from transformers import AutoModel, MobileNetV2Config

    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    AutoModel.from_config(MobileNetV2Config(depth_multiplier=0.1, min_depth=8)).save_pretrained(path)
    return path


@pytest.fixture
def trial(world, stage1, encoder, tmp_path, monkeypatch):
    """A function: arguments -> the rows of the result."""

    def run(out, *arguments):
        given = ["--ckpt", stage1 / "stage1.safetensors", "--source", world / "source", "--target", world / "target"]
        given += ["--encoder", encoder, "--out", tmp_path / out, "--steps", 1, "--frames", 4, "--warm-up", 4]
        given += ["--limit", 1, "--device", "cpu", "--workers", 0]
        monkeypatch.setattr(sys, "argv", ["stage2_trials.py", *map(str, (*arguments, *given))])
        stage2_trials.main()
        return json.loads((tmp_path / out / "result.json").read_text())["rows"]

    return run


@pytest.fixture(scope="module")
def frozen(stage1, encoder):
    return Frozen(stage1 / "stage1.safetensors", str(encoder), CPU)


@pytest.fixture
def seen(frozen):
    """A frame of noise, encoded."""
    return frozen.seen(torch.rand(1, 3, 64, 72, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "arguments",
    [("start",), ("masked",), ("repair", "--variant", "plain-own"), ("judge", "--label-steps", "1"),
     ("judge", "--judge-weight", "0"), ("judge", "--label-steps", "1", "--no-calibration")],
)  # fmt: skip
def test_a_trial_writes_its_scores(arguments, trial):
    (row,) = trial("run", *arguments)
    assert row["split"] == "val"
    assert all(0 <= one["miou"] <= 100 and "iou road" in one for one in row["scores"].values())


def test_repaired_answers_are_learnt_again(trial, tmp_path, world, monkeypatch, capsys):
    (repaired,) = trial("repair", "repair", "--variant", "full")
    assert {name.partition(";")[0] for name in repaired["scores"]} == {"repaired, 0% noise", "repaired, 50% noise"}
    network = tmp_path / "repair/network-0.safetensors"
    (row,) = trial("again", "retrain", "--answers", "repaired", "--network", network, "--batch-size", "2")
    assert "trained; entropy" in row["scores"]
    pseudo, target = PreparedDataset(tmp_path / "again/pseudo"), PreparedDataset(world / "target")
    assert [f.image for f in pseudo.frames("train")] == [f.image for f in target.frames("train")]
    log = (tmp_path / "again/run-0/log.jsonl").read_text().splitlines()
    assert any("loss_labelled" in json.loads(line) for line in log)
    monkeypatch.setattr(sys, "argv", ["stage2_trials.py", "--table", str(tmp_path)])
    capsys.readouterr()
    stage2_trials.main()
    head, _, first, *others = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    assert len(others) == 2 and all(len(line) == len(head) for line in (first, *others))
    assert first[1] == "trained" and float(first[3]) == pytest.approx(row["scores"]["trained; 1 - p"]["miou"], abs=0.01)


def test_what_is_judged_is_the_mean_of_what_was_trained(frozen, world, stage1, encoder):
    options = argparse.Namespace(
        ckpt=stage1 / "stage1.safetensors", encoder=str(encoder), source=[world / "source"], target=world / "target",
        frames=4, warm_up=4, workers=0, device="cpu", variant="plain-own", steps=3, limit=1,
    )  # fmt: skip
    trial = repair.RepairTrial(options)
    assert len(trial.frames.source) == len(trial.frames.target) == 4 and len(trial.frames.labelled) == 8
    network = trial.network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mean, after = trial.train(network, 0).state_dict(), network.state_dict()
    for name in ("unet.conv_out.weight", "condition.0.running_mean"):
        assert not torch.equal(mean[name], before[name]) and not torch.equal(mean[name], after[name])
    assert int(mean["condition.0.num_batches_tracked"]) == 3


def test_only_trained_classes_are_answered(frozen, world):
    target = PreparedDataset(world / "target")
    for kind in ("start", "averaged"):
        for frame, labels, confidence in retrain.answers_of(kind, frozen, target, None, 1):
            assert labels.shape == confidence.shape == (frame.height, frame.width)
            assert set(np.unique(labels)) <= {*frozen.header.classes}


@pytest.mark.parametrize("name", repair.VARIANTS)
def test_a_repair_begins_with_the_first_answer_where_it_has_one(name, frozen, seen):
    variant = repair.VARIANTS[name]
    network = repair.new_repairer(variant, frozen).eval()
    noise = torch.randn(1, repair.Repairer.EMBEDDING, *seen.z.shape[-2:])
    with torch.no_grad():
        logits = network(seen.answer, repair.condition_of(variant, seen), torch.tensor([0.5]), noise)
    assert logits.shape == seen.answer.shape
    assert torch.equal(logits.argmax(1), seen.answer.argmax(1)) == variant.answer


def test_the_generator_begins_with_the_frozen_answer(frozen, seen):
    network = label_judge.Generator(frozen.model).train()
    with torch.no_grad():
        latents, logits = network(seen.z, seen.skip, torch.randn_like(seen.z))
    torch.testing.assert_close(latents, seen.z)
    torch.testing.assert_close(logits.softmax(1), seen.answer, atol=2e-3, rtol=0)


def test_label_latents_tell_classes_apart_and_have_unit_variance():
    labels = torch.zeros(1, 64, 96, dtype=torch.uint8)
    labels[:, :, 48:], labels[:, :8] = 2, IGNORE
    latents = label_judge.LabelEncoder(3, 8)(labels)
    assert latents.shape == (1, 8, 8, 12)
    torch.testing.assert_close(latents.var(1, unbiased=False), torch.ones(1, 8, 12), atol=0.05, rtol=0)
    assert (latents[0, :, 4, 2] - latents[0, :, 4, 9]).abs().max() > 0.05


def test_label_latents_are_those_of_the_image_where_there_is_no_label(seen):
    seen.labels[:, :, :160], seen.labels[:, :, 160:] = IGNORE, 0
    latents = label_judge.normalise_latent(torch.randn_like(seen.z))
    found = label_judge.filled(latents, seen)
    torch.testing.assert_close(found[..., :20], seen.z[..., :20], atol=0.02, rtol=0.02)
    torch.testing.assert_close(found[..., 20:], latents[..., 20:], atol=1e-3, rtol=1e-3)


def test_masks_hide_every_cell_once():
    assert (torch.stack(complementary((11, 15), CPU)).long().sum(0) == 1).all()


def test_draws_are_those_of_the_seed():
    first, second, other = (Draws(seed, CPU) for seed in (3, 3, 4))
    share = torch.tensor([0.0, 0.5])
    masks = first.blocks((11, 15), share)
    assert torch.equal(masks, second.blocks((11, 15), share)) and not masks[0].any() and masks[1].any()
    assert not torch.equal(first.normal(2, 5), other.normal(2, 5))
    assert not torch.equal(Draws(3, CPU).normal(5), torch.randn(5, generator=torch.Generator().manual_seed(3)))


def test_scores_are_those_of_the_program(frozen, world):
    data, rng = PreparedDataset(world / "target"), torch.Generator().manual_seed(0)
    matrix, detection, classes = ConfusionMatrix(19), ErrorDetection(), list(frozen.header.classes)
    frames = iter(data.frames("val"))

    def rules(pixels, size):
        answer = torch.tensor(classes)[torch.randint(len(classes), size, generator=rng)]
        unsure, label = torch.rand(size, generator=rng), data.read_label(next(frames))
        valid = np.isin(label, classes)
        matrix.update(answer.numpy(), label)
        detection.update(unsure.double().numpy()[valid], (answer.numpy() == label)[valid])
        yield "random", answer, unsure

    found = score(rules, frozen.header, data, "val", CPU)["random"]
    assert found["miou"] == pytest.approx(100 * matrix.scores(classes).miou, abs=1e-3)
    assert found["auroc"] == pytest.approx(100 * detection.value(), abs=1e-3)


def test_jobs_are_commands_of_this_script_and_come_after_what_they_need(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stage2_trials.py", "--jobs", "1000"])
    stage2_trials.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == jobs.lines(1000) and len(lines) == len(jobs.ORDER) > len(jobs.lines(25))
    done = set()
    for line in lines:
        assert line["name"] not in done and done.issuperset(line["needs"])
        done.add(line["name"])
        script, *arguments = line["argv"]
        assert (Path(__file__).parents[1] / script).is_file()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        options = stage2_trials._options()
        assert options.out == Path(jobs.OUT, line["name"]) and options.limit is None
        assert options.splits == ["val", "test"]
        for need in line["needs"]:
            assert options.network.parent.name == need
