"""A trained network in the form that answers fastest: the same function in fewer passes over memory.

Batch norms of a finished model are a factor and a summand a channel, which the convolution before them can take. What
follows a convolution is then done in place, and zeros around a map are left to the convolution. Which layers follow
each other is seen in a pass, not read from their order in the module, so any encoder can be folded.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.hooks import RemovableHandle

from iccld_cli.models.efficientnet_lite import PaddedConv2d
from iccld_cli.models.segmenter import Segmenter

_PROBE = (64, 96)  # not square, and small; sides that all parts can halve or are fitted to
_GIVES = (nn.Conv2d, nn.BatchNorm2d)
_ROUNDING = 1e-3  # of the largest logit: what folding may change, a hundred times what it does


def folded(segmenter: Segmenter) -> Segmenter:
    """A copy for inference.

    Args:
        segmenter: A trained network, on any device; stays as it is.

    Returns:
        The copy, in evaluation mode, whose logits are the same within rounding; it cannot be trained or given other
        norms. `segmenter` itself where nothing could be folded, or where the copy would not answer the same.
    """
    found = copy.deepcopy(segmenter).eval()
    before = _answer(found)
    outputs = _Outputs(found)
    try:
        _answer(found)
    finally:
        outputs.remove()
    changed = _fold_norms(found, outputs) + _pad_inside(found)
    _in_place(outputs)
    if not changed:
        return segmenter
    after = _answer(found)
    return found if bool((after - before).abs().max() <= _ROUNDING * before.abs().max()) else segmenter


@torch.no_grad()
def _answer(segmenter: Segmenter) -> Tensor:
    """Logits (1, K, h, w) of E and D for noise in place of an image."""
    parameter = next(segmenter.parameters())
    noise = torch.rand((1, 3, *_PROBE), generator=torch.Generator().manual_seed(0))
    (logits,) = segmenter.logits(noise.to(parameter.device, parameter.dtype), 0)
    return logits


class _Outputs:
    """Which convolution or norm gave what a norm or an activation takes."""

    def __init__(self, network: nn.Module) -> None:
        self._producer: dict[int, nn.Module] = {}
        self._held: list[Tensor] = []  # while they live, no other tensor has their id
        self._runs: Counter[nn.Module] = Counter()
        self._fed: Counter[tuple[nn.Module, nn.Module]] = Counter()
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(self._saw)
            for module in network.modules()
            if isinstance(module, _GIVES) or hasattr(module, "inplace")
        ]

    def _saw(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._runs[module] += 1
        if (producer := self._producer.get(id(inputs[0]))) is not None:
            self._fed[producer, module] += 1
        if isinstance(module, _GIVES):
            self._producer[id(output)] = module
            self._held.append(output)

    def remove(self) -> None:
        """Take the hooks away, and let the tensors go."""
        for handle in self._handles:
            handle.remove()
        self._producer.clear()
        self._held.clear()

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """What gives, and what takes just that, each time they run."""
        for (producer, module), times in self._fed.items():
            if times == self._runs[producer] == self._runs[module]:
                yield producer, module


def _fold_norms(network: nn.Module, outputs: _Outputs) -> int:
    """Give norms to the convolutions before them; the number of norms."""
    places = {module: (parent, name) for parent in network.modules() for name, module in parent.named_children()}
    count = 0
    for conv, norm in outputs.pairs():
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
            continue
        if norm.running_mean is None or norm.running_var is None:
            continue
        with torch.no_grad():
            conv.weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        conv.bias = bias
        parent, name = places[norm]
        setattr(parent, name, nn.Identity())
        count += 1
    return count


def _pad_inside(network: nn.Module) -> int:
    """Zeros around a map become the convolution's own, which takes no wider copy of the map.

    MobileNets of `transformers` and EfficientNet-Lite pad as TensorFlow does. Where the stride is 2 and a map has even
    sides, as all have here, that is one row more behind than before. A kernel with a row of zeros more before is the
    same with equal padding, and takes a quarter of the time for the widest map.

    Returns:
        The number of convolutions.
    """
    count = 0
    for layer in network.modules():
        conv, config = getattr(layer, "convolution", None), getattr(layer, "config", None)
        if isinstance(layer, PaddedConv2d):
            if any(layer.around):
                _widen(layer)
                layer.around = (0, 0, 0, 0)
                count += 1
            continue
        if not isinstance(conv, nn.Conv2d) or not getattr(config, "tf_padding", False):
            continue
        if conv.padding != (0, 0) or any(side % 2 == 0 for side in conv.kernel_size):
            continue
        if conv.stride == (2, 2) and conv.dilation == (1, 1) and min(conv.kernel_size) > 1:
            _widen(conv)
        elif conv.stride == (1, 1):
            rows, columns = (side // 2 * apart for side, apart in zip(conv.kernel_size, conv.dilation, strict=True))
            conv.padding = (rows, columns)
        else:
            continue
        layer.config = copy.copy(config)
        layer.config.tf_padding = False  # type: ignore[union-attr]
        count += 1
    return count


def _widen(conv: nn.Conv2d) -> None:
    """Give a kernel of odd sides (R, C) a row and a column of zeros before, and the map R // 2 rows on either side."""
    rows, columns = conv.kernel_size
    with torch.no_grad():
        conv.weight = nn.Parameter(F.pad(conv.weight, (1, 0, 1, 0)))
    conv.kernel_size, conv.padding = (rows + 1, columns + 1), (rows // 2, columns // 2)


def _in_place(outputs: _Outputs) -> None:
    """Activations write over what a convolution or norm gave."""
    for _, layer in outputs.pairs():
        if hasattr(layer, "inplace"):
            layer.inplace = True  # type: ignore[assignment]
