"""Both stages on a CUDA device: every precision and option trains, and starts from the loss that the CPU computes."""

import math

import pytest
from runs import adv, seg, train

# Options, and how far the first loss may be from the one in float32 on the CPU.
VARIANTS = {
    "fp32": (("--precision", "fp32"), 2e-3),
    "bf16": (("--precision", "bf16"), 3e-2),
    "fp16": (("--precision", "fp16"), 1e-2),
    "accumulate": (("--precision", "fp32", "run.accumulate=2", "--batch-size", "1"), None),
    "checkpointing": (("--precision", "fp32", "run.checkpointing=true"), 2e-3),
    "compile": (("--precision", "fp32", "--compile"), 2e-3),
    "compile-bf16": (("--precision", "bf16", "--compile"), 3e-2),
    "detail": (("--precision", "bf16", "model.detail=true"), None),
    "context": (("--precision", "bf16", "data.context=[96,64]"), None),
    "workers": (("--precision", "bf16", "data.workers=2"), 3e-2),
}


@pytest.fixture(scope="session")
def on_cpu(world, stage1):
    """The same trainings on the CPU in float32: stage -> losses."""
    runs = {
        "seg": train(seg(world, world / "cpu-seg", "cpu", "--precision", "fp32")),
        "adv": train(adv(stage1, world / "cpu-adv", "cpu", "--precision", "fp32")),
    }
    assert [run.status for run in runs.values()] == [0, 0], runs
    return {name: run.losses() for name, run in runs.items()}


@pytest.mark.parametrize("stage", ["seg", "adv"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training(device, world, stage1, on_cpu, stage, variant, record_property):
    options, tolerance = VARIANTS[variant]
    if device == "cpu" and ("fp16" in options or "--compile" in options):
        pytest.skip("needs a CUDA device: fp16 and the compiler are not rehearsed")
    if stage == "adv" and variant == "detail":
        pytest.skip("stage 2 takes over what stage 1 was built as")
    out = world / f"{stage}-{variant}"
    run = train(seg(world, out, device, *options) if stage == "seg" else adv(stage1, out, device, *options))
    assert run.status == 0, run.said[-3000:]
    losses = run.losses()
    assert len(losses) == 6 and all(math.isfinite(loss) for loss in losses)
    assert f"({options[1]})" in run.said
    assert next(out.glob("stage?.safetensors")).exists()
    record_property("first_loss", losses[0])
    record_property("first_loss_on_cpu", on_cpu[stage][0])
    if tolerance is not None:
        assert losses[0] == pytest.approx(on_cpu[stage][0], rel=tolerance)


@pytest.mark.parametrize("stage", ["seg", "adv"])
def test_a_pretrained_encoder_with_all_losses(device, world, pretrained, stage):
    sets = ("seg.feature_distance_weight=0.005", "seg.masked_weight=1", f'model.encoder="{pretrained}"')
    first = train(seg(world, world / f"encoder-{stage}", device, *sets))
    assert first.status == 0, first.said[-3000:]
    assert {"loss_feature", "loss_masked"} <= first.numbers()[-1].keys()
    if stage == "adv":
        more = ("adv.adversary=output", "adv.gradient_penalty=1", "adv.align_encoder=true")
        second = train(adv(first.out / "stage1.safetensors", world / "encoder-2", device, *more))
        assert second.status == 0, second.said[-3000:]
        assert "loss_adversarial" in second.numbers()[-1]


@pytest.mark.parametrize("stage", ["seg", "adv"])
def test_resume_goes_on_to_the_bit(device, world, stage1, stage, record_property):
    """The losses of the first step after a resume are equal bit for bit: they depend on what was saved alone.

    Later steps add gradients in the order that the kernels happen to take; whether they agree to the bit as well, with
    torch's deterministic kernels, is noted.
    """
    out = world / f"resumed-{stage}"
    arguments = (seg if stage == "seg" else adv)(
        world if stage == "seg" else stage1, out, device, "--save-every", "3", "run.keep_states=9", "seg.burn_in=0"
    )
    exact = "import torch; torch.use_deterministic_algorithms(True, warn_only=True)"
    whole = train(arguments, before=exact)
    assert whole.status == 0, whole.said[-3000:]
    before = whole.numbers()
    (model,) = out.glob("stage?.safetensors")
    model.unlink()
    newest = max((out / "state").glob("*-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    newest.rename(out / "set-aside")
    again = train([*arguments, "--resume"], before=exact)
    assert again.status == 0, again.said[-3000:]
    assert "after step 3" in again.said
    after = again.numbers()
    assert [row["step"] for row in after] == [row["step"] for row in before]
    one, other = ({k: v for k, v in rows[3].items() if k.startswith("loss")} for rows in (before, after))
    record_property("all_steps_to_the_bit", before == after)
    assert one == other
    assert after[-1]["loss"] == pytest.approx(before[-1]["loss"], rel=2e-3)


@pytest.mark.parametrize("stage", ["seg", "adv"])
def test_the_batch_size_that_fits(device, world, stage1, stage, record_property):
    out, options = world / f"auto-{stage}", ("--precision", "fp32")
    arguments = (seg if stage == "seg" else adv)(
        world if stage == "seg" else stage1, out, device, *options, steps=2, batch="auto"
    )
    run = train(arguments)
    assert run.status == 0, run.said[-3000:]
    (line,) = [line for line in run.said.splitlines() if line.startswith("batch size ")]
    record_property("said", line)


def test_running_out_of_memory_names_what_to_lower(real_cuda, device, world):
    before = "import torch; torch.cuda.set_per_process_memory_fraction(0.005)"
    run = train(
        [*seg(world, world / "full", device, "--precision", "fp32", batch=64), "--crop", "512x512"], before=before
    )
    assert run.status == 1
    assert "ran out of memory in step 1" in run.said and "--batch-size" in run.said
    assert "Traceback" not in run.said


def test_optimizers_are_fused_and_images_channels_last(real_cuda, device, small_config):
    """What the presets' speed rests on is on: seen on the stage that the program builds."""
    import torch

    from iccld_cli.adapt.batch import images_to_device
    from iccld_cli.adapt.optim import optimizer_of
    from iccld_cli.models.build import build_segmenter
    from iccld_cli.models.views import View, join_views

    config = small_config()
    network = build_segmenter(config, 5, denoiser=False, seed=0).to(device)
    optimizer = optimizer_of([(network, 1e-4)], config.optim, torch.device(device))
    assert all(group["fused"] for group in optimizer.param_groups)
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images = images_to_device(pixels, torch.device(device))
    assert join_views([View(images), View(images)]).is_contiguous(memory_format=torch.channels_last)
