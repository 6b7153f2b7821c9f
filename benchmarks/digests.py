"""What checking the digests of a prepared set costs: reading its frames with them and without, processor time a frame.

    python benchmarks/digests.py --data data/camvid --frames 200 --rounds 5

The set is linked into a temporary folder with an index that holds no digests; rounds of both take turns, each reads and
decodes the images and, where there are some, the labels of the same frames. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from iccld_cli.data.prepared import INDEX_NAME, PreparedDataset


def without_digests(data: Path, out: Path) -> Path:
    """A copy of a set whose index holds no digests."""
    shutil.copytree(data, out)
    rows = [json.loads(line) for line in (out / INDEX_NAME).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("image_sha256", None), row.pop("label_sha256", None)
    (out / INDEX_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


def seconds(data: PreparedDataset, count: int) -> tuple[float, int]:
    """Processor seconds a frame, and the bytes that its files take."""
    frames = [frame for _, frame in zip(range(count), data.iter_frames(), strict=False)]
    began = time.process_time()
    for frame in frames:
        data.read_image(frame)
        if frame.label is not None:
            data.read_label(frame)
    used = time.process_time() - began
    size = sum((data.root / path).stat().st_size for f in frames for path in (f.image, f.label) if path)
    return used / len(frames), size // len(frames)


def main() -> None:
    """Print milliseconds a frame of both, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = {"with": options.data, "without": without_digests(options.data, Path(folder) / "set")}
        found: dict[str, list[float]] = {name: [] for name in sets}
        for _ in range(options.rounds + 1):
            for name, root in sets.items():
                used, size = seconds(PreparedDataset(root), options.frames)
                found[name].append(used * 1000)
    rows = {name: round(statistics.median(values[1:]), 3) for name, values in found.items()}  # the first warms up
    print(json.dumps({"data": options.data.name, "bytes_a_frame": size, "milliseconds_a_frame": rows}))


if __name__ == "__main__":
    main()
