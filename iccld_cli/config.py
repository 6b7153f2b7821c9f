"""Configuration: frozen, typed, and complete.

A `Config` says everything a run depends on except the data sets. It starts from a preset (an annotated TOML
file of this package), takes a `--config` file and `--set key=value` on top, and is saved resolved beside
the run and inside every model file. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.reading import ReadError, parse_toml, read_toml


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _upwards(value: tuple[float, float], limit: float) -> tuple[float, float]:
    if not 0 <= value[0] <= value[1] <= limit:
        raise ValueError(f"needs 0 <= low <= high <= {limit:g}")
    return value


WIDEST = 4096
"""Largest width of a part. The presets use at most 512; what a file asks for is allocated."""

_Width = Annotated[int, Field(ge=1, le=WIDEST)]


class ModelConfig(_Section):
    """Sizes of the networks.

    Attributes:
        encoder: `tiny`, or a Hugging Face hub id or local folder of a vision model.
        tiny_channels: Widths of the tiny encoder at 1/4, 1/8, 1/16 and 1/32.
        latent_channels: C_z, channels of the latent z_0 at 1/8.
        fuse_channels: Width of the pyramid fusion that makes the latent.
        skip_channels: Width of the inter-coder features at 1/4; 0 cuts the inter-coder connection.
        skip_dropout: Probability per image of dropping the inter-coder features while training.
        decoder_channels: Width of the mask decoder.
        unet_channels: Widths of the denoising UNet's levels, from 1/8 downwards.
        unet_layers: Residual blocks a level.
        unet_attention: Whether the deepest level attends globally.
        discriminator_channels: Width of the latent discriminator.
        detail: Whether every image is seen at two resolutions, as context at half size and as detail at full size, and
            the two are fused by learned attention (HRDA, Hoyer et al. 2022). Training crops need sides that are
            multiples of 64.
        detail_weight: Weight of the detail's own loss; the fused one has the rest (HRDA's lambda of the detail).
    """

    CODER_SIZES: ClassVar[tuple[str, ...]] = (
        "tiny_channels", "latent_channels", "fuse_channels", "skip_channels", "decoder_channels", "detail",
    )  # fmt: skip
    UNET_SIZES: ClassVar[tuple[str, ...]] = ("unet_channels", "unet_layers", "unet_attention")

    encoder: str = Field("tiny", max_length=4096)
    tiny_channels: tuple[_Width, _Width, _Width, _Width] = (24, 48, 96, 128)
    latent_channels: int = Field(32, ge=4, le=WIDEST, multiple_of=4)
    fuse_channels: int = Field(64, ge=8, le=WIDEST, multiple_of=4)
    skip_channels: int = Field(24, ge=0, le=WIDEST)
    skip_dropout: float = Field(0.1, ge=0, lt=1)
    decoder_channels: int = Field(64, ge=8, le=WIDEST, multiple_of=8)
    unet_channels: tuple[_Width, ...] = Field((32, 48, 64), max_length=6)
    unet_layers: int = Field(1, ge=1, le=16)
    unet_attention: bool = True
    discriminator_channels: int = Field(64, ge=8, le=WIDEST)
    detail: bool = False
    detail_weight: float = Field(0.1, ge=0, le=1)

    @field_validator("unet_channels")
    @classmethod
    def _levels(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(width < 16 or width % 8 for width in value):  # 8 groups of at least 2 channels
            raise ValueError("needs at least one width, each a multiple of 8 from 16 on")
        return value


class DiffusionConfig(_Section):
    """The noise process (zero terminal SNR, clean-sample prediction, trailing time steps).

    Attributes:
        train_timesteps: Number of noise levels T is divided into while training.
        beta_schedule: Name of a diffusers beta schedule.
        steps: Sampling steps at inference when none are asked for.
    """

    train_timesteps: int = Field(1000, ge=2, le=10_000)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    steps: int = Field(1, ge=0, le=1000)


class DataConfig(_Section):
    """How training crops are drawn.

    Attributes:
        crop: (width, height) in pixels.
        context: (width, height) in pixels of the window around a target crop that the teacher sees when it labels the
            crop; (0, 0) for the crop alone. What is beside a crop helps to tell what is in it, and the model that is
            wanted sees whole frames.
        batch_size: Source crops a step, and as many target crops.
        source_scale: Range of random rescaling of source frames before cropping, 1 = the size that makes
            source and target frames equally high.
        target_scale: The same for target frames.
        workers: Loading processes.
        rare_class_temperature: T of rare-class sampling (DAFormer, equation 6); 0 switches it off.
        rare_class_pixels: Pixels of the drawn class that a crop should show.
        ignore_rows_top: Share of target rows at the top without pseudo-labels.
        ignore_rows_bottom: Share of target rows at the bottom without pseudo-labels (ego bonnet).
        fold_classes: Whether source classes that the target's labels do not tell apart are trained as the one that
            takes them in there (trucks as cars for CamVid) instead of being ignored.
    """

    crop: tuple[int, int] = (256, 128)
    context: tuple[int, int] = (0, 0)
    batch_size: int = Field(4, ge=1, le=4096)
    source_scale: tuple[float, float] = (0.8, 1.6)
    target_scale: tuple[float, float] = (1.0, 1.5)
    workers: int = Field(2, ge=0, le=1024)
    rare_class_temperature: float = Field(0.1, ge=0)
    rare_class_pixels: int = Field(200, ge=0)
    ignore_rows_top: float = Field(0.0, ge=0, lt=1)
    ignore_rows_bottom: float = Field(0.0, ge=0, lt=1)
    fold_classes: bool = True

    @field_validator("crop")
    @classmethod
    def _crop(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 32 or side % 32 for side in value):
            raise ValueError("width and height must be multiples of 32")
        return value

    @field_validator("context")
    @classmethod
    def _context(cls, value: tuple[int, int], info: ValidationInfo) -> tuple[int, int]:
        crop = info.data.get("crop", value)
        if value != (0, 0) and any(side < least or side % 32 for side, least in zip(value, crop, strict=True)):
            raise ValueError("needs multiples of 32 that are at least data.crop, or 0 and 0 for none")
        return value

    @field_validator("source_scale", "target_scale")
    @classmethod
    def _scale(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 8:
            raise ValueError("needs 0.1 <= low <= high <= 8")
        return value


class AugmentConfig(_Section):
    """Strong augmentation of the images that the student sees (DACS, section 3; DAFormer's code).

    Attributes:
        jitter_probability: Probability of colour jitter per image.
        jitter_strength: Range of brightness, contrast, saturation and a quarter of it of hue.
        blur_probability: Probability of Gaussian blur per image.
        blur_sigma: Range of the blur's sigma in pixels.
        style_probability: Probability that a source crop takes a target crop's colour statistics.
        style_strength: Range of the blend towards these statistics.
    """

    jitter_probability: float = Field(0.8, ge=0, le=1)
    jitter_strength: float = Field(0.2, ge=0, le=1)
    blur_probability: float = Field(0.5, ge=0, le=1)
    blur_sigma: tuple[float, float] = (0.15, 1.15)
    style_probability: float = Field(0.7, ge=0, le=1)
    style_strength: tuple[float, float] = (0.3, 1.0)

    @field_validator("blur_sigma", "style_strength")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        return _upwards(value, 1.0 if info.field_name == "style_strength" else 10.0)


class OptimConfig(_Section):
    """The optimizer (AdamW, linear warm-up and decay).

    Attributes:
        lr: Learning rate of the pretrained encoder.
        head_lr_factor: Factor on `lr` for everything that starts from random weights.
        betas: AdamW's betas.
        weight_decay: Not applied to norms and biases.
        warmup: Steps of linear warm-up, at most a tenth of the run.
        grad_clip: Largest gradient norm; 0 switches clipping off.
    """

    lr: float = Field(6e-5, gt=0)
    head_lr_factor: float = Field(10.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup: int = Field(1500, ge=0)
    grad_clip: float = Field(5.0, ge=0)

    @field_validator("betas")
    @classmethod
    def _betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("each must be at least 0 and less than 1")
        return value


class SegConfig(_Section):
    """Stage 1, segmentation-based adaptation of E and D.

    Attributes:
        iterations: Steps.
        burn_in: Share of the steps trained on the source alone, before pseudo-labels count.
        ema_horizon: Share of the run that the teacher's average spans; its decay is 1 - 1/(horizon x steps),
            kept within [0.9, 0.9999].
        mixed_weight: Weight of the loss on mixed images.
        confidence: `threshold` weighs a whole image by its share of confident pixels (DACS); `quantile` gates
            each pixel at a running quantile of its class's confidence; `balanced` gates likewise, and labels a pixel
            with the class whose probability is largest measured by its gate (CBST).
        confidence_threshold: Threshold of `threshold`.
        confidence_quantile: Quantile of `quantile` and `balanced`.
        confidence_range: Limits of their per-class gates.
        feature_distance_weight: Weight of the distance to the frozen pretrained encoder
            (DAFormer, section 3.3).
        masked_weight: Weight of masked image consistency (MIC, section 3); 0 switches it off.
        masked_block: Side of a mask block in pixels.
        masked_ratio: Share of masked blocks.
    """

    iterations: int = Field(40000, ge=1)
    burn_in: float = Field(0.3, ge=0, le=1)
    ema_horizon: float = Field(0.1, gt=0, le=1)
    mixed_weight: float = Field(1.0, ge=0)
    confidence: Literal["threshold", "quantile", "balanced"] = "quantile"
    confidence_threshold: float = Field(0.968, ge=0, le=1)
    confidence_quantile: float = Field(0.4, ge=0, le=1)
    confidence_range: tuple[float, float] = (0.3, 0.95)
    feature_distance_weight: float = Field(0.0, ge=0)
    masked_weight: float = Field(0.0, ge=0)
    masked_block: int = Field(32, ge=4)
    masked_ratio: float = Field(0.7, ge=0, lt=1)

    @field_validator("confidence_range")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        return _upwards(value, 1.0)


class AdvConfig(_Section):
    """Stage 2, adversarial learning on the denoising UNet.

    Attributes:
        iterations: Steps.
        coder_lr_factor: Factor on the stage-1 learning rates for E and D; 0 freezes them.
        unet_lr: Learning rate of the UNet.
        label_strength: Share of the class prototypes in the clean latent, the rest is z_0.
        latent_weight: Weight of the clean-latent loss on source and mixed images.
        decoded_weight: Weight of the cross-entropy of the decoded clean estimate.
        direct_weight: Weight of the cross-entropy of D(z_0), which keeps `--steps 0` meaningful.
        terminal_probability: Probability of training on pure noise (t = T), the case that one step meets.
        adversarial_weight: Weight of the adversarial loss on mixed and target estimates.
        adversary: What the discriminator sees: `latent`, the estimates z̄_0, or `output`, the class probabilities
            that D makes of them (AdaptSegNet, Tsai et al. 2018, section 3).
        align_encoder: Whether the adversarial loss also trains E, through z_0 of target images.
        generate: Whether the UNet generates the latent. Without it stage 2 is adversarial learning of E and D, the
            baseline of the field, and the model has no UNet; `align_encoder` then holds by itself.
        self_training: Whether mixed images with pseudo-labels are trained on, besides the source.
        discriminator_lr: Learning rate of the discriminator.
        gradient_penalty: Weight of the R1 penalty on source estimates; 0 switches it off.
        ema_horizon: As in stage 1.
    """

    iterations: int = Field(40000, ge=1)
    coder_lr_factor: float = Field(0.5, ge=0)
    unet_lr: float = Field(2e-4, gt=0)
    label_strength: float = Field(0.5, ge=0, le=1)
    latent_weight: float = Field(0.3, ge=0)
    decoded_weight: float = Field(1.0, ge=0)
    direct_weight: float = Field(0.5, ge=0)
    terminal_probability: float = Field(0.5, ge=0, le=1)
    adversarial_weight: float = Field(0.01, ge=0)
    adversary: Literal["latent", "output"] = "latent"
    align_encoder: bool = False
    generate: bool = True
    self_training: bool = True
    discriminator_lr: float = Field(1e-4, gt=0)
    gradient_penalty: float = Field(0.0, ge=0)
    ema_horizon: float = Field(0.1, gt=0, le=1)


class RunConfig(_Section):
    """What surrounds the training.

    Attributes:
        seed: Seed of everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` is bf16 where the device has it and fp32 elsewhere.
        log_every: Steps between two lines of the log.
        save_every: Steps between two training states; 0 saves at the end only.
        keep_states: Training states kept.
        validate_every: Steps between two validations; 0 validates at the end only.
        validate_frames: Frames of the held-back split used for it; 0 uses all.
        overlay_every: Steps between two pictures of the same target frames; 0 for none.
        accumulate: Micro-batches of `data.batch_size` that make one optimizer step.
        checkpointing: Whether to compute activations again in the backward pass instead of keeping them: less
            memory, about a third more time.
        shard: Whether several processes share parameters, gradients and optimizer state, each keeping its part, instead
            of holding all of them; for encoders that fill a device.
        compile: Whether to run the networks through torch.compile.
        trackers: Where the log goes besides `log.jsonl`: any of `tensorboard`, `wandb` and `mlflow`.
    """

    seed: int = Field(0, ge=0)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda|cuda:\d+)$")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    log_every: int = Field(10, ge=1)
    save_every: int = Field(1000, ge=0)
    keep_states: int = Field(2, ge=1)
    validate_every: int = Field(1000, ge=0)
    validate_frames: int = Field(0, ge=0)
    overlay_every: int = Field(1000, ge=0)
    accumulate: int = Field(1, ge=1, le=65536)
    checkpointing: bool = False
    shard: bool = False
    compile: bool = False
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()


class Config(_Section):
    """The whole configuration of a run; each field is one section of its TOML file."""

    preset: str = Field("tiny", max_length=200)
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    seg: SegConfig = SegConfig()
    adv: AdvConfig = AdvConfig()
    run: RunConfig = RunConfig()

    @field_validator("data")
    @classmethod
    def _views(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
        model = info.data.get("model")
        if model is not None and model.detail and any(side % 64 for side in value.crop):
            raise ValueError("with model.detail the sides of data.crop must be multiples of 64")
        return value

    def with_batch_size(self, size: int) -> Config:
        """The same configuration with another `data.batch_size`."""
        return self.model_copy(update={"data": self.data.model_copy(update={"batch_size": size})})

    def fixed_by(self, start: Config, generator: bool) -> list[str]:
        """Keys of networks' sizes that a start file fixes and that differ here.

        Args:
            start: The start file's configuration.
            generator: Whether the UNet too comes from that file.
        """
        names = ModelConfig.CODER_SIZES + (ModelConfig.UNET_SIZES if generator else ())
        return [f"model.{name}" for name in names if getattr(self.model, name) != getattr(start.model, name)]

    def to_toml(self) -> str:
        """The resolved configuration as TOML, read back by `load_config`."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    folder = resources.files("iccld_cli") / "presets"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_config(
    preset: str | None = None,
    *,
    file: Path | str | None = None,
    base: Config | None = None,
    sizes: ModelConfig | None = None,
    overrides: dict[str, Any] | None = None,
    assignments: list[str] | None = None,
) -> Config:
    """Resolve a configuration: preset or base, then a file, then options, then `--set`.

    Args:
        preset: Name of a shipped preset.
        file: A TOML file with any part of a configuration.
        base: Configuration to start from, such as a model file's; used where no preset is named.
        sizes: Networks that take the place of the preset's, such as a model file's.
        overrides: Dotted keys to values; those that are None are left out.
        assignments: `key=value` strings, the value in TOML (a bare word counts as a string).

    Returns:
        The configuration.

    Raises:
        IccldError: Unknown preset or key, or a value out of range.
    """
    tree: dict[str, Any] = {} if base is None or preset else base.model_dump(mode="json")
    if preset or base is None:
        tree = _preset_tree(preset or "tiny")
    if sizes is not None:
        tree["model"] = sizes.model_dump(mode="json")
    if file is not None:
        _merge(tree, _read_toml(Path(file)))
    for key, value in (overrides or {}).items():
        if value is not None:
            _assign(tree, key, value)
    for text in assignments or []:
        key, sign, value = text.partition("=")
        if not sign:
            raise IccldError(f"--set {text!r} has no value", "write it as --set key=value, such as --set optim.lr=1e-4")
        _assign(tree, key.strip(), _parse_value(value.strip()))
    return config_from_dict(tree)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """Validate a nested dictionary.

    Raises:
        IccldError: Unknown key (the nearest known one is named) or a value out of range.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error) from None


def _preset_tree(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise IccldError(f"unknown preset {name!r}", did_you_mean(name, preset_names()))
    text = (resources.files("iccld_cli") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return {**parse_toml(text), "preset": name}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except ReadError as error:
        if error.message == "is missing":
            raise IccldError(f"no configuration file at {path}") from None
        raise IccldError(f"configuration file {path} {error.message}", "give a TOML file") from None


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise IccldError(f"{key!r} goes through a value that is not a section")
    tree[name] = value


def _parse_value(text: str) -> Any:
    try:
        return parse_toml(f"v = {text}")["v"]
    except ReadError as error:
        if "nested" in error.message:
            raise IccldError(f"the value {text[:40]!r}... {error.message}") from None
        return text  # a bare word


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints
        return "a value"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _explain(error: ValidationError) -> IccldError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path)
    if first["type"] != "extra_forbidden":
        hint = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], dict):  # a whole section: the rule names what breaks it
            return IccldError(hint, f"change {dotted} or what it does not go with")
        return IccldError(f"{dotted} = {_short(first['input'])} is not possible", hint)
    model: type[BaseModel] = Config
    for part in path[:-1]:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    known = [".".join([*path[:-1], name]) for name in model.model_fields]
    return IccldError(f"unknown configuration key {dotted!r}", did_you_mean(dotted, known))
