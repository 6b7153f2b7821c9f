"""What a bare machine with a GPU lacks, in one folder: wheels, data small enough to travel, weights.

    python benchmarks/gpu_pack.py --out gpu-pack --python 3.12 --has packages.txt --weights MOBILENET_V2_FOLDER
    benchmarks/gpu.sh --pack gpu-pack --out gpu            # on the other machine, without network

To be run where this program is installed, with network and with the raw data in the folder ICCLD_REAL_DATA. `--has` is
what `pip list --format=freeze` says over there; without it, torch and what torch needs are taken to be there, and
nothing else. Frames that are scored travel untouched. Those that are trained on are made smaller (CARLA) and encoded
anew as WebP, at the best quality that fits the limit; CamVid's training frames travel without labels. The virtual
town does not travel, the other machine renders it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import cv2
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

MIB = 2**20
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
STANDS_FOR = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
NOT_NEEDED = ("av", "openvino", "openvino-telemetry")  # videos; a faster `predict` on a CPU. The largest of all wheels
TESTS_NEED = ("pytest", "hypothesis")  # what tests/conftest.py and tests/cuda import
_SAMPLE = 10  # one of so many frames tells what all will take
_MARGIN = 0.98
TRIES = [(size, quality) for size in ((640, 480), (480, 360)) for quality in (90, 85, 80, 75, 70)]


def main() -> None:
    """Fill the folder and say what each part takes."""
    options = _options()
    out = options.out.resolve()
    if not options.keep_wheels:
        shutil.rmtree(out / "wheels", ignore_errors=True)
        fetch_wheels(missing_packages(options), options.python, out / "wheels")
    if options.weights:
        shutil.rmtree(out / "weights", ignore_errors=True)
        shutil.copytree(options.weights, out / "weights/mobilenet_v2")
    sizes = {part: folder_bytes(out / part) for part in ("wheels", "weights")}
    if options.real_data:
        room = options.limit_mib * MIB - sum(sizes.values())
        if room <= 0:
            _refuse(out, sum(sizes.values()), options.limit_mib)
        print(f"data: {room / MIB:.1f} MiB are left for it", flush=True)
        pack_data(options.real_data, out / "data", room)
    sizes["data"] = folder_bytes(out / "data")
    for part, size in sizes.items():
        print(f"{part:8s} {size / MIB:6.1f} MiB")
    total = sum(sizes.values())
    print(f"{'in all':8s} {total / MIB:6.1f} MiB in {out}")
    if total > options.limit_mib * MIB:
        _refuse(out, total, options.limit_mib)


def _refuse(out: Path, total: int, limit_mib: float) -> NoReturn:
    largest = sorted((p for p in out.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)[:5]
    names = ", ".join(f"{p.name} {p.stat().st_size / MIB:.1f} MiB" for p in largest)
    taken = f"{total / MIB:.1f} MiB are taken, --limit-mib is {limit_mib:g}; the largest files are {names}"
    sys.exit(f"error: {taken}: name what the other machine has with --has, or raise the limit")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = os.environ.get("ICCLD_REAL_DATA")
    parser.add_argument("--out", type=Path, default=Path("gpu-pack"))
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info), help="Python version over there.")
    parser.add_argument("--has", type=Path, help="File with the packages over there, a NAME or NAME==VERSION a line.")
    parser.add_argument("--weights", type=Path, help="Folder with MobileNetV2's ImageNet weights.")
    parser.add_argument("--real-data", type=Path, default=Path(real) if real else None, help="Raw carla/ and camvid/.")
    parser.add_argument("--limit-mib", type=float, default=50, help="Most that may travel, the repository apart.")
    parser.add_argument("--keep-wheels", action="store_true", help="Leave the wheels of an earlier run as they are.")
    parser.add_argument("--with", nargs="*", default=[], dest="further", metavar="NAME", help=f"Also {NOT_NEEDED}.")
    return parser.parse_args()


def missing_packages(options: argparse.Namespace) -> dict[str, str]:
    """Name -> version of every package that the program and its tests need and the other machine lacks.

    Names and versions are those of this environment.
    """
    environment = {"python_version": options.python, "python_full_version": f"{options.python}.0", "extra": ""}
    has = installed_there(options.has) if options.has else dict.fromkeys(_closure("torch", environment), None)
    wanted = {name for start in ("iccld", *TESTS_NEED) for name in _closure(start, environment)}
    needs = [requirement for name in wanted for requirement in _requirements(name, environment)]
    return {
        name: metadata.version(name)
        for name in sorted(wanted)
        if name not in ("iccld", "torch", "triton") and not name.startswith(("nvidia-", "cuda-"))
        if name not in NOT_NEEDED or name in options.further
        if not _is_there(name, has, needs)
    }


def installed_there(path: Path) -> dict[str, str | None]:
    """Packages of a list, with versions where it names them."""
    found: dict[str, str | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:(?:==|\s)\s*([\w.+!-]+))?", line)
        if match and not line.lstrip().startswith(("#", "-")):
            found[canonicalize_name(match[1])] = match[2] if match[2] and match[2][0].isdigit() else None
    return found


def _is_there(name: str, has: dict[str, str | None], needs: list[Requirement]) -> bool:
    """Whether the other machine has a release of a package that is new enough for all that need it here."""
    there = next((n for n in (name, *STANDS_FOR.get(name, ())) if n in has), None)
    if there is None:
        return False
    version = has[there]
    if version is None:
        return True
    asked = [requirement for requirement in needs if canonicalize_name(requirement.name) == name]
    return all(requirement.specifier.contains(Version(version), prereleases=True) for requirement in asked)


def _requirements(name: str, environment: dict[str, str]) -> list[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate(environment)]


def _closure(name: str, environment: dict[str, str]) -> set[str]:
    """A package and all that it needs, as installed here."""
    seen, todo = set(), [canonicalize_name(name)]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        seen.add(name)
        if name != "torch" or not seen - {"torch"}:  # what torch needs is there where torch is
            todo += [canonicalize_name(r.name) for r in _requirements(name, environment)]
    return seen


def fetch_wheels(packages: dict[str, str], python: str, out: Path) -> None:
    """Download the wheels for the other machine, one of each."""
    print(f"wheels: {', '.join(f'{n} {v}' for n, v in packages.items()) or 'none'}", flush=True)
    if not packages:
        return
    platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(out)]
    command += ["--python-version", python, "--implementation", "cp", *platforms]
    subprocess.run(command + [f"{name}=={version}" for name, version in packages.items()], check=True)


def pack_data(raw: Path, out: Path, room: float) -> None:
    """Prepare CARLA and CamVid, and make them small enough."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # not in the pack: it would travel if this were killed
        whole = Path(folder) / "whole"
        command = [sys.executable, "-m", "iccld_cli", "prepare", "--carla", str(raw / "carla"), "--camvid"]
        subprocess.run([*command, str(raw / "camvid"), "--out", str(whole)], check=True, stdout=subprocess.DEVNULL)
        for size, quality in TRIES:
            plan = ((whole / "camvid", out / "camvid", None, False), (whole / "carla", out / "carla", size, True))
            shutil.rmtree(out, ignore_errors=True)
            for source, target, smaller, labels in plan:
                shrink(source, target, smaller, quality, labels, every=_SAMPLE)
            guess = _SAMPLE * folder_bytes(out)
            print(f"data: CARLA {size[0]}x{size[1]}, WebP {quality}: about {guess / MIB:.1f} MiB", flush=True)
            if guess > _MARGIN * room:
                continue
            shutil.rmtree(out)
            for source, target, smaller, labels in plan:
                shrink(source, target, smaller, quality, labels)
            if folder_bytes(out) <= room:
                return
    sys.exit(f"error: data does not fit into {room / MIB:.1f} MiB; raise --limit-mib")


def shrink(
    source: Path, out: Path, size: tuple[int, int] | None, quality: int, train_labels: bool, every: int = 1
) -> None:
    """Copy a prepared data set with its training images encoded anew.

    Args:
        source: The data set.
        out: Where to.
        size: Width and height of training frames, None for their own; labels are resized with them.
        quality: Of WebP.
        train_labels: Whether training frames keep their labels; a target's are never read.
        every: Copy only one of so many frames, to see what all would take.
    """
    rows = [json.loads(line) for line in (source / "index.jsonl").read_text(encoding="utf-8").splitlines()][::every]
    for row in rows:
        if row["split"] == "train" and not train_labels:
            row |= {"label": None, "pixels": None, "label_sha256": None}
        small = size if row["split"] == "train" else None
        image = Path(row["image"])
        (out / image).parent.mkdir(parents=True, exist_ok=True)
        if row["split"] == "train":
            pixels = _resized(cv2.imread(str(source / image)), small, cv2.INTER_AREA)
            image = image.with_suffix(".webp")
            cv2.imwrite(str(out / image), pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])
            row |= {"image": image.as_posix(), "height": pixels.shape[0], "width": pixels.shape[1]}
        else:
            shutil.copyfile(source / image, out / image)
        if row["label"]:
            label = _resized(cv2.imread(str(source / row["label"]), cv2.IMREAD_UNCHANGED), small, cv2.INTER_NEAREST)
            (out / row["label"]).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / row["label"]), label, [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, 1])
            if small:
                row["pixels"] = {str(i): int((label == i).sum()) for i in map(int, sorted(set(label.ravel().tolist())))}
        for kind in ("image", "label"):
            if row[kind]:  # the sums of the new files: others are refused
                row[f"{kind}_sha256"] = hashlib.sha256((out / row[kind]).read_bytes()).hexdigest()
    (out / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copyfile(source / "dataset.json", out / "dataset.json")


def _resized(pixels, size, how):  # type: ignore[no-untyped-def]
    return pixels if size is None else cv2.resize(pixels, size, interpolation=how)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
