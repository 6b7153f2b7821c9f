"""The fake device itself: it computes shapes, and finds what lies on the wrong device."""

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, devices_of, fake_cuda, training_step


def test_shapes_and_layouts_are_those_of_real_tensors():
    real, weight = torch.rand(2, 3, 8, 6), torch.rand(4, 3, 3, 3)

    def compute(x, w):
        x = x.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, w)
        rows = torch.arange(1).to(y.device)
        return [x, y, y[:, 1:3], y.argmax(dim=1), y.half(), y.flatten(1) @ y.flatten(1).mT, y[rows]]

    expected = compute(real, weight)
    with fake_cuda() as device:
        found = compute(torch.empty_strided(real.shape, real.stride()).to(device), torch.empty(4, 3, 3, 3).to(device))
        for one, other in zip(found, expected, strict=True):
            assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, CUDA)
        assert found[0].stride() == expected[0].stride()
        assert devices_of(found) == {"cuda"}


@pytest.mark.parametrize(
    "use",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here @ there,
        lambda here, there: here[there.long()],
        lambda here, there: F.linear(here, there),
        lambda here, there: here.mul_(there),
        lambda here, there: torch.where(there > 0, here, here),
    ],
)
def test_tensors_of_two_devices_do_not_meet(cuda, use):
    use(torch.ones(3, 3).to(cuda), torch.ones(3, 3).to(cuda))
    with pytest.raises((RuntimeError, AssertionError), match=r"devices|tensors on"):
        use(torch.ones(3, 3).to(cuda), torch.ones(3, 3))


def test_what_lies_on_the_cpu_since_before_does_not_meet_either():
    table = torch.ones(3)
    with fake_cuda() as device, pytest.raises(RuntimeError, match="devices"):
        torch.ones(3).to(device) * table


@pytest.mark.parametrize("look", [float, bool, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.nonzero])
def test_looking_at_a_number_is_refused(cuda, look):
    with pytest.raises(AssertionError, match="wait"):
        look(torch.ones(()).to(cuda))


@pytest.mark.parametrize(
    "copy",
    [
        lambda x, d: x.to(d),
        lambda x, d: x.to(torch.ones(()).to(d, non_blocking=True)),
        lambda x, d: torch.tensor(1, device=d),
    ],
)
def test_a_copy_that_waits_is_refused_in_a_step(cuda, copy):
    copy(torch.ones(3), cuda)
    with training_step():
        torch.ones(3).to(cuda, non_blocking=True)
        with pytest.raises(AssertionError, match="wait"):
            copy(torch.ones(3), cuda)
