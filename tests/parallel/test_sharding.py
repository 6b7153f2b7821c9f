"""Networks in shards train as whole ones do, and leave files that anyone can read."""

import copy
import json
import shutil

import pytest
import torch
import training_runs as runs
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor

from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.checkpoint import load_segmenter
from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.header import read_header
from iccld_cli.inference.evaluate import Scope, evaluate, scored_classes
from iccld_cli.inference.model import Sampling, load_model
from iccld_cli.models.build import build_segmenter
from iccld_cli.parallel.blocks import checkpoint_activations
from iccld_cli.parallel.layout import layout_of
from iccld_cli.parallel.ranks import mean_over_ranks
from iccld_cli.train.data import open_data
from iccld_cli.train.state import list_states


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """The folder of a small DINOv2 with random weights; its norms and embeddings do not divide by two."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, patch_size=14, image_size=56)).save_pretrained(folder)
    return str(folder)


def adapt(world, out, encoder, *more):
    """Stage 1 with everything that touches the encoder: feature distance, best model, pictures."""
    every = ("run.validate_every=2", "run.overlay_every=2", "run.keep_states=3", "--save-every", "2")
    return runs.seg_arguments(
        world, out, "--encoder", encoder, "seg.feature_distance_weight=0.01", *every, *more, steps=4
    )


def scores(out):
    """mIoU of the run's model, read and scored by this process alone."""
    model = load_model(out / "stage1.safetensors")
    target = PreparedDataset(out.parent / "target")
    scope = Scope("val", scored_classes(model.header.classes, target))
    return evaluate(model, target, scope, Sampling(height=0)).miou  # the frames' own height, as while training


@pytest.fixture(scope="module")
def shards(world, encoder):
    """The run folder of a finished stage 1 in shards."""
    out = world / "shards"
    assert runs.run(adapt(world, out, encoder, "run.shard=true"), ranks=2) == [0, 0], runs.said(out) + runs.said(out, 1)
    return out


def test_stage_1_in_shards_trains_as_whole_networks_do(world, encoder, shards):
    whole = world / "whole"
    assert runs.run(adapt(world, whole, encoder), ranks=2) == [0, 0], runs.said(whole, 1)
    runs.same_within_rounding(runs.numbers(whole), runs.numbers(shards), rel=1e-4)
    assert [r["grad_norm"] for r in runs.numbers(shards)] == pytest.approx(
        [r["grad_norm"] for r in runs.numbers(whole)], rel=1e-3
    )
    for name in ("stage1.safetensors", "stage1.best.safetensors"):
        # Not their weights: a bias before a norm has no true gradient, and Adam makes steps of its rounding.
        one, other = (load_segmenter(out / name)[0] for out in (whole, shards))
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        a, b = (model.probabilities(images).numpy() for model in (one, other))
        assert b == pytest.approx(a, abs=1e-3)
    assert sorted(p.name for p in (shards / "overlays").iterdir()) == sorted(
        p.name for p in (whole / "overlays").iterdir()
    )
    assert "parameters in shards" in runs.said(shards)
    assert "Warning" not in runs.said(shards)


def test_a_model_trained_in_shards_scores_the_same_in_one_process(shards):
    assert scores(shards) == pytest.approx(runs.numbers(shards)[-1]["miou"], abs=1e-3)


@pytest.mark.parametrize("shard", ["true", "false"])
def test_a_run_in_shards_goes_on_to_the_bit_and_whole_within_rounding(world, encoder, shards, tmp_path, shard):
    out = tmp_path / "run"
    shutil.copytree(shards, out)
    first, *later = list_states(out)
    for state in later:
        shutil.rmtree(state.path)
    (out / "stage1.safetensors").unlink()
    assert first.step == 2
    arguments = adapt(world, out, encoder, f"run.shard={shard}", "--resume")
    assert runs.run(arguments, ranks=2) == [0, 0], runs.said(out, 1)
    if shard == "true":
        assert runs.numbers(out) == runs.numbers(shards)
        assert read_header(out / "stage1.safetensors").sha256 == read_header(world / "shards/stage1.safetensors").sha256
    else:
        runs.same_within_rounding(runs.numbers(shards), runs.numbers(out), rel=1e-4)
    assert "resuming stage1 after step 2" in runs.said(out)


def test_stage_2_in_shards_trains_as_whole_networks_do(stage1, tmp_path):
    # With micro-batches and checkpointing, whose second forward pass runs inside the backward pass.
    for name, more in (("whole", ()), ("shards", ("run.shard=true", "run.checkpointing=true"))):
        arguments = runs.adv_arguments(
            stage1 / "stage1.safetensors", tmp_path / name, "run.accumulate=2", *more, batch=1, steps=3
        )
        assert runs.run(arguments, ranks=2) == [0, 0], runs.said(tmp_path / name, 1)
    runs.same_within_rounding(runs.numbers(tmp_path / "whole"), runs.numbers(tmp_path / "shards"), rel=1e-4)
    for name in ("whole", "shards"):
        assert load_segmenter(tmp_path / name / "stage2.safetensors")[1].iterations == 3


def part(tensor):
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def train_both_ways(out, rank, world, encoder):
    """Two ranks: two bf16 steps with whole networks and in shards; writes what the shards hold."""
    data = open_data([world / "source"], [world / "target"])
    losses = {}
    accelerator = Accelerator(cpu=True)
    layout_of(load_config("tiny", assignments=["run.compile=true"]), accelerator)
    with pytest.raises(IccldError, match=r"run\.compile"):
        layout_of(load_config("tiny", assignments=["run.compile=true", "run.shard=true"]), accelerator)
    for shard in ("false", "true"):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        own = ("seg.burn_in=0.0", "data.crop=[64, 64]", "data.batch_size=2", f"run.shard={shard}")
        config = load_config("tiny", assignments=[*runs.SMALL, *own, f"model.encoder={encoder}"])
        stage = Stage1(
            config, data.space, build_segmenter(config, len(data.space), denoiser=False, seed=0), accelerator
        )
        checkpoint_activations(stage.student)
        batches = TrainingBatches(
            config.data, 0, FramePool.of(data.sources), FramePool.of(data.targets), data.classes, rank, 2
        )
        for step in range(2):
            batch = to_device(batches[step], config, step, torch.device("cpu"))
            losses.setdefault(shard, []).append(float(stage.step(step, batch)["loss"]))
    whole = build_segmenter(config, len(data.space), denoiser=False)
    backbone = sum(p.numel() for p in whole.encoder.backbone.parameters())
    held = {"losses": losses}
    for name, network in (("student", stage.student), ("teacher", stage.teacher.model)):
        held[name] = sum(part(p).numel() for p in network.encoder.backbone.parameters()) / backbone
    moments = [v for entry in stage.optimizer.state.values() for k, v in entry.items() if k == "exp_avg"]
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    held["moments"] = sum(part(m).numel() for m in moments) / trained
    held["memory"] = sum(part(p).untyped_storage().nbytes() for p in stage.student.parameters()) / (
        4 * sum(p.numel() for p in whole.parameters())
    )
    out.with_name(f"held{rank}.json").write_text(json.dumps(held))


def test_each_rank_holds_half_and_bf16_trains_as_with_whole_networks(world, encoder, tmp_path):
    assert runs.call(train_both_ways, tmp_path / "run", world, encoder) == [0, 0], runs.said(tmp_path / "run", 1)
    for rank in range(2):
        held = json.loads((tmp_path / f"held{rank}.json").read_text())
        assert held["losses"]["true"] == pytest.approx(held["losses"]["false"], rel=0.02)
        for part in ("student", "teacher", "moments", "memory"):
            assert held[part] == pytest.approx(0.5, abs=0.08), part


def gradients_both_ways(out, rank, folders):
    """Two ranks: gradients of a whole segmenter and of its cut copy, with blocks of every kind run twice."""
    accelerator = Accelerator(cpu=True)
    for folder in folders:
        config = load_config("tiny", assignments=[*runs.SMALL, f"model.encoder={folder}"])
        whole = build_segmenter(config, 3, denoiser=True, seed=0).train()
        shards = copy.deepcopy(whole)
        layout_of(load_config(base=config, assignments=["run.shard=true"]), accelerator).place([shards])
        images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(rank))
        for network in (whole, shards):
            torch.manual_seed(rank)  # stochastic depth
            z_0, skip, _ = network.encoder(images)
            estimate = network.denoiser(z_0, torch.zeros(2, dtype=torch.int64), z_0)
            features = network.encoder.backbone(images)[-1]
            decoded = (network.decoder(z, skip) for z in (estimate, z_0))
            (features.square().mean() + sum(d.square().mean() for d in decoded)).backward()
        for (name, a), b in zip(whole.named_parameters(), shards.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None:
                found = b.grad.full_tensor() if isinstance(b.grad, DTensor) else b.grad
                expected = mean_over_ranks(a.grad)
                if found is b.grad:  # a vector, which is averaged before the optimizer's step
                    found = mean_over_ranks(found)
                assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6), (folder, name)


def test_gradients_of_cut_encoders_are_those_of_whole_ones(encoder, tmp_path):
    pyramid = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    models = {
        "segformer": transformers.SegformerModel(
            transformers.SegformerConfig(**pyramid, num_attention_heads=[1, 1, 2, 4])
        ),
        "convnextv2": transformers.ConvNextV2Model(transformers.ConvNextV2Config(**pyramid)),
        "mobilenet": transformers.MobileNetV2Model(transformers.MobileNetV2Config(depth_multiplier=0.25)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    folders = [encoder, *(str(tmp_path / name) for name in models)]
    assert runs.call(gradients_both_ways, tmp_path / "run", folders) == [0, 0], runs.said(tmp_path / "run", 1)


def test_a_single_process_says_that_it_keeps_everything(world, tmp_path):
    arguments = runs.seg_arguments(world, tmp_path / "run", "run.shard=true", steps=1)
    assert runs.run(arguments) == [0], runs.said(tmp_path / "run")
    assert "run.shard has no effect" in runs.said(tmp_path / "run")
