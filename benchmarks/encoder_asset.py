"""Write the weights of an encoder that comes with the program.

    python benchmarks/encoder_asset.py FOLDER OUT.safetensors

FOLDER holds an encoder as transformers stores it (an EfficientNet-Lite as an `EfficientNetModel` with saturated gates).
Prints the checksum that `iccld_cli/models/bundled.py` records, and the largest difference of a feature map that fp16
makes.
"""

import hashlib
import sys
from pathlib import Path

import torch

from iccld_cli.models.backbones import rebuild_backbone
from iccld_cli.models.bundled import bundle
from iccld_cli.models.pretrained import load_backbone


def main() -> None:
    """Write and compare."""
    folder, out = sys.argv[1], Path(sys.argv[2])
    backbone = load_backbone(folder).eval()
    data = bundle(backbone)
    out.write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), f"{len(data) / 1e6:.1f} MB")
    from safetensors.torch import load

    other = rebuild_backbone(backbone.spec).eval()
    other.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load(data).items()})
    images = torch.rand(1, 3, 256, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one, same in zip(backbone(images), other(images), strict=True):
            print(
                f"map {tuple(one.shape)}: {float((one - same).abs().max() / one.abs().max()):.1e} of its largest value"
            )


if __name__ == "__main__":
    main()
