"""`iccld config`: every configuration key with its value, type, range and meaning."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from iccld_cli.cli.terminal import say

if TYPE_CHECKING:
    from iccld_cli.settings import Setting

WIDEST = 100
"""Columns of the widest line."""


def config(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A key such as optim.lr, or a section such as optim.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Preset whose values are shown (default: tiny).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/settings.md: all keys, all presets.")
    ] = False,
) -> None:
    """List the configuration keys that --set and --config take in adapt-seg and adapt-adv."""
    from iccld_cli.settings import all_settings, find_settings, settings_page

    if markdown:
        if key is not None or preset is not None or as_json:
            raise typer.BadParameter("--markdown prints the whole page and goes with nothing else")
        print(settings_page(), end="")
        return
    settings = all_settings(preset)
    found = settings if key is None else find_settings(key, settings)
    if as_json:
        print(json.dumps([setting.to_json() for setting in found], indent=2))
    else:
        _show(found, brief=key is None)


def _show(settings: list[Setting], brief: bool) -> None:
    from iccld_cli.settings import section_purposes

    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, WIDEST))
    purposes, section = section_purposes(), ""
    for setting in settings:
        if setting.section != section:
            say("\n" * bool(section) + textwrap.fill(f"[{setting.section}] {purposes[setting.section]}", width) + "\n")
            section = setting.section
        for line in _lines(setting, brief, width):
            say(line)


def _lines(setting: Setting, brief: bool, width: int) -> list[str]:
    from iccld_cli.settings import presets_text, value_text

    kind = "; ".join(filter(None, (setting.type, setting.range)))
    texts = [kind, setting.meaning]
    if not brief:
        others = presets_text(setting)
        texts.append(f"default {value_text(setting.default)}" + (f"; {others}" if others else ""))
    body = [
        textwrap.fill(
            text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        for text in texts
    ]
    return [f"{setting.key} = {value_text(setting.value)}", *body]
