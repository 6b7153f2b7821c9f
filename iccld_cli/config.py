"""Configuration: frozen, typed, and complete.

A `Config` says everything a run depends on except the data sets. It starts from a preset (an annotated TOML
file of this package), takes a `--config` file and `--set key=value` on top, and is saved resolved beside
the run and inside every model file. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.reading import ReadError, parse_toml, read_toml
from iccld_cli.recipe import Recipe, load_recipe, recipe_names
from iccld_cli.sections import (
    AdvConfig,
    AugmentConfig,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    OptimConfig,
    PseudoConfig,
    RunConfig,
    Section,
    SegConfig,
)

RENAMED: dict[str, str | None] = {
    "seg.confidence": "pseudo.gate",
    "seg.confidence_threshold": "pseudo.threshold",
    "seg.confidence_quantile": "pseudo.quantile",
    "seg.confidence_range": "pseudo.limits",
}
"""Keys of earlier versions -> their names now, None where a key was removed.

Files that a program wrote (model files, training states) are read with either name. `--set` and `--config` take the new
one, and the error names it.
"""

FREE_SETTINGS = {
    "run": (
        "device", "log_every", "save_every", "keep_states", "validate_every", "validate_frames", "overlay_every",
        "select",
        "checkpointing", "shard", "trackers",
    ),
    "data": ("workers",),
}  # fmt: skip
"""Settings of the surroundings by section, which a resumed run may change: they do not touch the numbers."""


class Config(Section):
    """The whole configuration of a run; each field is one section of its TOML file."""

    preset: str = Field("tiny", max_length=200, description="The preset that the other values started from.")
    recipe: str = Field("", max_length=200, description="The recipe on top of it, if any.")
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    seg: SegConfig = SegConfig()
    pseudo: PseudoConfig = PseudoConfig()
    adv: AdvConfig = AdvConfig()
    run: RunConfig = RunConfig()

    @field_validator("data")
    @classmethod
    def _crop_of_two_resolutions(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
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
    recipe: Recipe | None = None,
    overrides: dict[str, Any] | None = None,
    assignments: list[str] | None = None,
) -> Config:
    """Resolve a configuration: preset or base, then a recipe, a file, then options, then `--set`.

    Args:
        preset: Name of a shipped preset.
        file: A TOML file with any part of a configuration.
        base: Configuration to start from, such as a model file's; used where no preset is named.
        sizes: Networks that take the place of the preset's, such as a model file's.
        recipe: Settings of a method on top of them.
        overrides: Dotted keys to values; those that are None are left out.
        assignments: `key=value` strings, the value in TOML (a bare word counts as a string).

    Returns:
        The configuration.

    Raises:
        IccldError: Unknown preset or key, or a value out of range.
    """
    if recipe is not None and recipe.per_crop:
        bare = replace(recipe, per_crop={})
        found = load_config(
            preset, file=file, base=base, sizes=sizes, recipe=bare, overrides=overrides, assignments=assignments
        )
        recipe = recipe.sized(found.data.crop)
    tree: dict[str, Any] = {} if base is None or preset else base.model_dump(mode="json")
    if preset or base is None:
        tree = _preset_tree(preset or "tiny")
    if sizes is not None:
        tree["model"] = sizes.model_dump(mode="json")
    if recipe is not None:
        _merge(tree, _without_methods(tree, recipe, sizes is not None or (base is not None and not preset)))
        _merge(tree, {**recipe.settings, "recipe": recipe.name})
    if file is not None:
        given = _read_toml(Path(file))
        _refuse_old_names(given, str(file))
        _merge(tree, given)
    for key, value in (overrides or {}).items():
        if value is not None:
            _assign(tree, key, value)
    for text in assignments or []:
        key, sign, value = text.partition("=")
        if not sign:
            raise IccldError(f"--set {text!r} has no value", "write it as --set key=value, such as --set optim.lr=1e-4")
        given = {}
        _assign(given, key.strip(), _parse_value(value.strip()))
        _refuse_old_names(given, f"--set {text}")
        _assign(tree, key.strip(), _parse_value(value.strip()))
    return config_from_dict(tree)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """Validate a nested dictionary, such as one that an earlier version has saved.

    Raises:
        IccldError: Unknown key (the nearest known one is named) or a value out of range.
    """
    try:
        return Config.model_validate(with_present_names(tree))
    except ValidationError as error:
        raise _explain(error) from None


def with_present_names(tree: dict[str, Any]) -> dict[str, Any]:
    """A nested dictionary whose keys of `RENAMED` have their present names, and whose removed keys are left out."""
    tree = {name: dict(part) if isinstance(part, dict) else part for name, part in tree.items()}
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if not isinstance(tree.get(section), dict) or key not in tree[section]:
            continue
        value = tree[section].pop(key)
        if new is not None:
            section, key = new.split(".")
            tree.setdefault(section, {}).setdefault(key, value)
    return tree


def _refuse_old_names(tree: dict[str, Any], where: str) -> None:
    old = [key for key in _dotted(tree) if key in RENAMED]
    if old:
        changes = (f"{key} is now {RENAMED[key]}" if RENAMED[key] else f"{key} was removed" for key in old)
        raise IccldError(f"{where} has keys of an earlier version", ", ".join(changes))


def _dotted(tree: dict[str, Any]) -> Iterator[str]:
    """Sections, and keys of sections; what lies deeper is no key."""
    for section, part in tree.items():
        yield section
        if isinstance(part, dict):
            yield from (f"{section}.{key}" for key in part)


def _without_methods(tree: dict[str, Any], recipe: Recipe, started: bool) -> dict[str, Any]:
    """Values for every key that some recipe sets, so that nothing of another method stays: the preset's own for this
    program's method, else those of a configuration without a preset.

    Args:
        tree: What the recipe is laid over.
        recipe: The recipe.
        started: Whether a start file fixes the networks, which then stay.
    """
    name = tree.get("preset")
    own = recipe.name == recipe_names()[0] and name in preset_names()
    plain = config_from_dict(_preset_tree(str(name)) if own else {}).model_dump(mode="json")
    found: dict[str, Any] = {}
    for section, key in sorted(set().union(*(load_recipe(each).keys() for each in recipe_names()))):
        if section != "model" or not started:
            found.setdefault(section, {})[key] = plain[section][key]
    return found


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
            raise IccldError(f"{key!r} is not possible: {section} is a value, not a section")
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
