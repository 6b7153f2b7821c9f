"""The teacher against an average written as a loop."""

import pytest
import torch
from accelerate import Accelerator

from iccld_cli.adapt.teacher import Teacher, ema_decay
from iccld_cli.parallel.layout import Replicated

WHOLE = Replicated(Accelerator(cpu=True))


def wander(model, step):
    """Move every parameter and buffer, as a training step would."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)


def test_average_of_parameters_and_buffers(small_segmenter):
    student = small_segmenter().train()
    teacher = Teacher(student, decay=0.8, layout=WHOLE)
    expected = {k: v.clone().double() for k, v in student.state_dict().items()}
    counters = [k for k, v in student.state_dict().items() if not v.is_floating_point()]
    assert any("running_mean" in k for k in expected) and counters
    for step in range(8):
        wander(student, step)
        teacher.update(student, step)
        decay = min(0.8, 1 - 1 / (step + 1))
        for name, value in student.state_dict().items():
            expected[name] = (
                value.double() if name in counters else decay * expected[name] + (1 - decay) * value.double()
            )
    for name, value in teacher.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_first_steps_are_a_running_mean(small_segmenter):
    student = small_segmenter(denoiser=False)
    teacher = Teacher(student, decay=0.99, layout=WHOLE)
    seen = []
    for step in range(5):
        wander(student, step)
        teacher.update(student, step)
        seen.append(student.decoder.classify.weight.detach().clone())
    torch.testing.assert_close(teacher.model.decoder.classify.weight, torch.stack(seen).mean(dim=0))


def test_the_teacher_is_apart_frozen_and_in_evaluation_mode(small_segmenter):
    student = small_segmenter().train()
    teacher = Teacher(student, decay=0.5, layout=WHOLE)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert all(p.requires_grad for p in student.parameters())
    mine = {p.data_ptr() for p in teacher.model.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in student.parameters())
    before = teacher.model.decoder.classify.weight.clone()
    wander(student, 0)
    assert torch.equal(teacher.model.decoder.classify.weight, before)
    teacher.update(student, 10)
    assert not teacher.model.training and student.training


def test_a_teacher_that_is_put_back_goes_on_as_before(small_segmenter):
    # Everything it needs is in its tensors and the step number: a resumed run's average does not start anew.
    def run(interrupt):
        student = small_segmenter(denoiser=False)
        teacher = Teacher(student, decay=0.7, layout=WHOLE)
        for step in range(6):
            if interrupt and step == 3:
                saved = {k: v.clone() for k, v in teacher.model.state_dict().items()}
                teacher = Teacher(student, decay=0.7, layout=WHOLE)
                teacher.model.load_state_dict(saved)
            wander(student, step)
            teacher.update(student, step)
        return teacher.model.state_dict()

    whole, resumed = run(False), run(True)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize(
    ("horizon", "iterations", "decay"),
    [(0.025, 40_000, 0.999), (0.1, 2000, 0.995), (0.1, 20, 0.9), (1.0, 10**7, 0.9999), (0.1, 1, 0.9)],
)
def test_decay_spans_a_share_of_the_run(horizon, iterations, decay):
    assert ema_decay(horizon, iterations) == pytest.approx(decay)
