"""ClassMix on tensors."""

import torch

from iccld_cli.adapt.classmix import classmix


def test_source_where_pasted_target_elsewhere():
    paste = torch.tensor([[[True, False], [False, True]], [[False, False], [True, True]]])
    source, target = torch.arange(8).view(2, 2, 2), torch.arange(8).view(2, 2, 2) + 100
    mixed = classmix(paste, source, target)
    assert mixed.tolist() == [[[0, 101], [102, 3]], [[104, 105], [6, 7]]]


def test_images_are_mixed_in_all_channels():
    paste = torch.rand(2, 4, 5) < 0.5
    source, target = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    mixed = classmix(paste, source, target)
    for channel in range(3):
        assert torch.equal(mixed[:, channel], classmix(paste, source[:, channel], target[:, channel]))
