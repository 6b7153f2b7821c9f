"""Models as folders in the form of the Hugging Face hub, and on the hub itself.

    FOLDER/model.safetensors    the model file, without the paths of this machine
    FOLDER/config.json          its classes, and what the file's header says, for programs that look at no tensor
    FOLDER/README.md            the model card: metadata that the hub reads, and the facts of the header

The network is used for an id that a user typed, and for nothing else. From the hub come `.safetensors` and `.json`
files; what they hold is checked like every other model file.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.files import atomic_path, write_json, write_text
from iccld_cli.header import HEADER_KEY, ModelHeader, read_header, without_paths
from iccld_cli.names import shown

FILES = ("*.safetensors", "*.json")
"""What is downloaded."""

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LICENCE = "other"
"""Of a model where nobody says: the terms of the data that it was trained on."""

TAGS = ("iccld", "semantic-segmentation", "domain-adaptation", "autonomous-driving")
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")
_TIMEOUT = 10.0


def is_hub_id(given: Path | str) -> bool:
    """Whether a text names a model on the hub: `org/name` or `org/name@revision`, where no folder `org` lies here."""
    text = given.as_posix() if isinstance(given, Path) else given
    if not _ID.fullmatch(text) or text.endswith((".safetensors", ".onnx", ".xml")):
        return False
    return not Path(text).exists() and not Path(text.partition("/")[0]).exists()


def download(name: str) -> Path:
    """Download a model of the hub, or find it in the cache.

    Args:
        name: `org/name` or `org/name@revision`.

    Returns:
        The folder with its files.

    Raises:
        IccldError: There is no such model, it needs a login, or there is no route to the hub and no copy here.
    """
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = name.partition("@")
    wanted: dict[str, Any] = {"revision": revision or None, "allow_patterns": list(FILES)}
    with _explained(name):
        # The library would retry a hub that cannot be reached for half a minute, file by file: asked once instead.
        reachable = _answers(lambda: HfApi().model_info(repo, revision=revision or None, timeout=_TIMEOUT))
        return Path(snapshot_download(repo, local_files_only=not reachable, **wanted))


def save_folder(
    file: Path, folder: Path, *, licence: str = LICENCE, tags: Sequence[str] = (), name: str | None = None
) -> ModelHeader:
    """Write a model as a folder for the hub.

    Args:
        file: A `.safetensors` model file; the text of a card `<name>.md` beside it goes into the card.
        folder: Where to; its other files stay.
        licence: Of the model, as the hub writes it, such as `apache-2.0`.
        tags: Further ones of the card.
        name: Of the model in its card; the folder's where it is not given.

    Returns:
        The header as written.

    Raises:
        IccldError: The file is an exported or a damaged one, or the disk is full.
    """
    if file.suffix != ".safetensors":
        raise IccldError(f"{file} is an exported file", "give the .safetensors file that it was made from")
    before = read_header(file)
    header = replace(without_paths(before), height=before.working_height)
    _copy_with_header(file, folder / WEIGHTS, header)
    space = header.label_space
    config = {
        "model_type": "iccld",
        "id2label": {str(i): label for i, label in enumerate(space.names)},
        "label2id": {label: i for i, label in enumerate(space.names)},
        "iccld": header.to_json(),
    }
    write_json(folder / CONFIG, config)
    own = file.with_suffix(".md")
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    write_text(folder / CARD, model_card(header, name or folder.resolve().name, licence, tags, text))
    return header


def push(folder: Path, name: str, *, token: str | None = None, private: bool | None = None) -> str:
    """Upload a folder of `save_folder`.

    Args:
        folder: The folder.
        name: `org/name`; made where it does not exist.
        token: Of the hub; None for the one that `hf auth login` keeps, or `HF_TOKEN`.
        private: Whether a new entry is private; None for the account's default.

    Returns:
        Address of the model.

    Raises:
        IccldError: The hub cannot be reached or refuses it.
    """
    from huggingface_hub import HfApi

    if not _ID.fullmatch(name) or "@" in name:
        raise IccldError(f"{name!r} is no name on the hub", "write it as organisation/name")
    api = HfApi(token=token)
    with _explained(name):
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            commit_message="Upload with iccld",
        )
        return str(made)


def model_card(header: ModelHeader, name: str, licence: str, tags: Sequence[str] = (), text: str = "") -> str:
    """The model card: YAML between lines of `---`, then Markdown.

    Args:
        header: Of the model.
        name: Of the model.
        licence: As the hub writes it.
        tags: Further ones.
        text: Markdown that goes in front of the facts.
    """
    from huggingface_hub import EvalResult, ModelCardData

    trained = header.label_space.names_of(header.classes)
    names = list(dict.fromkeys(_slug(row["name"]) for row in header.datasets if row.get("name")))
    score = header.metrics.get("validation", {}).get("miou") if _is_table(header.metrics.get("validation")) else None
    results = None
    if isinstance(score, int | float):
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type="validation",
                dataset_name="frames scored while it was trained",
                metric_type="mean_iou",
                metric_name="mIoU (percent)",
                metric_value=round(float(score), 3),
            )
        ]
    data = ModelCardData(
        license=licence,
        license_name="terms-of-the-training-data" if licence == "other" else None,
        library_name="iccld",
        pipeline_tag="image-segmentation",
        tags=list(dict.fromkeys([*TAGS, header.stage.replace("_", "-"), *tags])),
        datasets=names or None,
        metrics=["mean_iou"],
        model_name=name if results else None,
        eval_results=results,
    )
    rows = [
        ("stage", header.stage),
        ("encoder", header.config.model.encoder),
        ("classes", ", ".join(trained)),
        *((f"{row['role']} data", row.get("name", "")) for row in header.datasets),
        ("works at", f"{header.working_height} rows" if header.working_height else "the frame's own size"),
        ("training steps of this stage", header.iterations),
        ("mIoU on the frames scored while it was trained", "unknown" if score is None else f"{score:g}"),
        ("written by", f"iccld {header.tool_version}"),
        ("sha256 of the tensors", header.sha256),
    ]
    table = "\n".join(f"| {shown(key)} | {_cell(value)} |" for key, value in rows)
    body = text.strip() or f"# {shown(name)}\n\nA semantic segmentation model for road scenes, adapted with `iccld`."
    how = f"```python\nfrom iccld_cli import load\n\nresult = load({name!r}).predict('frame.jpg')\n```"
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n\n## Facts\n\n| | |\n|---|---|\n{table}\n\n## Use\n\n{how}\n"


def _copy_with_header(file: Path, out: Path, header: ModelHeader) -> None:
    """Copy a model file's tensors as they are, with another header."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

    try:
        with safe_open(file, framework="np") as source:
            tensors = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise IccldError(f"{file} is not a readable safetensors file ({error})", "copy or train it again") from None
    with atomic_path(out) as temporary:
        save_file(tensors, temporary, {HEADER_KEY: json.dumps(header.to_json(), ensure_ascii=False)})
        temporary.chmod(0o644)  # the library makes files that only their owner can read


def _answers(ask: Any) -> bool:
    """Whether the hub answers; what it refuses is raised."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        ask()
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:  # no name, no route, a time-out, offline mode: their types change with the transport library
        return False
    return True


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the hub's library raises into one line."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except IccldError:
        raise
    except errors.GatedRepoError:
        raise IccldError(
            f"{name} asks for its terms to be accepted", "do so on its page, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise IccldError(
            f"there is no model file at {name}, and no model of that name on {constants.ENDPOINT}",
            "check the path or the id; a private model needs `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise IccldError(f"{name} has no such revision", "leave out what follows the @") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise IccldError(
            f"there is no model file at {name}, and {constants.ENDPOINT} cannot be reached to look for a model of that "
            "name",
            "check the path, or download the model elsewhere",
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "")
        refused = status in (401, 403)
        hint = "log in with `hf auth login` or set HF_TOKEN" if refused else "try again later"
        raise IccldError(f"{constants.ENDPOINT} answered {status} to a request for {name}", hint) from None
    except Exception as error:  # the transport library's own kinds
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub"):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise IccldError(f"{constants.ENDPOINT} cannot be reached ({reason[:200]})", "check the network") from None
    finally:
        if not quiet:
            enable_progress_bars()


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "unnamed"


def _cell(value: object) -> str:
    return shown(value).replace("|", "\\|")
