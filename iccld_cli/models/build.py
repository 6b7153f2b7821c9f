"""The one place that turns a configuration into networks and owns their sizes."""

from __future__ import annotations

from typing import Any

import torch

from iccld_cli.config import Config
from iccld_cli.models.backbones import BackboneSpec, HuggingFaceBackbone, rebuild_backbone
from iccld_cli.models.decoder import Decoder
from iccld_cli.models.denoiser import Denoiser
from iccld_cli.models.detail import TwoResolutions
from iccld_cli.models.discriminator import ClassDiscriminator, PatchDiscriminator
from iccld_cli.models.encoder import Encoder, TinyBackbone
from iccld_cli.models.pretrained import load_backbone
from iccld_cli.models.segmenter import Segmenter

TINY = "tiny"


def build_segmenter(
    config: Config,
    classes: int,
    *,
    denoiser: bool,
    backbone: dict[str, Any] | None = None,
    seed: int | None = None,
) -> Segmenter:
    """Build a model with random weights, or with a pretrained encoder.

    Args:
        config: The configuration.
        classes: K, number of classes of the label space.
        denoiser: Whether the model has the stage-2 UNet.
        backbone: A `BackboneSpec` as JSON, from a model file: the encoder is rebuilt from it with random weights
            and nothing is loaded from `config.model.encoder`.
        seed: Seed of the random weights; None leaves the global generator as it is.

    Raises:
        IccldError: The pretrained encoder cannot be loaded.
    """
    if seed is not None:
        torch.manual_seed(seed)
    model = config.model
    if backbone is not None:
        body = rebuild_backbone(BackboneSpec.from_json(backbone))
    else:
        body = TinyBackbone(model.tiny_channels) if model.encoder == TINY else load_backbone(model.encoder)
    encoder = Encoder(body, body.channels, model.latent_channels, model.fuse_channels, model.skip_channels)
    outputs = classes + model.detail  # one more for the attention
    decoder = Decoder(model.latent_channels, model.skip_channels, model.decoder_channels, outputs)
    return join(encoder, decoder, build_denoiser(config) if denoiser else None, config)


def join(encoder: Encoder, decoder: Decoder, denoiser: Denoiser | None, config: Config) -> Segmenter:
    """Built parts as a model of one resolution or of two, as the configuration says."""
    whole = TwoResolutions if config.model.detail else Segmenter
    return whole(encoder, decoder, denoiser, config)


def build_denoiser(config: Config) -> Denoiser:
    """The denoising UNet of a configuration, with random weights."""
    model = config.model
    return Denoiser(model.latent_channels, model.unet_channels, model.unet_layers, model.unet_attention)


def build_discriminator(config: Config, classes: int) -> PatchDiscriminator | ClassDiscriminator:
    """The discriminator of a configuration, with random weights; `classes` is K."""
    latent, adversary = config.model.latent_channels, config.adv.adversary
    if adversary == "class":
        return ClassDiscriminator(latent, classes)
    return PatchDiscriminator(latent if adversary == "latent" else classes, config.model.discriminator_channels)


def backbone_spec(segmenter: Segmenter) -> dict[str, Any] | None:
    """What a model file must say about the encoder; None for the tiny one, which the configuration describes."""
    body = segmenter.encoder.backbone
    return body.spec.to_json() if isinstance(body, HuggingFaceBackbone) else None
