"""What help pages and shell completion know beyond an option's own sentence: groups, type names, examples, values.

By the name of the option, so that the same option looks alike in every command.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iccld_cli.labels import CITYSCAPES

_GROUPS: dict[str, str] = {
    "Data": "source target val classes data split inputs images masks label_map video fps hold_out unlabeled set_ "
    "skip_bad size limit every start end ignore_mask calibrate labelled no_labels",
    "Virtual town": "virtual look kinds light rain virtual_drive frames seconds",
    "Model": "ckpt preset encoder config assignments steps samples scales flip average height smooth opset format_ "
    "licence source_only recipe",
    "Training": "iterations minutes stage_2 answers crop save_every resume dry_run select",
    "Machine": "device backend precision batch_size compile workers seed part merge speed engine ray_address parts "
    "worker_cpus",
    "Results": "out name save threshold to_label alpha legend overwrite skip_existing force check json json_path "
    "as_json markdown report push rule by predict",
}
PANELS = {name: group for group, names in _GROUPS.items() for name in names.split()}
"""Name of an option's parameter -> the group it is shown in; others are shown last."""

RAW_SETS, OTHERS = "Raw data sets", "More"

METAVARS = {
    "preset": "NAME", "encoder": "ID|DIR", "config": "FILE", "device": "DEVICE", "precision": "P", "split": "NAME",
    "source": "DATA/SET", "target": "DATA/SET", "val": "DATA/SET", "out": "DIR", "ckpt": "FILE", "name": "NAME",
    "format_": "NAME",
}  # fmt: skip
"""Name of an option's parameter -> what its value is called, where the option itself does not say."""

EXAMPLES = {
    "prepare": [
        "prepare --gta5 /data/gta5 --out data --size 1024x512",
        "prepare --video dashcam.mp4 --fps 2",
        "prepare --images my-road/to_label --masks my-road/to_label --name few",
    ],
    "inspect": ["inspect data/gta5 data/cityscapes"],
    "adapt": [
        "adapt drive1.mp4 drive2.mp4 --out my-road --minutes 30 --predict",
        "adapt drive1.mp4 drive2.mp4 --out my-road-labelled --labelled data/few",
    ],
    "adapt-seg": ["adapt-seg --source data/gta5 --target data/cityscapes --preset base --out runs/a"],
    "adapt-adv": ["adapt-adv --ckpt runs/a/stage1.safetensors"],
    "config": ["config optim.lr"],
    "compare": [
        "compare gta5-cityscapes --gta5 /data/gta5 --cityscapes /data/cityscapes --device cuda",
        "compare rows.toml --out table --rows stage1,stage2 --seeds 0,1,2 --jobs 2 --dry-run",
    ],
    "evaluate": [
        "evaluate --ckpt runs/a/stage2.safetensors --data data/cityscapes --report scores.html",
        "evaluate --ckpt a.safetensors --ckpt b.safetensors --data data/camvid --steps 0,1 --by drive",
        "evaluate --data data/camvid --rule official --json scores.json",
        "evaluate --no-labels --data data/dashcam --source data/carla",
    ],
    "predict": [
        "predict dashcam.mp4",
        "predict leftImg8bit/test --ckpt runs/a/stage2.safetensors --save labelIds --out submission",
        "predict drives/ --save dataset --threshold 0.95 --to-label 50",
        "predict s3://bucket/drives --out s3://bucket/pred --engine ray --ray-address head:6379",
    ],
    "export": [
        "export --ckpt runs/a/stage2.safetensors --format onnx --out model.onnx",
        "export --ckpt m.safetensors --format openvino --precision int8 --calibrate drives/ --out m.xml",
        "export --ckpt m.safetensors --format hub --out folder --push org/name",
    ],
    "demo": ["demo --out iccld-demo"],
    "doctor": ["doctor --json"],
}
"""Command -> what to type, without the program's name."""


def _presets(folder: str = "presets") -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parents[1] / folder).glob("*.toml"))


_KINDS = [
    *("overlay", "side", "labels", "palette", "labelIds", "color"),
    *("confidence", "uncertainty", "probabilities", "frames", "dataset"),
]
VALUES: dict[str, Callable[[], list[str]]] = {
    "preset": _presets,
    "recipe": lambda: _presets("recipes"),
    "encoder": lambda: ["tiny"],
    "device": lambda: ["auto", "cpu", "cuda", "cuda:0"],
    "precision": lambda: ["auto", "fp32", "bf16", "fp16"],
    "export precision": lambda: ["fp32", "fp16", "int8"],
    "engine": lambda: ["local", "ray"],
    "backend": lambda: ["auto", "torch", "compiled", "openvino", "onnx"],
    "format_": lambda: ["onnx", "openvino", "half", "hub"],
    "split": lambda: ["val", "test", "train"],
    "height": lambda: ["own"],
    "rule": lambda: ["known", "official"],
    "by": lambda: ["drive", "condition", "camera", "folder", "size"],
    "select": lambda: ["miou", "labels-free"],
}
"""Name of an option's parameter, with the command's in front where they differ -> its values, for shell completion."""

LISTS: dict[str, Callable[[], list[str]]] = {"classes": lambda: list(CITYSCAPES.names), "save": lambda: _KINDS}
"""The same of options that take several, separated by commas."""


def dress(command: str, parameters: list[Any]) -> None:
    """Give the parameters of a command their group, plain type name and completion, where they have none."""
    for parameter in parameters:
        name = parameter.name or ""
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # typer would say <list[str]>
            continue
        if parameter.rich_help_panel is None:
            parameter.rich_help_panel = PANELS.get(name, RAW_SETS if command == "prepare" else OTHERS)
        if parameter.metavar is None:
            parameter.metavar = _type_name(name, parameter)
        values = VALUES.get(f"{command} {name}") or VALUES.get(name)
        if name in LISTS and not parameter.is_flag:
            parameter._custom_shell_complete = _completing_list(LISTS[name])
        elif values is not None and not parameter.is_flag:
            parameter._custom_shell_complete = _completing(values)


def epilog(command: str) -> str | None:
    """The end of a command's help page."""
    lines = EXAMPLES.get(command)
    return None if lines is None else "\n\n".join(["For example:", *(f"  iccld {line}" for line in lines)])


def _type_name(name: str, parameter: Any) -> str | None:
    if parameter.is_flag:
        return " "  # typer would say <bool>
    if name in METAVARS:
        return METAVARS[name]
    bare = getattr(parameter, "bare_type", None)  # of newer releases of typer
    kind = str(bare() if bare else getattr(parameter.type, "name", "")).lower()
    if "int" in kind:
        return "N"
    if "float" in kind:
        return "X"
    return "FILE" if "path" in kind else "TEXT"


def _completing(values: Callable[[], list[str]]) -> Callable[[Any, Any, str], list[str]]:
    return lambda context, parameter, begun: [value for value in values() if value.startswith(begun)]


def _completing_list(values: Callable[[], list[str]]) -> Callable[[Any, Any, str], list[str]]:
    def complete(context: Any, parameter: Any, begun: str) -> list[str]:
        before, comma, last = begun.rpartition(",")
        taken = before.split(",")
        return [before + comma + value for value in values() if value.startswith(last) and value not in taken]

    return complete
