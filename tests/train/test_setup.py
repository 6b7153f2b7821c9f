"""What a run says of its device."""

from types import SimpleNamespace

import pytest
import torch

from iccld_cli.train.setup import precision_warning


@pytest.mark.parametrize(
    ("device", "precision", "able", "warned"),
    [
        ("cpu", "bf16", False, True),
        ("cpu", "bf16", True, False),
        ("cpu", "no", False, False),
        ("cuda", "bf16", False, False),
    ],
)
def test_bf16_without_instructions_for_it_is_told(monkeypatch, device, precision, able, warned):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    said = precision_warning(SimpleNamespace(device=torch.device(device), mixed_precision=precision))
    assert (said is not None) == warned
