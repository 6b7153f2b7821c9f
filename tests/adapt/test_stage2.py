"""Single steps of stage 2."""

import dataclasses
import functools
import math

import pytest
import torch
from accelerate import Accelerator
from stage_batches import SPACE, make_batch

from iccld_cli.adapt.adversary import Adversary
from iccld_cli.adapt.baselines import stage2_class
from iccld_cli.adapt.prototypes import Prototypes
from iccld_cli.adapt.stage2 import without_ignored
from iccld_cli.diffusion.latent import class_shares, prototype_sums
from iccld_cli.labels import IGNORE
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.views import View
from iccld_cli.parallel.layout import layout_of


@pytest.fixture
def make_stage(small_config):
    def make(*assignments, lively=True):
        config = small_config("optim.lr=1e-3", "adv.unet_lr=1e-3", "adv.iterations=40", *assignments)
        student = build_segmenter(config, len(SPACE), denoiser=config.adv.generate, seed=0)
        if lively and student.denoiser is not None:
            torch.nn.init.normal_(student.denoiser.unet.conv_out.weight, std=0.1)
        return stage2_class(config)(config, SPACE, student, Accelerator(cpu=True))

    return make


def tensors(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_steps_lower_the_loss(make_stage):
    stage = make_stage(lively=False)
    losses = [float(stage.step(step, make_batch(step % 2))["loss_decoded"]) for step in range(14)]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])


def test_a_step_says_what_it_did_and_keeps_no_graph(make_stage):
    stats = make_stage("adv.terminal_probability=1").step(0, make_batch())
    names = {"loss", "loss_latent", "loss_decoded", "loss_direct", "loss_adversarial", "disc_loss", "grad_norm"}
    assert names <= set(stats)
    assert all(v.ndim == 0 and not v.requires_grad and torch.isfinite(v) for v in stats.values())


def test_the_logged_pseudo_label_weight_is_that_of_target_pixels(make_stage):
    batch = make_batch()
    batch.pseudo_valid[:, ::2] = False
    batch.paste[:] = True  # pasted pixels are certain, and no pseudo-labels
    assert 0 < float(make_stage("pseudo.limits=[0, 0]").step(0, batch)["pseudo_label_weight"]) == pytest.approx(0.5)


def test_the_loss_is_the_weighted_sum(make_stage):
    weights = {"latent": 0.7, "decoded": 0.6, "direct": 0.5, "adversarial": 0.4}
    stage = make_stage("adv.terminal_probability=1", *(f"adv.{k}_weight={v}" for k, v in weights.items()))
    stats = stage.step(0, make_batch())
    torch.testing.assert_close(stats["loss"], sum(v * stats[f"loss_{k}"] for k, v in weights.items()))


def test_steps_are_reproducible(make_stage):
    one, two = make_stage(), make_stage()
    for step in range(2):
        first, second = one.step(step, make_batch(step)), two.step(step, make_batch(step))
        assert all(torch.equal(first[k], second[k]) for k in first)


def adversarial_only(make_stage, *assignments):
    return make_stage(
        "adv.latent_weight=0",
        "adv.decoded_weight=0",
        "adv.direct_weight=0",
        "adv.adversarial_weight=1",
        "adv.terminal_probability=0",  # of source and mixed nothing is pure noise: the target alone is judged
        "optim.grad_clip=0",
        *assignments,
    )


def test_the_adversarial_gradient_reaches_the_unet_and_not_the_encoder(make_stage):
    stage = adversarial_only(make_stage)
    stage.step(0, make_batch())
    moved = sum(float(p.grad.abs().sum()) for p in stage.student.denoiser.parameters() if p.grad is not None)
    assert moved > 0
    for part in (stage.student.encoder, stage.student.decoder):
        for name, p in part.named_parameters():
            assert p.grad is None or not p.grad.any(), name


def reached(stage):
    """Names of the parts that the last step's gradient reached."""
    parts = {"E": stage.student.encoder, "D": stage.student.decoder, "UNet": stage.student.denoiser}
    return {
        name
        for name, part in parts.items()
        if part is not None and any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


@pytest.mark.parametrize(
    ("assignments", "parts"),
    [
        ([], {"UNet"}),
        (["adv.align_encoder=true"], {"UNet", "E"}),
        (["adv.adversary=output"], {"UNet", "D"}),
        (["adv.adversary=output", "adv.align_encoder=true"], {"UNet", "D", "E"}),
        (["adv.generate=false"], {"E"}),
        (["adv.generate=false", "adv.adversary=output"], {"D", "E"}),
        (["adv.generate=false", "adv.adversary=entropy"], {"D", "E"}),
        (["adv.generate=false", "adv.adversary=class"], {"E"}),
        (["adv.adversary=class"], {"UNet"}),
    ],
)
def test_what_the_adversarial_gradient_reaches(make_stage, assignments, parts):
    stage = adversarial_only(make_stage, *assignments)
    stage.step(0, make_batch())
    assert reached(stage) == parts


def watch(stage):
    """A list that receives what the adversary is given in each step."""
    seen = []
    learn = stage.adversary.learn
    stage.adversary.learn = lambda estimates, micro: (seen.append(list(estimates)), learn(estimates, micro))[1]
    return seen


@pytest.mark.parametrize(
    "assignments", [[], ["adv.adversary=output"], ["adv.generate=false"], ["adv.self_training=false"]]
)
def test_two_resolutions(make_stage, assignments):
    stage = make_stage("model.detail=true", "adv.terminal_probability=1", *assignments)
    seen = watch(stage)
    key = "loss_direct" if "adv.generate=false" in assignments else "loss_decoded"
    losses = [float(stage.step(step, make_batch(step % 2))[key]) for step in range(22)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    shape = (4, len(SPACE), 8, 8) if "adv.adversary=output" in assignments else (4, 8, 4, 4)  # two views of two crops
    assert {part.shape for part in seen[0]} == {shape}
    assert stage.student.decoder.classify.weight.grad[-1].abs().sum() > 0  # the attention learns


def test_an_output_discriminator_sees_probabilities(make_stage):
    stage = make_stage("adv.adversary=output", "adv.terminal_probability=1")
    seen = watch(stage)
    stage.step(0, make_batch())
    assert len(seen[0]) == 3
    for part in seen[0]:
        assert part.shape[1:] == (len(SPACE), 16, 16)
        torch.testing.assert_close(part.sum(dim=1), torch.ones(len(part), 16, 16))


def test_an_entropy_discriminator_sees_the_entropy_of_each_class(make_stage):
    probabilities, entropies = [], []
    for adversary, found in (("output", probabilities), ("entropy", entropies)):
        stage = make_stage(f"adv.adversary={adversary}", "adv.terminal_probability=1")
        seen = watch(stage)
        stage.step(0, make_batch())
        found += [part.detach() for part in seen[0]]
    for p, shown in zip(probabilities, entropies, strict=True):
        torch.testing.assert_close(shown, torch.special.entr(p) / math.log(len(SPACE)))


def test_a_class_discriminator_learns_classes_of_both_domains(make_stage):
    stage = make_stage("adv.adversary=class", "adv.generate=false", "adv.discriminator_lr=1e-3")
    latents = [torch.randn(2, 8, 4, 4) + shift for shift in (2.0, -2.0, -2.0)]
    classes = torch.zeros(2, len(SPACE), 4, 4)
    classes[:, 1] = 1
    parts = [torch.cat([latent, classes], dim=1) for latent in latents]
    losses = [float(stage.adversary.learn(parts)["disc_loss"]) for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]
    told = stage.adversary.scores(torch.cat(parts)).softmax(dim=1).mean(dim=(2, 3))
    assert (told[:2, 1] > 0.7).all()  # class 1 of the source
    assert (told[2:, len(SPACE) + 1] > 0.7).all()  # class 1 of the others
    unknown = [torch.cat([latent, 0 * classes], dim=1) for latent in latents]
    assert float(stage.adversary.fooled(unknown).sum) == 0


def test_without_a_unet_the_losses_are_those_of_z0(make_stage):
    stats = make_stage("adv.generate=false").step(0, make_batch())
    assert {"loss_direct", "loss_adversarial", "disc_acc_mixed"} <= set(stats)
    assert not {"loss_latent", "loss_decoded"} & set(stats)


def test_without_self_training_pseudo_labels_change_nothing(make_stage):
    runs = []
    for scale in (1.0, 3.0):
        stage = make_stage("adv.self_training=false", "adv.terminal_probability=1")
        with torch.no_grad():
            for p in stage.teacher.model.parameters():
                p.mul_(scale)
        runs.append(stage.step(1, make_batch()))  # in the first step prototypes come from the teacher
    assert not {"pseudo_label_weight", "disc_acc_mixed"} & set(runs[0])
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


@pytest.fixture
def make_adversary(small_config):
    def make(*assignments, domains=("source", "mixed", "target")):
        config = small_config("adv.iterations=40", "optim.warmup=0", *assignments)
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        return Adversary(config, len(SPACE), domains, layout_of(config, accelerator), accelerator)

    return make


def latents(count, mean, seed):
    return mean + torch.randn(count, 8, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_fooling_leaves_the_discriminator_alone(make_adversary):
    adversary = make_adversary()
    parts = [latents(2, 0, seed).requires_grad_() for seed in range(3)]
    adversary.fooled(parts).sum.backward()
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminator.parameters())
    assert parts[0].grad is None  # the source has nobody to fool
    assert all(part.grad.abs().sum() > 0 for part in parts[1:])


def test_the_discriminator_learns_to_tell_domains_apart(make_adversary):
    adversary = make_adversary("adv.discriminator_lr=1e-2")
    source, other = latents(4, 0.5, 0), latents(4, -0.5, 1)
    stats = [adversary.learn([source, other[:2], other[2:]]) for _ in range(30)]
    assert float(stats[-1]["disc_loss"]) < 0.5 * float(stats[0]["disc_loss"])
    assert {"disc_acc_source", "disc_acc_mixed", "disc_acc_target", "disc_grad_norm"} <= set(stats[-1])


def test_the_discriminators_gradient_goes_no_further(make_adversary):
    parts = [latents(2, 0, seed).requires_grad_() for seed in range(3)]
    make_adversary().learn(parts)
    assert all(part.grad is None for part in parts)


def test_without_source_estimates_the_discriminator_waits(make_adversary):
    adversary = make_adversary("adv.gradient_penalty=1")
    before = {n: p.detach().clone() for n, p in adversary.discriminator.named_parameters()}
    stats = adversary.learn([torch.randn(0, 8, 8, 8), torch.randn(0, 8, 8, 8), torch.randn(2, 8, 8, 8)])
    assert stats["disc_loss"].item() == 0
    for name, p in adversary.discriminator.named_parameters():
        assert torch.isfinite(p).all() and torch.equal(p, before[name]), name


def test_the_penalty_steadies_the_discriminator(make_stage):
    stage = make_stage("adv.gradient_penalty=10", "adv.terminal_probability=1")
    stats = stage.step(0, make_batch())
    assert torch.isfinite(stats["disc_loss"])
    assert all(torch.isfinite(p).all() for p in stage.adversary.discriminator.parameters())


def test_no_weight_no_discriminator(make_stage):
    stage = make_stage("adv.adversarial_weight=0")
    before = tensors(stage.adversary.discriminator)
    stats = stage.step(0, make_batch())
    assert not any(name.startswith("disc") or name == "loss_adversarial" for name in stats)
    assert all(torch.equal(before[k], v) for k, v in tensors(stage.adversary.discriminator).items())


def test_the_teacher_never_gets_a_gradient(make_stage):
    stage = make_stage()
    for step in range(2):
        stage.step(step, make_batch(step))
    assert all(p.grad is None and not p.requires_grad for p in stage.result().parameters())
    assert stage.result().denoiser is not None and not stage.result().training


def test_every_parameter_of_the_student_gets_a_gradient(make_stage):
    stage = make_stage()
    stage.step(0, make_batch())
    assert [n for n, p in stage.student.named_parameters() if p.grad is None] == []


def test_frozen_coders_stay_as_stage_1_left_them(make_stage):
    stage = make_stage("adv.coder_lr_factor=0")
    before = {n: p.detach().clone() for n, p in stage.student.named_parameters()}
    for step in range(2):
        stage.step(step, make_batch(step))
    for name, p in stage.student.named_parameters():
        assert name.startswith("denoiser.") or torch.equal(p, before[name]), name
    assert not torch.equal(stage.student.denoiser.unet.conv_out.weight, before["denoiser.unet.conv_out.weight"])


def test_the_target_is_always_pure_noise(make_stage):
    stage = make_stage("adv.terminal_probability=0.5")
    often = []
    for seed in range(60):
        batch = make_batch(seed)
        views = [stage.student.view(images, batch.rngs) for images in (batch.source, batch.source, batch.target)]
        noise, times, pure = stage.draw_noise(batch, views)
        assert noise.shape == (6, 8, 8, 8) and times.shape == (6,)
        assert (times[4:] == 999).all() and pure[2].tolist() == [0, 1]
        assert [times[0], times[1]] == [999 if i in pure[0].tolist() else times[i] for i in (0, 1)]
        assert int(times.min()) >= 0 and int(times.max()) <= 999
        often.append((times[:4] == 999).float().mean())
    assert float(torch.stack(often).mean()) == pytest.approx(0.5, abs=0.12)


def test_unlabelled_sources_are_no_nan(make_stage):
    stage = make_stage()
    batch = make_batch()
    batch.label.fill_(IGNORE)
    batch.paste.fill_(False)
    stats = stage.step(0, batch)
    assert all(torch.isfinite(v) for v in stats.values())
    assert all(torch.isfinite(p).all() for p in stage.student.parameters())


def test_prototypes_are_a_fading_mean():
    prototypes = Prototypes(5, 8)
    assert not prototypes.means()[1].any()
    expected_sums, expected_counts = torch.zeros(5, 8), torch.zeros(5)
    for seed in range(4):
        latent = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
        shares = class_shares(make_batch(seed).label, 5, (8, 8))
        sums, counts = prototype_sums(latent, shares)
        expected_sums, expected_counts = 0.99 * expected_sums + sums, 0.99 * expected_counts + counts
        prototypes.update(latent, shares)
    means, known = prototypes.means()
    assert known.all()
    torch.testing.assert_close(means, expected_sums / expected_counts[:, None])


def test_training_starts_with_the_teachers_prototypes(make_stage):
    stage = make_stage()
    batch = make_batch()
    stage.step(0, batch)
    present = {int(c) for c in batch.label.unique()} - {IGNORE}
    assert {i for i, seen in enumerate(stage.prototypes.means()[1]) if seen} >= present


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["adv.align_encoder=true"],
        ["adv.adversary=output"],
        ["adv.generate=false"],
        ["adv.generate=false", "adv.self_training=false"],
        ["adv.adversary=output", "adv.self_training=false"],
        ["adv.adversary=class", "adv.generate=false", "adv.self_training=false"],
        ["adv.adversary=entropy", "adv.generate=false", "adv.self_training=false"],
    ],
)
def test_the_images_that_memory_is_estimated_for_are_those_that_pass_with_a_gradient(make_stage, assignments):
    stage = make_stage("adv.terminal_probability=1", *assignments)
    rows = {"E": 0, "D": 0}

    def count(name, _, given, __):
        if torch.is_grad_enabled():
            rows[name] += len(given[0])

    stage.student.encoder.register_forward_hook(functools.partial(count, "E"))
    decoder = stage.student.decoder.register_forward_hook(functools.partial(count, "D"))
    stage.step(0, make_batch())
    decoder.remove()
    passes = 1 if stage.student.denoiser is None else 2  # D decodes z_0 and, of labelled images, the estimate too
    labelled = len(stage.domains) - 1
    decoded = rows["D"] // 2 - labelled * (passes - 1)
    assert stage.trained_images(stage.config) == max(rows["E"] // 2, decoded)


def test_the_adversary_sees_no_domain_where_a_target_is_no_scene():
    parts = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    images = torch.zeros(2, 3, 32, 32)
    ignored = torch.zeros(2, 32, 32, dtype=torch.bool)
    ignored[0, 16:] = True
    found = without_ignored(parts, View(images), ignored)
    for part, its in zip(parts, found, strict=True):
        assert not its[0, :, 2:].any()
        assert torch.equal(its[0, :, :2], part[0, :, :2])
        assert torch.equal(its[1], part[1])
    assert without_ignored(parts, View(images), None) is parts


@pytest.mark.parametrize("assignments", [[], ["adv.adversary=output"], ["adv.generate=false"]])
def test_a_step_hides_from_the_adversary_what_is_no_scene(make_stage, monkeypatch, assignments):
    stage, seen = make_stage("adv.terminal_probability=1", *assignments), []
    original = type(stage).adversary_inputs

    def watch(self, *given):
        found = original(self, *given)
        seen.append([part.detach().clone() for part in found])
        return found

    monkeypatch.setattr(type(stage), "adversary_inputs", watch)
    plain = make_batch()
    ignored = torch.zeros(plain.target.shape[0], *plain.target.shape[-2:], dtype=torch.bool)
    ignored[:, plain.target.shape[-2] // 2 :] = True
    stage.step(0, dataclasses.replace(plain, ignored=ignored))
    for parts in seen:
        for part in parts:
            middle = part.shape[-2] // 2
            assert not part[..., middle:, :].any()
            assert part[..., :middle, :].any()


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["adv.adversary=output", "adv.align_encoder=true"],
        ["adv.generate=false"],
        ["adv.generate=false", "adv.self_training=false"],
        ["adv.self_training=false"],
        ["model.detail=true"],
    ],
)
def test_labelled_crops_of_the_target_are_learnt_and_the_adversary_does_not_see_them(make_stage, assignments):
    stage = make_stage("adv.terminal_probability=1", "adv.labelled_weight=0.5", *assignments)
    seen = []
    judge = stage.adversary.discriminator.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    stats = stage.step(0, make_batch(annotated=40, groups=((0, 3), (1, 2))))
    weights = {"latent": 0.3, "decoded": 1.0, "direct": 0.5, "adversarial": 0.01, "labelled": 0.5}
    torch.testing.assert_close(
        stats["loss"], sum(w * stats[f"loss_{k}"] for k, w in weights.items() if f"loss_{k}" in stats)
    )
    assert stats["loss_labelled"] > 0
    with_labels, seen = seen, []
    judge.remove()
    stage = make_stage("adv.terminal_probability=1", *assignments)
    stage.adversary.discriminator.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    stage.step(0, make_batch())
    assert seen == with_labels


def test_labels_of_the_target_reach_both_ways_to_the_logits(make_stage):
    stage = make_stage("adv.adversarial_weight=0", "augment.jitter_probability=0", lively=False)
    losses = [float(stage.step(step, make_batch(step % 2, annotated=30))["loss_labelled"]) for step in range(14)]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    batch = make_batch(annotated=30)
    one, other = (make_stage(f"adv.{key}_weight=0").step(0, make_batch(annotated=30)) for key in ("direct", "decoded"))
    both = make_stage().step(0, batch)
    torch.testing.assert_close(both["loss_labelled"], one["loss_labelled"] + other["loss_labelled"])
