"""Recipes: methods of the field by name, each a set of settings on top of a preset.

One TOML file each (`recipes/`), with its source, what is rebuilt from its description and what differs from it.
Networks, data, optimizer and crops are the preset's, so that methods are compared on equal terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.reading import parse_toml


@dataclass(frozen=True)
class Recipe:
    """A method by name.

    Attributes:
        name: What `--recipe` takes.
        title: Its name in the literature.
        paper: Authors, venue, number.
        code: Repository and licence of the authors' code; no code of it is used.
        source_only: Whether `adapt-seg` trains on the source alone, for an adversarial stage that follows.
        stage2: Whether `adapt-adv` has a part in it.
        settings: Section -> key -> value.
        per_crop: Dotted key -> share of the shorter side of the crop, in pixels.
        rebuilt: What the source does not say, and how it is done here; empty where everything is stated.
        differs: What is done otherwise than in the source.
        published: Protocol (`gta5`, `synthia`, `synthia13`, all to Cityscapes) -> mIoU in the source.
    """

    name: str
    title: str
    paper: str
    code: str
    source_only: bool = False
    stage2: bool = False
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_crop: dict[str, float] = field(default_factory=dict)
    rebuilt: str = ""
    differs: str = ""
    published: dict[str, float] = field(default_factory=dict)

    def keys(self) -> set[tuple[str, str]]:
        """(section, key) of everything that it sets."""
        plain = {(section, key) for section, keys in self.settings.items() for key in keys}
        return plain | {(section, key) for section, _, key in (dotted.partition(".") for dotted in self.per_crop)}

    def sized(self, crop: tuple[int, int]) -> Recipe:
        """The same recipe with the settings that depend on the crop (width, height)."""
        settings = {section: dict(keys) for section, keys in self.settings.items()}
        for dotted, share in self.per_crop.items():
            section, key = dotted.split(".")
            settings.setdefault(section, {})[key] = max(round(share * min(crop)), 4)
        return replace(self, settings=settings, per_crop={})


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes, the method's own first."""
    folder = resources.files("iccld_cli") / "recipes"
    names = (f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))
    return tuple(sorted(names, key=lambda name: (name != "iccld", name)))


def load_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        IccldError: There is none of that name.
    """
    if name not in recipe_names():
        raise IccldError(f"unknown recipe {name!r}", did_you_mean(name, recipe_names()))
    text = (resources.files("iccld_cli") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return Recipe(name, **parse_toml(text))


def chosen_recipe(name: str | None, stage2: bool = False) -> Recipe | None:
    """A recipe by name, or None without one.

    Args:
        name: What was asked for.
        stage2: Whether it is for stage 2.

    Raises:
        IccldError: There is none of that name, or it has no part in stage 2.
    """
    if name is None:
        return None
    found = load_recipe(name)
    if stage2 and not found.stage2:
        raise IccldError(f"the recipe {name} has no second stage", "its model is what adapt-seg writes")
    return found
