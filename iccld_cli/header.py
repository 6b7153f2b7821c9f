"""What a model file says about itself, readable without torch and without its tensors.

A `.safetensors` file keeps the header as JSON under the key `iccld`; exported files carry the same object, with what
the graph fixes (`ExportFacts`). The header may come from anywhere, so it is checked field by field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from iccld_cli import __version__
from iccld_cli.config import Config, config_from_dict
from iccld_cli.errors import IccldError
from iccld_cli.labels import LabelSpace
from iccld_cli.plainjson import parse_json
from iccld_cli.tensorfile import TensorFile, read_tensor_file

FORMAT_VERSION = 1
HEADER_KEY = "iccld"
FILE_NAMES = {"source_only": "stage1.safetensors", "stage1": "stage1.safetensors", "stage2": "stage2.safetensors"}
"""Stage -> the name of its model file in a run folder."""

HEIGHTS = {"edfeb5381e4361e6e61c06e4d34268955d7f40cfcd3a7382325cff7d420da005": 360}
"""Digest of the tensors -> working height of files older than `ModelHeader.height`: `iccld-small`, adapted to CamVid's
360 rows."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Of exported files."""

DYNAMIC = "dynamic"
"""What stands for the size of a graph that takes any."""

_MAX_NAME = 200
_MAX_STEPS = 10**12
_MAX_SIDE = 16384
_MAX_MULTIPLE = 1024
Stage = Literal["source_only", "stage1", "stage2"]


@dataclass(frozen=True)
class ExportFacts:
    """What an exported graph fixes.

    Attributes:
        size: (width, height) in pixels of the image that it takes; None where it takes any.
        steps: Denoising steps inside.
        seed: Seed of the noise inside; of a graph for any size, which is given its noise, the one to draw it with.
        precision: `fp32`, `fp16` (weights in fp16) or `int8` (weights and activations, where the runtime gains).
        multiple: Of a graph for any size, what it brings the sides of an image to multiples of.
        strides: Of such a graph, for each noise that it takes, how many pixels of that size make a cell of the noise.
    """

    size: tuple[int, int] | None
    steps: int
    seed: int
    precision: str = "fp32"
    multiple: int = 1
    strides: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object stored in the header."""
        told: dict[str, Any] = {"size": DYNAMIC, "multiple": self.multiple, "strides": list(self.strides)}
        told = (told if self.size is None else {"size": list(self.size)}) | {"steps": self.steps, "seed": self.seed}
        return told if self.precision == "fp32" else {**told, "precision": self.precision}

    @classmethod
    def from_json(cls, raw: Any) -> ExportFacts:
        """Read an object written by `to_json`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field has a value that cannot be.
        """
        raw = _typed("export", raw, dict)
        size: tuple[int, int] | None = None
        multiple, strides = 1, []
        if raw["size"] == DYNAMIC:
            multiple = _count("multiple", raw["multiple"], 1, _MAX_MULTIPLE)
            strides = [_count("a stride", value, 1, multiple) for value in _typed("strides", raw["strides"], list)]
            if len(strides) > 2 or any(multiple % value for value in strides):
                raise ValueError("strides that cannot be")
        else:
            width, height = _typed("size", raw["size"], list)
            size = _count("width", width, 1, _MAX_SIDE), _count("height", height, 1, _MAX_SIDE)
        precision = raw.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise ValueError(f"precision {str(precision)[:40]!r}")
        steps, seed = _count("steps", raw["steps"]), _count("seed", raw["seed"], most=2**63)
        return cls(size, steps, seed, precision, multiple, tuple(strides))


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says about itself.

    Attributes:
        stage: `source_only`, `stage1` or `stage2`.
        config: Configuration of the run that made it.
        label_space: Classes of the model's output.
        classes: TrainIds the model is trained for and scored on.
        datasets: Each data set's `role` (source or target), `name`, `path` and index `digest`.
        iterations: Training steps of this stage.
        metrics: Scores, where known.
        backbone: What rebuilds a Hugging Face encoder; None for the tiny one.
        tool_version: Version of iccld that wrote the file.
        sha256: Digest of the tensors.
        height: Rows of a frame at the scale that the network was trained at; None in files that do not say.
        export: What the graph fixes, in an exported file.
    """

    stage: Stage
    config: Config
    label_space: LabelSpace
    classes: tuple[int, ...]
    datasets: list[dict[str, Any]] = field(default_factory=list)
    iterations: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] | None = None
    tool_version: str = __version__
    sha256: str = ""
    height: int | None = None
    export: ExportFacts | None = None

    @property
    def working_height(self) -> int | None:
        """The height that frames are brought to before they are segmented; None for their own."""
        if self.export is not None and self.export.size is not None:
            return self.export.size[1]
        return self.height if self.height is not None else HEIGHTS.get(self.sha256)

    def to_json(self) -> dict[str, Any]:
        """The object stored in the file's metadata."""
        return {
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "config": self.config.model_dump(mode="json"),
            "label_space": self.label_space.to_json(),
            "classes": list(self.label_space.names_of(self.classes)),
            "datasets": self.datasets,
            "iterations": self.iterations,
            "metrics": self.metrics,
            "backbone": self.backbone,
            "tool_version": self.tool_version,
            "sha256": self.sha256,
            **({} if self.height is None else {"height": self.height}),
            **({} if self.export is None else {"export": self.export.to_json()}),
        }

    @classmethod
    def from_json(cls, raw: Any) -> ModelHeader:
        """Read an object written by `to_json`, which may come from anywhere.

        Raises:
            IccldError: The format is of another version, or the configuration or the classes are not possible.
            KeyError: A field is missing.
            ValueError: A field has a value that cannot be.
        """
        raw = _typed("the header", raw, dict)
        if raw["format_version"] != FORMAT_VERSION:
            version = str(raw["format_version"])[:20]
            raise IccldError(f"model format {version} is not supported", "use a matching iccld version")
        if raw["stage"] not in get_args(Stage):
            raise ValueError(f"stage {str(raw['stage'])[:40]!r}")
        space = LabelSpace.from_json(_typed("label_space", raw["label_space"], dict))
        if not all(0 <= value <= 255 for color in space.colors for value in color):
            raise ValueError("a colour beyond 0 to 255")
        if any(len(name) > _MAX_NAME for name in (space.name, *space.names)):
            raise ValueError(f"a class name of more than {_MAX_NAME} letters")
        return cls(
            stage=raw["stage"],
            config=config_from_dict(_typed("config", raw["config"], dict)),
            label_space=space,
            classes=space.ids_of(_typed("a class", name, str) for name in _typed("classes", raw["classes"], list)),
            datasets=[_dataset(row) for row in _typed("datasets", raw["datasets"], list)],
            iterations=_count("iterations", raw["iterations"]),
            metrics=_typed("metrics", raw["metrics"], dict),
            backbone=None if raw["backbone"] is None else _typed("backbone", raw["backbone"], dict),
            tool_version=_typed("tool_version", raw["tool_version"], str)[:_MAX_NAME],
            sha256=_digest(raw["sha256"]),
            height=None if raw.get("height") is None else _count("height", raw["height"], 1, _MAX_SIDE),
            export=None if raw.get("export") is None else ExportFacts.from_json(raw["export"]),
        )


def _typed(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _dataset(row: Any) -> dict[str, Any]:
    row = _typed("a data set", row, dict)
    for key in ("role", "name", "path", "digest"):
        if key in row and "\0" in _typed(f"{key} of a data set", row[key], str):
            raise ValueError(f"{key} of a data set holds a zero byte")
    _typed("role of a data set", row["role"], str)
    return row


def _count(name: str, value: Any, least: int = 0, most: int = _MAX_STEPS) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is no possible number")
    return value


def _digest(value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", _typed("sha256", value, str)):
        raise ValueError("sha256 is no digest")
    return value


def without_paths(header: ModelHeader) -> ModelHeader:
    """A header that names data sets and a local encoder without saying where they lie, for files to hand on."""
    datasets = [{key: value for key, value in row.items() if key != "path"} for row in header.datasets]
    encoder = Path(header.config.model.encoder)
    tree = header.config.model_dump(mode="json")
    if encoder.is_absolute():
        tree["model"]["encoder"] = encoder.name
    return replace(header, config=config_from_dict(tree), datasets=datasets)


def read_header(path: Path | str) -> ModelHeader:
    """Read a `.safetensors` model file's header without its tensors.

    Raises:
        IccldError: The file is missing, damaged, or not a model of this program.
    """
    return read_model_file(path)[0]


def read_model_file(path: Path | str) -> tuple[ModelHeader, TensorFile]:
    """Read a `.safetensors` model file's header, and what the file holds.

    Raises:
        IccldError: The file is missing, damaged, or not a model of this program.
    """
    path = Path(path)
    if not path.is_file():
        raise IccldError(f"no model file at {path}", "give a .safetensors file that adapt-seg or adapt-adv wrote")
    file = read_tensor_file(path)
    if HEADER_KEY not in file.metadata:
        raise IccldError(f"{path} is not an iccld model file", "give one that adapt-seg or adapt-adv wrote")
    return parse_header(file.metadata[HEADER_KEY], path), file


def parse_header(text: str, path: Path) -> ModelHeader:
    """A header from its JSON.

    Args:
        text: The JSON, from anywhere.
        path: The file that it comes from, for messages.

    Raises:
        IccldError: It is damaged or of another version.
    """
    try:
        return ModelHeader.from_json(parse_json(text))
    except IccldError as error:
        raise IccldError(f"{path}: {error.message}", error.hint) from None
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise IccldError(f"the header of {path} is damaged ({reason[:200]})", "copy or train it again") from None
