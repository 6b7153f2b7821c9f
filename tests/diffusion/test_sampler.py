"""The sampler against DDIM written by hand in double precision."""

import pytest
import torch

from iccld_cli.diffusion.sampler import sample, seeded_noise
from iccld_cli.diffusion.schedule import build_scheduler
from iccld_cli.sections import DiffusionConfig


def ddim_by_hand(denoise, alpha_bar, noise, steps):
    """Song et al. 2021, equation 12 with eta = 0, over trailing time steps; the last step lands on the estimate."""
    total = len(alpha_bar)
    times = [round(total - i * total / steps) - 1 for i in range(steps)]
    z = noise.double()
    for i, t in enumerate(times):
        clean = denoise(z, t).double()
        a = alpha_bar[t].double()
        before = alpha_bar[times[i + 1]].double() if i + 1 < steps else torch.tensor(1.0).double()
        error = (z - a.sqrt() * clean) / (1 - a).sqrt()
        z = before.sqrt() * clean + (1 - before).sqrt() * error
    return z


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "scaled_linear"])
def test_sampler_is_ddim(steps, schedule):
    scheduler = build_scheduler(DiffusionConfig(beta_schedule=schedule))
    noise = seeded_noise((2, 3, 4, 4), 0)

    def denoise(z, t):  # not linear, and different at every t
        return torch.tanh(z) * (1 - t / 2000) + t / 1000

    seen = []

    def batched(z, t):
        assert t.shape == (2,) and t.dtype == torch.int64 and len(set(t.tolist())) == 1
        seen.append(int(t[0]))
        return denoise(z, int(t[0]))

    result = sample(batched, scheduler, noise, steps)
    expected = ddim_by_hand(denoise, scheduler.alphas_cumprod, noise, steps)
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-4)
    assert seen[0] == 999 and len(seen) == steps


def test_one_step_is_the_first_estimate():
    scheduler = build_scheduler(DiffusionConfig())
    answer = torch.randn(1, 2, 3, 3)
    assert torch.equal(sample(lambda z, t: answer, scheduler, torch.randn(1, 2, 3, 3), 1), answer)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_a_constant_answer_is_reached(steps):
    scheduler = build_scheduler(DiffusionConfig())
    answer = torch.randn(1, 2, 3, 3)
    result = sample(lambda z, t: answer, scheduler, torch.randn(1, 2, 3, 3), steps)
    torch.testing.assert_close(result, answer)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts(steps):
    from iccld_cli.errors import IccldError

    with pytest.raises(IccldError, match=f"{steps} sampling steps are not possible: choose 1 to 1000"):
        sample(lambda z, t: z, build_scheduler(DiffusionConfig()), torch.zeros(1, 1, 2, 2), steps)


def test_a_scheduler_serves_one_run_after_another():
    scheduler = build_scheduler(DiffusionConfig())
    noise = torch.randn(1, 2, 3, 3)
    first = sample(lambda z, t: z.tanh(), scheduler, noise, 4)
    sample(lambda z, t: z.tanh(), scheduler, noise, 9)
    assert torch.equal(sample(lambda z, t: z.tanh(), scheduler, noise, 4), first)


def test_a_scheduler_serves_two_runs_at_once():
    scheduler = build_scheduler(DiffusionConfig())
    noise = torch.randn(1, 2, 3, 3)
    first = sample(lambda z, t: z.tanh(), scheduler, noise, 4)

    def interrupted(z, t):
        sample(lambda z, t: z.tanh(), scheduler, noise, 9)
        return z.tanh()

    assert torch.equal(sample(interrupted, scheduler, noise, 4), first)


def test_noise_is_a_function_of_seed_and_index():
    shape = (1, 2, 8, 8)
    assert torch.equal(seeded_noise(shape, 3, 1), seeded_noise(shape, 3, 1))
    draws = [seeded_noise(shape, s, i) for s in range(3) for i in range(3)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 9
    torch.manual_seed(5)
    state = torch.get_rng_state()
    seeded_noise(shape, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_standard_normal():
    noise = seeded_noise((1, 100_000), 12)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert torch.isfinite(seeded_noise((4,), 2**62)).all()
