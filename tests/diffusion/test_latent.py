"""The clean latent of stage 2 and its loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from iccld_cli.diffusion.latent import class_shares, clean_latent, normalise_latent, prototype_sums
from iccld_cli.labels import IGNORE


@pytest.fixture
def labels():
    labels = torch.randint(0, 3, (2, 16, 24), generator=torch.Generator().manual_seed(0))
    labels[0, :8, :8] = 1
    labels[0, 8:, :8] = IGNORE
    labels[1, :8, 8:12] = IGNORE
    return labels


@pytest.fixture
def latent():
    z = torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(1))
    return normalise_latent(z).requires_grad_()


def test_shares_against_a_loop(labels):
    shares = class_shares(labels, 3, (2, 3))
    assert shares.shape == (2, 3, 2, 3)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                cell = labels[b, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                for c in range(3):
                    assert float(shares[b, c, y, x]) == pytest.approx(float((cell == c).float().mean()))
    assert shares[0, :, 1, 0].sum() == 0  # nothing labelled, nothing shared
    assert float(shares[1, :, 0, 1].sum()) == pytest.approx(0.5)


def test_prototypes_against_a_loop(labels, latent):
    labels[1, :8, 16:] = 2
    shares = class_shares(labels, 3, (2, 3))
    sums, counts = prototype_sums(latent, shares)
    for c in range(3):
        cells = [latent[b, :, y, x] for b in range(2) for y in range(2) for x in range(3) if shares[b, c, y, x] >= 0.6]
        assert int(counts[c]) == len(cells)
        expected = torch.stack(cells).sum(dim=0) if cells else torch.zeros(8)
        torch.testing.assert_close(sums[c], expected)
    assert int(counts[1]) >= 1 and int(counts[2]) >= 1


def test_clean_latent_against_its_equation(labels, latent):
    shares, prototypes = class_shares(labels, 3, (2, 3)), torch.randn(3, 8)
    known = torch.tensor([True, True, False])
    clean, weight = clean_latent(latent, shares, prototypes, known, strength=0.7)
    blend = torch.empty(2, 8, 2, 3)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                share = [float(shares[b, c, y, x]) if known[c] else 0.0 for c in range(3)]
                w = sum(share)
                semantics = sum(s * p for s, p in zip(share, prototypes, strict=True))
                blend[b, :, y, x] = (1 - 0.7 * w) * latent[b, :, y, x].detach() + 0.7 * semantics
                assert float(weight[b, 0, y, x]) == pytest.approx(w)
    centred = blend - blend.mean(dim=1, keepdim=True)
    expected = centred / (blend.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(clean, expected)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_clean_latent_has_unit_variance(labels, latent, strength):
    shares = class_shares(labels, 3, (2, 3))
    clean, _ = clean_latent(latent, shares, torch.randn(3, 8), torch.ones(3, dtype=torch.bool), strength)
    torch.testing.assert_close(clean.mean(dim=1), torch.zeros(2, 2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(clean.var(dim=1, unbiased=False), torch.ones(2, 2, 3), atol=1e-3, rtol=0)


def test_without_labels_or_prototypes_the_latent_stays(latent):
    nothing = torch.zeros(2, 3, 2, 3)
    clean, weight = clean_latent(latent, nothing, torch.randn(3, 8), torch.ones(3, dtype=torch.bool), 0.5)
    torch.testing.assert_close(clean, latent.detach(), atol=1e-4, rtol=1e-4)
    assert (weight == 0).all()
    shares = class_shares(torch.zeros(2, 16, 24, dtype=torch.int64), 3, (2, 3))
    clean, weight = clean_latent(latent, shares, torch.randn(3, 8), torch.zeros(3, dtype=torch.bool), 0.5)
    torch.testing.assert_close(clean, latent.detach(), atol=1e-4, rtol=1e-4)
    assert (weight == 0).all()


def test_no_gradient_flows_into_the_encoder(labels, latent):
    shares = class_shares(labels, 3, (2, 3))
    clean, weight = clean_latent(latent, shares, torch.randn(3, 8), torch.ones(3, dtype=torch.bool), 0.5)
    assert not clean.requires_grad and not weight.requires_grad


def test_the_label_can_be_read_off(latent):
    # What stage 2 generates has to tell classes apart where z_0 does not.
    prototypes = torch.randn(3, 8, generator=torch.Generator().manual_seed(4))
    known = torch.ones(3, dtype=torch.bool)
    outcomes = []
    for c in (0, 2):
        labels = torch.zeros(2, 16, 24, dtype=torch.int64)
        labels[:, :, 8:16] = c
        outcomes.append(clean_latent(latent, class_shares(labels, 3, (2, 3)), prototypes, known, 0.5)[0])
    assert (outcomes[0] - outcomes[1])[..., 1].abs().mean() > 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_shares_never_exceed_the_labelled_part(classes, rows, columns, seed):
    labels = torch.randint(0, classes + 1, (1, 8 * rows, 8 * columns), generator=torch.Generator().manual_seed(seed))
    labels[labels == classes] = IGNORE
    shares = class_shares(labels, classes, (rows, columns))
    labelled = F.avg_pool2d((labels != IGNORE).float()[:, None], 8)
    torch.testing.assert_close(shares.sum(dim=1, keepdim=True), labelled)
    assert float(shares.min()) >= 0
