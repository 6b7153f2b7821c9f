"""Both stages, their networks, losses, pseudo-labels and augmentation with everything on a CUDA device in name."""

from dataclasses import replace

import pytest
import torch
from devices import devices_of, fake_cuda, training_step
from stages import batch_on_device, build_stage, build_student, tensors_of

# Each row meets as many branches as go together: fake tensors are slow.
EVERYTHING_DRAWN = tuple(f"augment.{kind}_probability=1" for kind in ("jitter", "blur", "style"))
SEG = [
    (),
    ("pseudo.gate=balanced", "seg.masked_weight=1", *EVERYTHING_DRAWN),
    ("pseudo.gate=threshold", "model.detail=true", "seg.masked_weight=1"),
    ("model.skip_channels=0", "data.context=[96,64]", "augment.blur_probability=0"),
]
ADV = [
    ("adv.align_encoder=true", *EVERYTHING_DRAWN),
    ("model.detail=true", "adv.adversary=output"),
    ("adv.generate=false", "adv.self_training=false"),
    ("adv.adversarial_weight=0", "pseudo.gate=balanced", "data.context=[96,64]"),
]


def run_step(config, name, raw, steps=(-1,)):
    """The last step of a stage, or others; every number it gives and all that it keeps is on the device."""
    student = build_student(config, name)
    with fake_cuda():
        stage = build_stage(config, name, student)
        assert devices_of(tensors_of(stage)) == {"cuda"}
        for step in steps:
            with training_step():
                batch = batch_on_device(config, raw)
                stats = stage.step(step % stage.iterations, batch)
            assert {k for k, v in stats.items() if v.device.type != "cuda"} == set()
            assert {k for k, v in tensors_of(stage).items() if v.device.type != "cuda"} == set()
    return stats


@pytest.mark.parametrize("settings", SEG, ids=" ".join)
def test_stage_1(small_config, loaded, settings):
    raw = loaded(context=(64, 96) if any("context" in s for s in settings) else None)
    stats = run_step(small_config("data.crop=[64,64]", *settings), "stage1", raw)
    assert "loss_mixed" in stats
    assert ("loss_masked" in stats) == ("seg.masked_weight=1" in settings)


@pytest.mark.parametrize("settings", ADV, ids=" ".join)
def test_stage_2(small_config, loaded, settings):
    raw = loaded(context=(64, 96) if any("context" in s for s in settings) else None)
    stats = run_step(small_config("data.crop=[64,64]", *settings), "stage2", raw)
    assert ("loss_decoded" in stats) == ("adv.generate=false" not in settings)
    assert ("disc_loss" in stats) == ("adv.adversarial_weight=0" not in settings)


def test_the_source_alone(small_config, loaded):
    raw = replace(loaded(), target=None, pseudo_valid=None)
    assert "loss_mixed" not in run_step(small_config(), "source_only", raw)


def test_the_first_step_of_stage_2(small_config, loaded):
    """Prototypes are made from the teacher's latents then."""
    assert "loss_latent" in run_step(small_config(), "stage2", loaded(), steps=(0,))


@pytest.mark.parametrize("kind", ["mobilenet", "segformer", "dinov2"])
def test_encoders_and_the_feature_distance(small_config, loaded, encoder_folder, kind):
    config = small_config(f'model.encoder="{encoder_folder(kind)}"', "seg.feature_distance_weight=0.005")
    assert "loss_feature" in run_step(config, "stage1", loaded())


@pytest.mark.parametrize("settings", [(), ("model.detail=true",)], ids=" ".join)
def test_inference(small_config, settings):
    model = build_student(small_config(*settings), "stage2").eval()
    with fake_cuda() as device:
        model.to(device)
        images = torch.ones(2, 3, 100, 72).to(device)
        plain = model.probabilities(images, steps=0)
        smaller = model.probabilities(images, steps=2, size=(50, 36))
        logits = list(model.logits(model.fit(images), steps=2, draws=2))
        assert plain.shape == (2, 19, 100, 72) and smaller.shape == (2, 19, 50, 36) and len(logits) == 2
        assert devices_of([plain, smaller, *logits]) == {"cuda"}


@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_labelled_crops_of_the_target(small_config, loaded, name):
    raw = loaded()
    raw = replace(raw, annotated=raw.target, annotation=raw.label.clone(), groups=((0, 2), (10, 13)))
    raw.annotation[:, :4] = 20  # the second group
    assert "loss_labelled" in run_step(small_config("data.crop=[64,64]", *EVERYTHING_DRAWN), name, raw)
