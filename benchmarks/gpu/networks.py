"""Networks of the presets' true size with random weights, through local folders: nothing is asked of a hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import models as preset_models  # benchmarks/models.py


def encoder_folder(preset: str, root: Path) -> str | None:
    """A folder with the preset's encoder, of random weights; None where it has one of its own."""
    import transformers

    from iccld_cli.config import load_config

    name = load_config(preset).model.encoder
    if name not in preset_models.ENCODERS:
        return None
    folder = root / name.replace("/", "_")
    if not (folder / "model.safetensors").exists():
        kind, sizes = preset_models.ENCODERS[name]
        raw = getattr(transformers, kind)(**sizes)
        transformers.AutoModel.from_config(raw).save_pretrained(folder)
    return str(folder)


def segformer(name: str) -> Any:
    """SegFormer from `transformers`, by the name of `benchmarks/train.py`."""
    from train import SEGFORMER  # benchmarks/train.py
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, depths, decoder = SEGFORMER[name]
    heads = {"num_attention_heads": [1, 2, 5, 8], "hidden_sizes": widths, "depths": depths}
    return SegformerForSemanticSegmentation(SegformerConfig(**heads, decoder_hidden_size=decoder, num_labels=19))
