"""Pseudo-labels and the gate that weighs them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_batches import make_batch

from iccld_cli.adapt.pseudo import ConfidenceGate, largest, pseudo_label
from iccld_cli.sections import PseudoConfig


def everywhere(shape):
    return torch.ones(shape, dtype=torch.bool)


def weigh(gate, labels, confidence, pseudo_valid):
    """The weights of pixels whose likeliest class and its probability are given."""
    rest = torch.zeros(len(labels), len(gate.histogram), *labels.shape[1:])
    found = gate(rest.scatter(1, labels.unsqueeze(1), confidence.unsqueeze(1).float()), pseudo_valid)
    assert torch.equal(found.labels, labels) and torch.equal(found.confidence, confidence.float())
    return found.weights


def test_the_largest_plane_is_what_torch_finds_and_the_first_of_equal_ones():
    planes = torch.randint(0, 6, (2, 19, 8, 9), generator=torch.Generator().manual_seed(0)) / 6  # many are equal
    values, labels = largest(planes)
    wanted = planes.max(dim=1)
    assert torch.equal(values, wanted.values) and torch.equal(labels, wanted.indices)
    planes[0, 3, 2, 2] = torch.nan
    values, labels = largest(planes)
    assert values[0, 2, 2].isnan() and 0 <= labels[0, 2, 2] < 19
    labels[0, 2, 2] = wanted.indices[0, 2, 2]
    assert torch.equal(labels, wanted.indices)


def test_threshold_weighs_images_by_their_share_of_sure_pixels():
    gate = ConfidenceGate(PseudoConfig(gate="threshold", threshold=0.9), 3)
    confidence = torch.tensor([[[0.95, 0.9], [0.5, 0.89]], [[0.1, 0.2], [0.3, 0.4]]])
    pseudo_valid = everywhere((2, 2, 2))
    pseudo_valid[0, 1, 1] = False
    weights = weigh(gate, torch.zeros(2, 2, 2, dtype=torch.int64), confidence, pseudo_valid)
    assert weights.tolist() == [[[0.5, 0.5], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert not gate.histogram.any()


@pytest.mark.parametrize("quantile", [0.2, 0.4, 0.8])
def test_quantile_against_numpy(quantile):
    gate = ConfidenceGate(PseudoConfig(quantile=quantile, limits=(0.0, 1.0)), 3)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, 60, 80))
    confidence = rng.beta([5, 2, 20], [2, 2, 1], (2, 60, 80, 3))
    confidence = np.take_along_axis(confidence, labels[..., None], -1)[..., 0].astype(np.float32)
    weights = weigh(gate, torch.from_numpy(labels), torch.from_numpy(confidence), everywhere((2, 60, 80)))
    for c in range(3):
        mine = confidence[labels == c]
        wanted = np.quantile(mine, quantile)
        assert float(gate.gates()[c]) == pytest.approx(wanted, abs=1 / 200 + 1e-3)  # one bin
        believed = weights[torch.from_numpy(labels == c)].mean()
        assert float(believed) == pytest.approx(1 - quantile, abs=0.08)  # one bin of a steep class
        assert set(weights.unique().tolist()) <= {0.0, 1.0}


def test_gates_stay_within_their_limits():
    gate = ConfidenceGate(PseudoConfig(limits=(0.3, 0.95)), 3)
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[0, 5:] = 1
    confidence = torch.where(labels == 0, 0.999, 0.05)
    weights = weigh(gate, labels, confidence, everywhere((1, 10, 10)))
    torch.testing.assert_close(gate.gates(), torch.tensor([0.95, 0.3, 0.3]))
    assert (weights[labels == 0] == 1).all() and (weights[labels == 1] == 0).all()


def test_certainty_itself_has_a_bin():
    gate = ConfidenceGate(PseudoConfig(limits=(0.0, 1.0)), 2)
    weights = weigh(gate, torch.ones(1, 4, 4, dtype=torch.int64), torch.ones(1, 4, 4), everywhere((1, 4, 4)))
    assert (weights == 1).all()
    assert gate.histogram[1, -1] > 0 and gate.histogram[0].sum() == 0


def test_untrusted_pixels_have_no_weight():
    pseudo_valid = everywhere((1, 4, 4))
    pseudo_valid[0, 2:] = False
    for mode in ("threshold", "quantile"):
        gate = ConfidenceGate(PseudoConfig(gate=mode), 2)
        weights = weigh(gate, torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), 0.99), pseudo_valid)
        assert (weights[~pseudo_valid] == 0).all() and (weights[pseudo_valid] > 0).all()


def test_untrusted_pixels_move_no_gate():
    gate = ConfidenceGate(PseudoConfig(limits=(0.0, 1.0)), 3)
    pseudo_valid = everywhere((1, 4, 4))
    pseudo_valid[0, 2:] = False  # a bonnet, of which the teacher is as sure as can be
    confidence = torch.where(pseudo_valid, 0.6, 0.99)
    weigh(gate, torch.zeros(1, 4, 4, dtype=torch.int64), confidence, pseudo_valid)
    assert float(gate.gates()[0]) == pytest.approx(0.6, abs=1 / 200 + 1e-6)
    assert float(gate.histogram.sum()) == pytest.approx(8 * 0.01)


def test_the_quantile_forgets_slowly():
    gate = ConfidenceGate(PseudoConfig(quantile=0.5, limits=(0.0, 1.0)), 1)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    for _ in range(50):
        weigh(gate, labels, torch.full((1, 8, 8), 0.4), everywhere((1, 8, 8)))
    weigh(gate, labels, torch.full((1, 8, 8), 0.9), everywhere((1, 8, 8)))
    assert float(gate.gates()[0]) == pytest.approx(0.4, abs=0.01)
    for _ in range(200):
        weigh(gate, labels, torch.full((1, 8, 8), 0.9), everywhere((1, 8, 8)))
    assert float(gate.gates()[0]) == pytest.approx(0.9, abs=0.01)


def test_history_is_part_of_the_state():
    gate = ConfidenceGate(PseudoConfig(), 4)
    weigh(gate, torch.randint(0, 4, (1, 8, 8)), torch.rand(1, 8, 8), everywhere((1, 8, 8)))
    fresh = ConfidenceGate(PseudoConfig(), 4)
    fresh.load_state_dict(gate.state_dict())
    assert torch.equal(fresh.gates(), gate.gates())


def test_labels_are_the_teachers(small_segmenter):
    teacher, batch = small_segmenter(), make_batch()
    pseudo = pseudo_label(teacher, ConfidenceGate(PseudoConfig(), 5), batch, steps=1, seed=3)
    probabilities = teacher.probabilities(batch.target, steps=1, seed=3)
    assert torch.equal(pseudo.labels, probabilities.argmax(dim=1))
    assert torch.equal(pseudo.confidence, probabilities.amax(dim=1))
    assert pseudo.weights.shape == pseudo.labels.shape
    assert not pseudo.weights.requires_grad


def test_the_teacher_sees_the_surroundings_of_a_crop(small_segmenter):
    context, places = torch.rand(2, 3, 96, 128), torch.tensor([[0, 64], [20, 7]])
    teacher, batch = small_segmenter(), replace(make_batch(), surroundings=context, places=places)
    pseudo = pseudo_label(teacher, ConfidenceGate(PseudoConfig(), 5), batch)
    labels = teacher.probabilities(batch.surroundings, steps=0).argmax(dim=1)
    assert torch.equal(pseudo.labels[0], labels[0, :64, 64:])
    assert torch.equal(pseudo.labels[1], labels[1, 20:84, 7:71])
    assert pseudo.weights.shape == (2, 64, 64)


def test_balanced_labels_measure_each_class_by_its_gate():
    gate = ConfidenceGate(PseudoConfig(gate="balanced", limits=(0.3, 0.95)), 3)
    sure, shy = torch.tensor([0.98, 0.02, 0.0]), torch.tensor([0.45, 0.55, 0.0])
    seen = torch.stack([sure if n % 2 else shy for n in range(400)]).T.view(1, 3, 20, 20)
    for _ in range(3):
        gate(seen, everywhere((1, 20, 20)))  # class 0 is sure of itself, class 1 is not, class 2 does not occur
    torch.testing.assert_close(gate.gates(), torch.tensor([0.95, 0.55, 0.3]))

    def answer(*probabilities):
        found = gate(torch.tensor(probabilities).view(1, 3, 1, 1), everywhere((1, 1, 1)))
        return found.labels.item(), round(found.confidence.item(), 3), found.weights.item()

    # 0.63 of the one gate and 0.73 of the other: the second, but it is not above its gate.
    assert answer(0.6, 0.4, 0.0) == (1, 0.4, 0.0)
    assert answer(0.4, 0.6, 0.0) == (1, 0.6, 1.0)
    assert answer(0.97, 0.03, 0.0) == (0, 0.97, 1.0)
    assert answer(0.6, 0.05, 0.35)[0] == 0  # a class that never occurred gains nothing from its low gate
