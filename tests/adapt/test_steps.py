"""Single steps of both stages: splitting a batch, forgetting activations, never waiting for the device."""

import copy
import traceback

import pytest
import torch
import training_runs as runs
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from iccld_cli.adapt.batch import to_device
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.adapt.stage2 import Stage2
from iccld_cli.adapt.teacher import Teacher
from iccld_cli.config import load_config
from iccld_cli.data.batches import FramePool, TrainingBatches
from iccld_cli.errors import is_out_of_memory
from iccld_cli.models.build import build_segmenter
from iccld_cli.parallel.blocks import checkpoint_activations
from iccld_cli.train.data import open_data
from iccld_cli.train.memory import saved_for_backward


@pytest.fixture
def make(world):
    """A function: stage and assignments -> stage, and a function that trains a step and returns its numbers."""
    AcceleratorState._reset_state(reset_partial_state=True)
    data = open_data([world / "source"], [world / "target"])

    def build(stage, *assignments, norm=True):
        config = load_config("tiny", assignments=[*runs.SMALL, "seg.burn_in=0.0", *assignments])
        config = load_config(base=config, overrides={"data.crop": (64, 64)})
        accelerator = Accelerator(cpu=True)
        student = build_segmenter(config, len(data.space), denoiser=stage == 2, seed=0)
        if not norm:  # batch norm sees a micro-batch only, which is the one difference that splitting makes
            for parent in list(student.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, torch.nn.BatchNorm2d):
                        setattr(parent, name, torch.nn.GroupNorm(4, child.num_features))
        torch.manual_seed(1)
        made = (Stage2 if stage == 2 else Stage1)(config, data.space, student, accelerator)
        batches = TrainingBatches(
            config.data,
            0,
            FramePool.of(data.sources),
            FramePool.of(data.targets),
            data.classes,
            accumulate=config.run.accumulate,
        )

        def step(number):
            raws = [batches[number * config.run.accumulate + m] for m in range(config.run.accumulate)]
            mean = sum(r.labelled for r in raws) / len(raws)
            rows = []
            for raw in raws:
                torch.manual_seed(number)
                batch = to_device(raw, config, number, torch.device("cpu"), mean)
                rows.append(made.step(number, batch))
            return {k: torch.stack([r[k] for r in rows if k in r]).mean() for k in rows[-1]}

        return made, step

    return build


def test_micro_batches_train_as_the_whole_batch_does(make):
    confident = ("pseudo.gate=threshold", "pseudo.threshold=0.0")  # the running gates see batches in turn
    whole, step_whole = make(1, "data.batch_size=4", *confident, norm=False)
    split, step_split = make(1, "data.batch_size=1", "run.accumulate=4", *confident, norm=False)
    for number in range(2):
        a, b = step_whole(number), step_split(number)
        for key in ("loss", "loss_source", "loss_mixed", "grad_norm"):
            assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-4), (number, key)
    for x, y in zip(whole.teacher.model.parameters(), split.teacher.model.parameters(), strict=True):
        assert x.detach().numpy() == pytest.approx(y.detach().numpy(), abs=2e-4)


@pytest.mark.parametrize("stage", [1, 2])
def test_checkpointing_changes_no_number(make, stage):
    plain, step_plain = make(stage, "data.batch_size=2")
    frugal, step_frugal = make(stage, "data.batch_size=2")
    checkpoint_activations(frugal.student)
    assert frugal.student.state_dict().keys() == plain.student.state_dict().keys()
    for number in range(2):
        assert step_plain(number) == step_frugal(number)
    for name, value in plain.student.state_dict().items():  # running statistics of batch norm included
        assert torch.equal(value, frugal.student.state_dict()[name]), name


def test_checkpointing_keeps_fewer_activations(make):
    stage, _ = make(1)
    frugal = copy.deepcopy(stage.student)
    checkpoint_activations(frugal)
    images = torch.rand(2, 3, 64, 64)
    full = saved_for_backward(lambda: stage.student(images)[0].mean())
    assert saved_for_backward(lambda: frugal(images)[0].mean()) < 0.6 * full


class _Waits(TorchDispatchMode):
    """Notes operations whose result the host must read from the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique")):
            frames = [f for f in traceback.extract_stack() if "iccld_cli" in f.filename]
            self.found.append((name, f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", [1, 2])
def test_no_step_reads_from_its_device(make, stage):
    _, step = make(stage, "data.batch_size=2", "seg.masked_weight=1.0")
    step(0)
    with _Waits() as waits:
        step(1)
    # On the host by design: which samples are pure noise, one-hot's range check, which a GPU leaves out, and the
    # optimizer's own step count, which a GPU's fused kernels keep on the device.
    allowed = {"draw_noise", "<listcomp>", "apply_gradients", "reduce_gradients", "sample", "add_noise"}
    assert {f for f in waits.found if f[1].rpartition(":")[2] not in allowed} == set()


def test_the_teacher_is_a_running_mean_and_then_an_exponential_one(make):
    stage, _ = make(1)
    student = stage.student
    teacher = Teacher(student, decay=0.75, layout=stage.layout)
    parameter, statistic = student.decoder.classify.bias, student.encoder.backbone.stem[1].running_mean
    seen = []
    for step in range(6):
        with torch.no_grad():
            parameter.fill_(float(step * step))
            statistic.fill_(float(step))
        teacher.update(student, step)
        seen.append(
            (
                float(teacher.model.decoder.classify.bias[0]),
                float(teacher.model.encoder.backbone.stem[1].running_mean[0]),
            )
        )
    expected, buffers = 0.0, 0.0
    for step, (value, buffer) in enumerate(seen):
        decay = min(0.75, step / (step + 1))
        expected, buffers = decay * expected + (1 - decay) * step**2, decay * buffers + (1 - decay) * step
        assert value == pytest.approx(expected)
        assert buffer == pytest.approx(buffers)  # buffers too: others leave them behind
    assert seen[2][0] == pytest.approx((0 + 1 + 4) / 3)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.model.training


def test_out_of_memory_is_recognised():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
