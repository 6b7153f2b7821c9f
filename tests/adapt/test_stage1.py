"""Single steps of stage 1."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from accelerate import Accelerator
from stage_batches import SPACE, make_batch

from iccld_cli.adapt.batch import draw_keep_skip, mix
from iccld_cli.adapt.optim import optimizer_of, set_learning_rate
from iccld_cli.adapt.stage1 import Stage1
from iccld_cli.labels import IGNORE
from iccld_cli.losses.segmentation import feature_distance
from iccld_cli.models.build import build_segmenter
from iccld_cli.models.views import join_views
from iccld_cli.sections import OptimConfig


@pytest.fixture
def make_stage(small_config):
    def make(*assignments, source_only=False):
        config = small_config("optim.lr=1e-3", "seg.iterations=40", "seg.burn_in=0", *assignments)
        student = build_segmenter(config, len(SPACE), denoiser=False, seed=0)
        reference = None
        if config.seg.feature_distance_weight > 0 and config.model.encoder != "tiny":
            reference = copy.deepcopy(student.encoder.backbone)
        return Stage1(config, SPACE, student, Accelerator(cpu=True), source_only, reference)

    return make


def tensors(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_steps_lower_the_loss(make_stage):
    stage = make_stage()
    losses = [float(stage.step(step, make_batch(step % 4))["loss_source"]) for step in range(24)]
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])


def test_a_step_says_what_it_did_and_keeps_no_graph(make_stage):
    stage = make_stage("seg.masked_weight=1")
    stats = stage.step(0, make_batch())
    assert {"loss", "loss_source", "loss_mixed", "loss_masked", "pseudo_label_weight", "grad_norm"} <= set(stats)
    assert all(v.ndim == 0 and not v.requires_grad and torch.isfinite(v) for v in stats.values())
    expected = stats["loss_source"] + stats["loss_mixed"] + stats["loss_masked"]
    torch.testing.assert_close(stats["loss"], expected)


def test_steps_are_reproducible(make_stage):
    one, two = make_stage(), make_stage()
    for step in range(3):
        first, second = one.step(step, make_batch(step)), two.step(step, make_batch(step))
        assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(
        torch.equal(a, b) for a, b in zip(tensors(one.student).values(), tensors(two.student).values(), strict=True)
    )


def test_two_resolutions_learn_and_weigh_the_detail(make_stage):
    stage = make_stage("model.detail=true", "seg.masked_weight=1")
    losses = [float(stage.step(step, make_batch(step % 4))["loss_source"]) for step in range(24)]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    attention = stage.student.decoder.classify.weight.grad[-1]
    assert attention.abs().sum() > 0
    first = [make_stage("model.detail=true", f"model.detail_weight={w}").step(0, make_batch()) for w in (0.0, 0.5, 1.0)]
    fused, both, fine = (float(stats["loss_source"]) for stats in first)
    assert both == pytest.approx((fused + fine) / 2, rel=1e-4)
    assert fused != fine


def test_burn_in_never_looks_at_the_target(make_stage):
    stage, other = make_stage("seg.burn_in=0.5"), make_stage("seg.burn_in=0.5")
    batch, poisoned = make_batch(), make_batch()
    poisoned.target.fill_(float("nan"))
    first, second = stage.step(0, batch), other.step(0, poisoned)
    assert set(first) == {"loss", "loss_source", "grad_norm"}
    assert torch.equal(first["loss"], second["loss"])
    assert all(torch.equal(tensors(stage.student)[k], v) for k, v in tensors(other.student).items())
    assert "loss_mixed" not in stage.step(19, make_batch())
    assert "loss_mixed" in stage.step(20, make_batch())


def test_source_only_needs_no_target(make_stage):
    stage = make_stage(source_only=True)
    assert stage.name == "source_only"
    assert set(stage.step(39, make_batch(target=False))) == {"loss", "loss_source", "grad_norm"}


def test_unlabelled_sources_give_no_loss_and_no_nan(make_stage):
    stage = make_stage(source_only=True)
    batch = make_batch(target=False)
    batch.label.fill_(IGNORE)
    batch.labelled.zero_()
    before = {name: p.detach().clone() for name, p in stage.student.named_parameters() if p.ndim == 1}
    stats = stage.step(0, batch)
    assert float(stats["loss"]) == 0
    for name, parameter in stage.student.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if name in before:  # those without weight decay have no reason to move
            assert torch.equal(parameter, before[name]), name


def test_the_teacher_never_gets_a_gradient(make_stage):
    stage = make_stage()
    for step in range(2):
        stage.step(step, make_batch(step))
    assert all(p.grad is None and not p.requires_grad for p in stage.result().parameters())
    assert not stage.result().training
    trained = {id(p) for group in stage.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in stage.student.parameters()}


def test_every_parameter_of_the_student_gets_a_gradient(make_stage):
    stage = make_stage()
    stage.step(0, make_batch())
    assert [n for n, p in stage.student.named_parameters() if p.grad is None] == []


def test_the_mixed_weight_scales_the_mixed_loss(make_stage):
    stats = make_stage("seg.mixed_weight=0.25").step(0, make_batch())
    torch.testing.assert_close(stats["loss"], stats["loss_source"] + 0.25 * stats["loss_mixed"])


def test_mixing_pastes_image_label_and_weight_alike():
    batch = make_batch()
    labels, weights = torch.full_like(batch.label, 4), torch.full(batch.label.shape, 0.3)
    jitter = batch.jitter_mixed
    none = {k: torch.ones(2) for k in ("brightness", "contrast", "saturation")}
    zeros = {k: torch.zeros(2) for k in ("hue", "sigma", "style")}
    still = replace(batch, jitter_mixed=type(jitter)(**none, **zeros, blurs=False, styles=False))
    crops = mix(still, labels, weights)
    images, mixed, weight = crops.images, crops.labels, crops.weights
    for b in range(2):
        paste = batch.paste[b]
        torch.testing.assert_close(images[b][:, paste], batch.source[b][:, paste], atol=1e-5, rtol=0)
        torch.testing.assert_close(images[b][:, ~paste], batch.target[b][:, ~paste], atol=1e-5, rtol=0)
        assert torch.equal(mixed[b][paste], batch.label[b][paste]) and (mixed[b][~paste] == 4).all()
        assert (weight[b][paste] == 1).all() and (weight[b][~paste] == 0.3).all()
    assert not (mixed == IGNORE).any()


def test_skip_features_are_dropped_at_the_given_rate():
    kept = torch.stack([draw_keep_skip(make_batch(s), 0.3, 2) for s in range(60)])
    assert kept.shape == (60, 4)
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.1)
    assert draw_keep_skip(make_batch(), 0.0, 3).all()


def test_micro_batches_add_up_to_one_step(make_stage):
    # Batch norm sees other batches when a batch is split, so the network is put in evaluation mode.
    whole, split = (
        make_stage("model.skip_dropout=0", source_only=True),
        make_stage("model.skip_dropout=0", source_only=True),
    )
    batch = make_batch(count=2, target=False)
    for stage in (whole, split):
        stage.student.eval()
    whole.step(0, batch)
    for number in range(2):
        cut = {name: getattr(batch, name)[number : number + 1] for name in ("source", "label", "paste", "rngs")}
        jitter = batch.jitter_source
        columns = {k: getattr(jitter, k)[number : number + 1] for k in ("brightness", "contrast", "saturation", "hue")}
        columns |= {k: getattr(jitter, k)[number : number + 1] for k in ("sigma", "style")}
        own = type(jitter)(**columns, blurs=jitter.blurs, styles=jitter.styles)
        split.step(0, replace(batch, **cut, jitter_source=own, micro=(number, 2), labelled=batch.labelled / 2))
    for name, value in tensors(whole.student).items():
        torch.testing.assert_close(tensors(split.student)[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_feature_distance_needs_a_pretrained_encoder(make_stage, tmp_path):
    assert make_stage("seg.feature_distance_weight=0.005").reference is None
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 4], decoder_hidden_size=8
    )
    transformers.SegformerModel(config).save_pretrained(tmp_path)
    stage = make_stage(f"model.encoder={tmp_path}", "seg.feature_distance_weight=0.5")
    reference = tensors(stage.reference)
    batches = [make_batch(seed) for seed in range(2)]
    for batch in batches:
        batch.label[:, :32] = 2  # cars that fill cells at 1/32
    stats = [stage.step(step, batch) for step, batch in enumerate(batches)]
    assert float(stats[1]["loss_feature"]) > 0
    torch.testing.assert_close(
        stats[1]["loss"], stats[1]["loss_source"] + stats[1]["loss_mixed"] + 0.5 * stats[1]["loss_feature"]
    )
    assert all(torch.equal(v, reference[k]) for k, v in tensors(stage.reference).items())
    assert not stage.reference.training
    rates = {g["base_lr"] for g in stage.optimizer.param_groups}
    assert rates == {1e-3, 1e-2}  # the pretrained encoder learns at a tenth of the head's rate


def test_learning_rate_warms_up_and_decays():
    weight = torch.nn.Linear(2, 2)
    optimizer = optimizer_of([(weight, 1.0)], OptimConfig(), torch.device("cpu"))
    rates = []
    for step in range(100):
        set_learning_rate(optimizer, step, 100, 1500)  # at most a tenth of the run
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([1 - i / 90 for i in range(90)])
    assert min(rates) > 0


def test_no_weight_decay_on_norms_and_biases_and_no_parameter_twice(small_segmenter):
    model = small_segmenter()
    groups = optimizer_of(
        [(model.denoiser, 1e-3), (model.encoder.backbone, 0.0), (model, 1e-4)], OptimConfig(), torch.device("cpu")
    ).param_groups
    taken = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in taken}) == len(taken)
    assert all((g["weight_decay"] > 0) == (p.ndim > 1) for g in groups for p in g["params"])
    assert not any(p.requires_grad for p in model.encoder.backbone.parameters())
    assert {id(p) for p in taken} == {id(p) for p in model.parameters() if p.requires_grad}
    denoiser = {id(p) for p in model.denoiser.parameters()}
    assert all((g["lr"] == 1e-3) == (id(p) in denoiser) for g in groups for p in g["params"])


@pytest.mark.parametrize("detail", [False, True])
def test_feature_distance_shares_the_students_pass_and_looks_at_the_source(make_stage, tmp_path, detail):
    shape = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    transformers.SegformerModel(shape).save_pretrained(tmp_path)
    stage = make_stage(
        f"model.encoder={tmp_path}", "seg.feature_distance_weight=0.5", f"model.detail={str(detail).lower()}"
    )
    batch = make_batch()
    batch.label[:] = 2  # cars everywhere, so that all cells count
    stage.student.eval()
    views = [stage.student.view(images, batch.rngs) for images in (batch.source, batch.target)]
    with torch.no_grad():
        *_, features = stage.student(join_views(views))
        same = feature_distance(
            features[: len(views[0])], stage.reference(views[0].images)[-1], views[0].maps(batch.label), stage.things
        )
        other = feature_distance(
            features[: len(views[0])], stage.reference(views[1].images)[-1], views[0].maps(batch.label), stage.things
        )
    assert float(same.mean()) < 1e-4 < float(other.mean())
    passes = []
    stage.student.encoder.backbone.register_forward_hook(lambda *_: passes.append(1))
    assert float(stage.step(0, batch)["loss_feature"]) < 1e-4  # of other rows than the source's it would be large
    assert len(passes) == 1


def test_a_few_labelled_points_of_the_target_are_learnt(make_stage):
    stage = make_stage("seg.burn_in=1", "augment.jitter_probability=0", "augment.blur_probability=0")
    losses = [float(stage.step(step, make_batch(step % 4, annotated=6))["loss_labelled"]) for step in range(30)]
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])
    stats = stage.step(30, make_batch(0, annotated=6))
    torch.testing.assert_close(stats["loss"], stats["loss_source"] + stats["loss_labelled"])


def test_a_crop_with_few_points_counts_as_much_as_one_labelled_all_over(make_stage):
    """The loss of a batch is the mean of those of its crops, whatever each has labelled."""
    plain = ("seg.labelled_weight=2", "seg.masked_weight=1", "augment.jitter_probability=0", "model.skip_dropout=0")
    both = make_batch(0, annotated=4000).annotation
    both[0, 8:] = both[0, :, 8:] = IGNORE
    first, second = both.clone(), both.clone()
    first[1], second[0] = IGNORE, IGNORE

    def step(annotation):  # a batch's generators are used up
        return make_stage(*plain).step(0, replace(make_batch(0, annotated=4000), annotation=annotation))

    stats, halves = step(both), [step(each)["loss_labelled"] for each in (first, second)]
    torch.testing.assert_close(stats["loss_labelled"], sum(halves))
    torch.testing.assert_close(
        stats["loss"],
        stats["loss_source"] + stats["loss_mixed"] + stats["loss_masked"] + 2 * stats["loss_labelled"],
    )


def test_labelled_crops_pass_as_two_resolutions_too(make_stage):
    stats = make_stage("model.detail=true").step(0, make_batch(0, annotated=500, groups=((0, 2), (1, 3, 4))))
    assert torch.isfinite(stats["loss_labelled"]) and stats["loss_labelled"] > 0
