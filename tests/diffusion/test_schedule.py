"""The noise process against its formulas."""

import math

import pytest
import torch

from iccld_cli.diffusion.schedule import add_noise, build_scheduler, terminal_timestep
from iccld_cli.sections import DiffusionConfig

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total", [10, 1000])
def test_alpha_bar_falls_to_nothing(schedule, total):
    scheduler = build_scheduler(DiffusionConfig(beta_schedule=schedule, train_timesteps=total))
    alpha_bar = scheduler.alphas_cumprod
    assert len(alpha_bar) == total
    assert float(alpha_bar[-1]) == 0.0  # zero terminal SNR, exactly
    assert (alpha_bar[1:] <= alpha_bar[:-1]).all()
    assert 0 < float(alpha_bar[0]) <= 1
    assert torch.isfinite(alpha_bar).all()


def test_cosine_schedule_against_its_formula():
    # Nichol and Dhariwal 2021, equation 17, betas capped at 0.999; then Lin et al. 2023, algorithm 1.
    def f(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((i + 1) / 100) / f(i / 100), 0.999) for i in range(100)]
    root = torch.tensor([1 - b for b in betas], dtype=torch.float64).cumprod(0).sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    scheduler = build_scheduler(DiffusionConfig(train_timesteps=100))
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), rescaled**2, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 1000])
def test_sampling_starts_at_pure_noise(steps):
    scheduler = build_scheduler(DiffusionConfig())
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    assert len(times) == steps
    assert times[0] == terminal_timestep(scheduler) == 999
    assert times == [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]  # trailing


@pytest.mark.parametrize("steps", [3, 7, 300])
def test_uneven_step_counts_start_there_too(steps):
    scheduler = build_scheduler(DiffusionConfig())
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    assert times[0] == 999
    assert len(times) == steps and times == sorted(set(times), reverse=True) and times[-1] >= 0


def test_noising_follows_the_equation():
    scheduler = build_scheduler(DiffusionConfig())
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    times = torch.tensor([0, 500, 999])
    noisy = add_noise(scheduler, clean, noise, times)
    for i, t in enumerate(times):
        a = scheduler.alphas_cumprod[t]
        torch.testing.assert_close(noisy[i], a.sqrt() * clean[i] + (1 - a).sqrt() * noise[i])
    assert torch.equal(noisy[2], noise[2])  # at t = T nothing of the clean latent is left


def test_noised_latents_keep_unit_variance():
    scheduler = build_scheduler(DiffusionConfig())
    clean, noise = torch.randn(2, 50_000).view(2, 1, 1, 50_000).unbind()
    for t in (0, 300, 700, 999):
        noisy = add_noise(scheduler, clean[None], noise[None], torch.tensor([t]))
        assert float(noisy.std()) == pytest.approx(1, abs=0.02)
