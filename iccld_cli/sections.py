"""The sections of a configuration: every key with its type, default, range and meaning.

`iccld config` prints these fields, and `docs/settings.md` is generated from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """A part of the configuration: frozen, and without keys that are not listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


@dataclass(frozen=True)
class Rule:
    """A range that `ge`, `le` and the like cannot say.

    Attributes:
        text: The range, in the list of the keys and in the error.
        holds: Whether a value is in it.
    """

    text: str
    holds: Callable[[Any], bool]

    def __call__(self, value: Any) -> Any:
        """The value.

        Raises:
            ValueError: It is out of the range.
        """
        if not self.holds(value):
            raise ValueError(f"needs {self.text}")
        return value


def _rising(low: float, high: float) -> AfterValidator:
    return AfterValidator(Rule(f"{low:g} <= low <= high <= {high:g}", lambda v: low <= v[0] <= v[1] <= high))


WIDEST = 4096
"""Largest width of a part. The presets use at most 512; what a file asks for is allocated."""

_Width = Annotated[int, Field(ge=1, le=WIDEST)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Size = tuple[int, int]
_Range = tuple[float, float]
_CONTEXT = "width and height 0, or multiples of 32 that are at least data.crop"


class ModelConfig(Section):
    """Sizes of the networks. With `--ckpt` the model file fixes the sizes of the parts that it has."""

    CODER_SIZES: ClassVar[tuple[str, ...]] = (
        "tiny_channels", "latent_channels", "fuse_channels", "skip_channels", "decoder_channels", "detail",
    )  # fmt: skip
    UNET_SIZES: ClassVar[tuple[str, ...]] = ("unet_channels", "unet_layers", "unet_attention")

    encoder: str = Field(
        "tiny",
        max_length=4096,
        description="`tiny`; `mobilenet-v2` or `efficientnet-lite0`, which come with the program; or a Hugging Face "
        "hub id or local folder of a vision model.",
    )
    tiny_channels: tuple[_Width, _Width, _Width, _Width] = Field(
        (24, 48, 96, 128), description="Widths of the tiny encoder at 1/4, 1/8, 1/16 and 1/32 of the image's size."
    )
    latent_channels: int = Field(
        32, ge=4, le=WIDEST, multiple_of=4, description="C_z, channels of the latent z_0 at 1/8."
    )
    fuse_channels: int = Field(
        64, ge=8, le=WIDEST, multiple_of=4, description="Width of the pyramid fusion that makes the latent."
    )
    skip_channels: int = Field(
        24,
        ge=0,
        le=WIDEST,
        description="Width of the inter-coder features at 1/4; 0 leaves the inter-coder connection out.",
    )
    skip_dropout: float = Field(
        0.1, ge=0, lt=1, description="Probability per image of dropping the inter-coder features while training."
    )
    decoder_channels: int = Field(64, ge=8, le=WIDEST, multiple_of=8, description="Width of the mask decoder.")
    # The UNet's group norms have 8 groups of at least 2 channels.
    unet_channels: Annotated[
        tuple[_Width, ...],
        AfterValidator(
            Rule(
                "at least one width, each a multiple of 8 from 16 on",
                lambda widths: bool(widths) and all(width >= 16 and width % 8 == 0 for width in widths),
            )
        ),
    ] = Field((32, 48, 64), max_length=6, description="Widths of the levels of the denoising UNet, from 1/8 downwards.")
    unet_layers: int = Field(1, ge=1, le=16, description="Residual blocks per level of the UNet.")
    unet_attention: bool = Field(True, description="Whether the deepest level of the UNet has global attention.")
    discriminator_channels: int = Field(64, ge=8, le=WIDEST, description="Width of the discriminator.")
    detail: bool = Field(
        False,
        description="Whether every image is seen at two resolutions, as context at half size and as detail at full "
        "size, which are fused by learned attention (HRDA, Hoyer et al. 2022). The sides of data.crop must then be "
        "multiples of 64.",
    )
    detail_weight: _Share = Field(
        0.1, description="With model.detail: weight of the loss of the detail alone; the fused logits have the rest."
    )


class DiffusionConfig(Section):
    """The noise process (zero terminal SNR, prediction of the clean sample, trailing time steps)."""

    train_timesteps: int = Field(1000, ge=2, le=10_000, description="Number of noise levels T while training.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2", description="Noise schedule, by its name in diffusers."
    )
    steps: int = Field(
        1, ge=0, le=1000, description="Denoising steps at inference where `--steps` is not given; 0 decodes z_0."
    )


class DataConfig(Section):
    """How training crops are drawn."""

    crop: Annotated[
        _Size,
        AfterValidator(
            Rule(
                "width and height in multiples of 32",
                lambda size: all(side >= 32 and side % 32 == 0 for side in size),
            )
        ),
    ] = Field((256, 128), description="Width and height of the training crops in pixels.")
    context: Annotated[
        _Size,
        AfterValidator(Rule(_CONTEXT, lambda size: size == (0, 0) or all(s >= 32 and s % 32 == 0 for s in size))),
    ] = Field(
        (0, 0),
        description="Width and height in pixels of the surroundings of a target crop that the teacher sees when it "
        "labels the crop; 0, 0 for the crop alone.",
    )
    batch_size: int = Field(
        4, ge=1, le=4096, description="Source crops per step, process and micro-batch, and as many target crops."
    )
    source_scale: Annotated[_Range, _rising(0.1, 8)] = Field(
        (0.8, 1.6),
        description="Range of the random rescaling of source frames before cropping; 1 makes source and target frames "
        "equally high.",
    )
    target_scale: Annotated[_Range, _rising(0.1, 8)] = Field(
        (1.0, 1.5), description="Range of the random rescaling of target frames before cropping."
    )
    same_window: bool = Field(
        False,
        description="Whether target crop n is cut where source crop n is: as high a share of its frame, at the same "
        "place in it, mirrored alike (HRDA's code cuts one window for both). `target_scale` is then not used.",
    )
    workers: int = Field(2, ge=0, le=1024, description="Processes that load data; 0 loads in the training process.")
    rare_class_temperature: float = Field(
        0.1, ge=0, description="T of rare-class sampling (DAFormer, equation 6); 0 switches it off."
    )
    rare_class_pixels: int = Field(200, ge=0, description="Pixels of the drawn class that a crop should show.")
    ignore_rows_top: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the rows of a target frame, from the top, without pseudo-labels."
    )
    ignore_rows_bottom: float = Field(
        0.0, ge=0, lt=1, description="The same from the bottom, such as for the bonnet of the recording car."
    )
    fold_classes: bool = Field(
        True,
        description="Whether source classes that are not trained count as the class that includes them in the labels "
        "of the target (trucks as cars for CamVid) instead of being ignored.",
    )

    @field_validator("context")
    @classmethod
    def _around_the_crop(cls, value: _Size, info: ValidationInfo) -> _Size:
        crop = info.data.get("crop", value)
        if value != (0, 0) and any(side < least for side, least in zip(value, crop, strict=True)):
            raise ValueError(f"needs {_CONTEXT}")
        return value


class AugmentConfig(Section):
    """Strong augmentation of the images that the student sees (DACS, section 3; DAFormer's code)."""

    jitter_probability: _Share = Field(0.8, description="Probability of colour jitter per image.")
    jitter_strength: _Share = Field(
        0.2, description="Range of the jitter of brightness, contrast and saturation; hue has a quarter of it."
    )
    blur_probability: _Share = Field(0.5, description="Probability of Gaussian blur per image.")
    blur_sigma: Annotated[_Range, _rising(0, 10)] = Field(
        (0.15, 1.15), description="Range of the sigma of the blur in pixels."
    )
    style_probability: _Share = Field(
        0.7, description="Probability that a source crop takes the colour statistics of a target crop."
    )
    style_strength: Annotated[_Range, _rising(0, 1)] = Field(
        (0.3, 1.0), description="Range of the blend towards these statistics."
    )


class OptimConfig(Section):
    """The optimizer (AdamW, linear warm-up and decay)."""

    lr: float = Field(6e-5, gt=0, le=1000, description="Learning rate of the pretrained encoder.")
    head_lr_factor: float = Field(
        10.0, gt=0, le=1000, description="Factor on optim.lr for everything that starts from random weights."
    )
    betas: Annotated[
        _Range, AfterValidator(Rule("at least 0 and less than 1", lambda v: all(0 <= b < 1 for b in v)))
    ] = Field((0.9, 0.999), description="Betas of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay; norms and biases have none.")
    warmup: int = Field(1500, ge=0, description="Steps of linear warm-up, at most a tenth of the run.")
    grad_clip: float = Field(5.0, ge=0, description="Largest gradient norm; 0 switches clipping off.")


class SegConfig(Section):
    """Stage 1, segmentation-based adaptation of E and D."""

    iterations: int = Field(40000, ge=1, description="Training steps of stage 1.")
    burn_in: _Share = Field(
        0.3, description="Fraction of the steps trained on the source alone, before pseudo-labels count."
    )
    ema_horizon: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Fraction of the run that the moving average of the teacher spans; its decay is "
        "1 - 1/(horizon x steps), kept within 0.9 and 0.9999.",
    )
    mixed_weight: float = Field(1.0, ge=0, description="Weight of the loss on mixed images.")
    labelled_weight: float = Field(
        1.0, ge=0, description="With `--labelled`: weight of the loss on the labelled target crops of a step."
    )
    feature_distance_weight: float = Field(
        0.0, ge=0, description="Weight of the distance to the frozen pretrained encoder (DAFormer, section 3.3)."
    )
    masked_weight: float = Field(
        0.0, ge=0, description="Weight of masked image consistency (MIC, section 3); 0 switches it off."
    )
    boundary_weight: float = Field(
        0.0,
        ge=0,
        description="How much more a pixel of a mixed image counts on the edge of what was pasted than far from it "
        "(BAPA-Net); 0 weighs all alike.",
    )
    prototype_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between the mean latents of a class in source and target (BAPA-Net).",
    )
    masked_block: int = Field(32, ge=4, description="Side of a masked block in pixels.")
    masked_ratio: float = Field(0.7, ge=0, lt=1, description="Fraction of the blocks that are masked.")


class PseudoConfig(Section):
    """Weights of the pseudo-labels, in both stages."""

    gate: Literal["threshold", "quantile", "balanced"] = Field(
        "quantile",
        description="`threshold` weighs a whole image by its fraction of confident pixels (DACS); `quantile` counts a "
        "pixel from a running quantile of the confidence of its class on; `balanced` does too, and takes the class "
        "whose probability is largest relative to its gate as the label (CBST).",
    )
    threshold: _Share = Field(0.968, description="With `threshold`: the confidence from which a pixel is confident.")
    quantile: _Share = Field(0.4, description="With `quantile` and `balanced`: the quantile.")
    limits: Annotated[_Range, _rising(0, 1)] = Field(
        (0.3, 0.95), description="With `quantile` and `balanced`: smallest and largest gate of a class."
    )


class AdvConfig(Section):
    """Stage 2, adversarial learning on the denoising UNet."""

    iterations: int = Field(40000, ge=1, description="Training steps of stage 2.")
    coder_lr_factor: float = Field(
        0.5, ge=0, description="Factor on the learning rates of stage 1 for E and D; 0 freezes them."
    )
    unet_lr: float = Field(2e-4, gt=0, le=1000, description="Learning rate of the UNet.")
    label_strength: _Share = Field(
        0.5, description="Weight of the class prototypes in the clean latent; z_0 has the rest."
    )
    latent_weight: float = Field(0.3, ge=0, description="Weight of the clean-latent loss on source and mixed images.")
    decoded_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy of the decoded clean estimate.")
    direct_weight: float = Field(
        0.5, ge=0, description="Weight of the cross-entropy of D(z_0), which keeps `--steps 0` useful."
    )
    labelled_weight: float = Field(
        1.0,
        ge=0,
        description="With `--labelled`: weight of the cross-entropies on the labelled target crops of a step.",
    )
    terminal_probability: _Share = Field(
        0.5, description="Probability of training on pure noise (t = T), where inference with one step starts."
    )
    adversarial_weight: float = Field(
        0.01, ge=0, description="Weight of the adversarial loss on the estimates of mixed and target images."
    )
    adversary: Literal["latent", "output", "entropy", "class"] = Field(
        "latent",
        description="What the discriminator sees: `latent`, the estimates of the clean latent; `output`, the class "
        "probabilities that D computes from them (AdaptSegNet, Tsai et al. 2018, section 3); `entropy`, the entropy of "
        "each class there (AdvEnt, Vu et al. 2019, section 3.2); `class`, the estimates, told apart class by class "
        "(FADA, Wang et al. 2020, section 3.2).",
    )
    align_encoder: bool = Field(
        False, description="Whether the adversarial loss also trains E, through z_0 of target images."
    )
    generate: bool = Field(
        True,
        description="Whether the UNet generates the latent. Without it stage 2 is adversarial learning of E and D, a "
        "common baseline; the model has no UNet, and adv.align_encoder is always on.",
    )
    self_training: bool = Field(
        True, description="Whether mixed images with pseudo-labels are trained on, besides the source."
    )
    discriminator_lr: float = Field(1e-4, gt=0, le=1000, description="Learning rate of the discriminator.")
    gradient_penalty: float = Field(
        0.0, ge=0, description="Weight of the R1 penalty on source estimates; 0 switches it off."
    )
    ema_horizon: float = Field(0.1, gt=0, le=1, description="As seg.ema_horizon, in stage 2.")

    @field_validator("gradient_penalty")
    @classmethod
    def _of_one_score(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and info.data.get("adversary") == "class":
            raise ValueError("goes with an adversary of one score, not with adv.adversary = class")
        return value


class RunConfig(Section):
    """Everything around the training."""

    seed: int = Field(0, ge=0, description="Seed of everything random.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda|cuda:\d+)$", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the forward pass; `auto` is bf16 where the device has it, else fp32."
    )
    log_every: int = Field(10, ge=1, description="Steps between two lines of the log.")
    save_every: int = Field(1000, ge=0, description="Steps between two training states; 0 saves at the end only.")
    keep_states: int = Field(2, ge=1, description="Training states that are kept, the newest.")
    validate_every: int = Field(1000, ge=0, description="Steps between two validations; 0 validates at the end only.")
    validate_frames: int = Field(0, ge=0, description="Frames of the validation split that are used; 0 uses all.")
    select: Literal["miou", "labels-free"] = Field(
        "miou",
        description="What chooses the best teacher: validation mIoU, or the score without labels on unlabelled target "
        "frames, which then is logged as `labels_free`.",
    )
    overlay_every: int = Field(
        1000, ge=0, description="Steps between two pictures of the same target frames; 0 for none."
    )
    accumulate: int = Field(
        1, ge=1, le=65536, description="Micro-batches of data.batch_size that make one optimizer step."
    )
    checkpointing: bool = Field(
        False,
        description="Whether activations are computed again in the backward pass instead of being kept: less memory, "
        "about a third more time.",
    )
    shard: bool = Field(
        False,
        description="Whether every process keeps only its part of parameters, gradients and optimizer state, for "
        "encoders that fill a device.",
    )
    compile: bool = Field(False, description="Whether the networks run through torch.compile.")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Where the log goes besides `log.jsonl`."
    )
