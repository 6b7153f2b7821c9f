"""`iccld predict` on lists, addresses, streams and parts of videos."""

import http.server
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))
from factories import free_port, make_model, make_video, scene, sender

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.inference import smooth
from iccld_cli.inference.live import LiveReader


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "stage1.safetensors", "stage1")


@pytest.fixture
def predict(iccld, model, tmp_path):
    """A function: inputs and options -> (exit status, output, errors); results lie in `out`."""

    def run(*arguments, out="out", save="labels"):
        return iccld("predict", *arguments, "--ckpt", model, "--out", tmp_path / out, "--save", save)

    return run


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def photo(path, number=0):
    cv2.imwrite(str(path), scene(number, 64, 48)[0][..., ::-1])
    return path


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of `server.folder`."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        data = (self.server.folder / self.path.strip("/").partition("?")[0]).read_bytes()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def serve(folder):
    """Serve until killed; the port is the first line of output."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.folder = Path(folder)
        print(server.server_port, flush=True)
        server.serve_forever()


@pytest.fixture
def address(tmp_path):
    """Where the files of `tmp_path / "served"` are served: by another process, as PyAV opens addresses with the GIL."""
    folder = tmp_path / "served"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def test_files_behind_addresses_are_as_local_ones(predict, address, tmp_path):
    served = tmp_path / "served"
    photo(served / "a.png")
    make_video(served / "v.mp4", frames=5)
    (served / "b.mp4").write_bytes(b"no video")
    assert predict(served / "a.png", served / "v.mp4", out="local")[0] == 0
    status, said, err = predict(f"{address}/a.png", f"{address}/v.mp4", f"{address}/b.mp4?key=secret")
    assert status == 1
    assert f"{address}/b.mp4 is not a video that can be read" in err.replace("\n", " ")
    assert "secret" not in said + err
    assert files(tmp_path / "out") == files(tmp_path / "local")
    assert all(
        (tmp_path / "out" / f).read_bytes() == (tmp_path / "local" / f).read_bytes() for f in files(tmp_path / "out")
    )


def test_numbers_of_frames_name_their_address_without_its_key(predict, address, tmp_path):
    photo(tmp_path / "served/a.png")
    assert predict(f"{address}/a.png?key=secret", "--to-label", 1, save="frames")[0] == 0
    for name in ("frames.jsonl", "to_label.jsonl"):
        assert json.loads((tmp_path / "out" / name).read_text())["input"] == f"{address}/a.png"


def test_a_list_on_standard_input(predict, tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{tmp_path}/a.png\n{tmp_path}/b.png\n".encode())))
    assert predict("-")[0] == 0
    assert files(tmp_path / "out") == ["labels/a.png", "labels/b.png"]


def test_parts_of_a_video_keep_the_numbers_and_times_of_its_frames(predict, tmp_path):
    video = make_video(tmp_path / "v.mp4", frames=30)
    assert predict(video, "--no-smooth", out="whole", save="labels,overlay")[0] == 0
    part = "--every", 4, "--start", "0.2", "--end", "00:00:01", "--no-smooth"
    status, said, _ = predict(video, *part, save="labels,overlay")
    assert status == 0
    assert "5 video frames" in said
    numbers = [8, 12, 16, 20, 24]
    assert files(tmp_path / "out") == [*(f"labels/v/{n:06d}.png" for n in numbers), "overlay/v.mp4"]
    for number in numbers:
        name = f"labels/v/{number:06d}.png"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with av.open(str(tmp_path / "out/overlay/v.mp4")) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == pytest.approx([0, 0.16, 0.32, 0.48, 0.64])


def test_a_part_of_a_steadied_video_is_as_in_the_whole(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(smooth, "GRID", 8)
    monkeypatch.setattr(smooth, "WARM_UP", 4)
    video = make_video(tmp_path / "v.mp4", frames=26)
    for every in (1, 2):
        assert predict(video, "--every", every, out=f"whole{every}", save="labels,confidence")[0] == 0
        options = "--every", every, "--start", "0.8", "--limit", 3
        status, said, _ = predict(video, *options, out=f"part{every}")
        assert status == 0
        assert "3 video frames" in said
        found = files(tmp_path / f"part{every}")
        assert found == [f"labels/v/{number:06d}.png" for number in range(20, 20 + 3 * every, every)]
        for name in found:
            assert (tmp_path / f"part{every}" / name).read_bytes() == (tmp_path / f"whole{every}" / name).read_bytes()


def test_what_is_no_scene_is_255_and_not_drawn(predict, tmp_path):
    video, region = make_video(tmp_path / "v.mp4", frames=4, size=(64, 48)), np.zeros((24, 32), np.uint8)
    region[18:] = 255
    cv2.imwrite(str(tmp_path / "region.png"), region)
    picture = photo(tmp_path / "a.png")
    kinds = "labels,confidence,uncertainty,overlay"
    options = "--ignore-mask", tmp_path / "region.png", "--no-legend"
    assert predict(video, picture, *options, save=kinds)[0] == 0
    assert predict(video, picture, "--no-legend", out="plain", save=kinds)[0] == 0
    for name in ("labels/a.png", "labels/v/000003.png", "confidence/a.png", "uncertainty/a.png"):
        found, plain = (cv2.imread(str(tmp_path / out / name), -1) for out in ("out", "plain"))
        assert (found[36:] == (255 if name.startswith("labels") else 0)).all()
        assert (found[:36] == plain[:36]).all()
    drawn = cv2.imread(str(tmp_path / "out/overlay/a.png"))
    assert (drawn[37:] == cv2.imread(str(picture))[37:]).all()
    status, _, err = predict(video, "--ignore-mask", "auto", out="auto")
    assert status == 1
    assert "too few to see what does not move" in err


def test_a_stream_is_recorded_and_its_latency_told(predict, tmp_path):
    url = f"udp://127.0.0.1:{free_port()}"
    with sender(url, "mpegts", 2000, 0.02):
        status, said, err = predict(url, "--limit", 5, save="labels,overlay,frames")
    assert status == 0, err
    assert "5 video frames" in said
    assert "(p50)" in said
    assert "(p99)" in said
    (folder,) = (tmp_path / "out/labels").iterdir()
    rows = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    assert [f"{row['frame']:06d}.png" for row in rows] == sorted(path.name for path in folder.iterdir())
    assert len(rows) == 5
    with av.open(str(next((tmp_path / "out/overlay").iterdir()))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


@pytest.fixture
def interrupted(monkeypatch):
    """Streams are interrupted after four frames."""
    frames = LiveReader.frames

    def four(reader, choose=None):
        yield from itertools.islice(frames(reader, choose), 4)
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveReader, "frames", four)


def test_an_interrupt_finishes_a_stream_and_leaves_nothing_to_go_on_with(predict, tmp_path, interrupted):
    url, out, kinds = f"udp://127.0.0.1:{free_port()}", tmp_path / "out", "labels,overlay,frames,dataset"
    with sender(url, "mpegts", 2000, 0.02):
        status, said, err = predict(url, "--threshold", 0, save=kinds)
        assert status == 130, err
        assert "4 video frames" in said
        assert "(p99)" in said
        assert len((out / "frames.jsonl").read_text().splitlines()) == 4
        assert PreparedDataset(out / "dataset").info.splits == {"train": 4}
        assert len(files(out / "labels")) == 4
        assert not (out / ".predict").exists()
        before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
        status, _, err = predict(url, "--threshold", 0, save=kinds)  # replaces nothing without --overwrite
    assert status == 1
    assert "exists" in err
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before


def test_what_comes_after_an_interrupted_stream_is_left_to_the_same_command(predict, tmp_path, interrupted):
    url, out = f"udp://127.0.0.1:{free_port()}", tmp_path / "out"
    given = url, make_video(tmp_path / "v.mp4", frames=3)
    with sender(url, "mpegts", 2000, 0.02):
        assert predict(*given, save="labels,frames")[0] == 130
    assert len((out / "frames.jsonl").read_text().splitlines()) == 4
    assert not (out / "labels/v").exists()
    status, said, _ = predict(*given, save="labels,frames")  # nobody sends any more
    assert (status, "3 video frames" in said) == (0, True)
    assert len((out / "frames.jsonl").read_text().splitlines()) == 7
    assert not (out / ".predict").exists()


def moving(folder, number, size=(64, 48)):
    """Pictures of noise with a black bar at their foot."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(number):
        noise = cv2.resize(rng.integers(60, 256, (6, 8, 3), np.uint8), size, interpolation=cv2.INTER_NEAREST)
        noise[-12:] = 0
        cv2.imwrite(str(folder / f"{i:03d}.png"), noise)
    return folder


def test_images_of_another_size_do_not_cost_the_others_their_region(predict, tmp_path):
    """Those of the rarer size lie where every second file of all would miss them."""
    folder = moving(tmp_path / "in", 100)
    for path in sorted(folder.iterdir()):
        if int(path.stem) % 10 != 1:
            cv2.imwrite(str(path), cv2.imread(str(path))[:, :60])
    cv2.imwrite(str(folder / "odd.png"), np.zeros((40, 40, 3), np.uint8))
    status, said, err = predict(folder, "--ignore-mask", "auto")
    assert status == 1
    assert "100 images in" in said
    assert "odd.png: among images of 40x40, 1 frames are too few" in " ".join(err.split())
    assert len(files(tmp_path / "out")) == 100
    labels = cv2.imread(str(tmp_path / "out/labels/001.png"), -1)
    assert (labels[-8:] == 255).all()
    assert (labels[:8] != 255).all()


def test_a_region_is_not_sought_in_fetched_images(predict, address, tmp_path):
    photo(tmp_path / "served/a.png")
    status, _, err = predict(f"{address}/a.png", "--ignore-mask", "auto")
    assert status == 1
    assert "fetched one by one" in err
    assert not (tmp_path / "out").exists()


def test_a_picture_of_another_shape_costs_its_inputs_alone(predict, tmp_path):
    region = np.zeros((24, 32), np.uint8)
    region[18:] = 255
    cv2.imwrite(str(tmp_path / "region.png"), region)
    url = f"udp://127.0.0.1:{free_port()}"
    good = make_video(tmp_path / "good.mp4", frames=3, size=(64, 48)), photo(tmp_path / "good.png")
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((30, 90, 3), np.uint8))
    wide = make_video(tmp_path / "wide.mp4", frames=3, size=(96, 32)), tmp_path / "wide.png"
    status, _, err = predict(*wide, *good, "--ignore-mask", tmp_path / "region.png", save="labels,overlay")
    assert status == 1
    assert err.count("which is not the shape of a frame") == 2
    frames = [f"labels/good/{i:06d}.png" for i in range(3)]
    assert files(tmp_path / "out") == ["labels/good.png", *frames, "overlay/good.mp4", "overlay/good.png"]
    cv2.imwrite(str(tmp_path / "region.png"), np.repeat(region, 3, axis=1))
    with sender(url, "mpegts", 2000, 0.02):
        status, _, err = predict(url, "--ignore-mask", tmp_path / "region.png", "--limit", 3, out="live")
    assert status == 1
    assert f"{url}: the region to ignore is 96x24" in " ".join(err.split())
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--start", "5"), 1, "no frame between --start and --end"),
        (("--start", "abc"), 2, "write seconds, or HH:MM:SS"),
        (("--start", "2", "--end", "1"), 2, "does not lie after the start"),
        (("--every", "0"), 2, "greater than or equal to 1"),
    ],
)
def test_wrong_parts_are_told(predict, tmp_path, options, status, words):
    found, _, err = predict(make_video(tmp_path / "v.mp4", frames=5), *options)
    assert found == status
    assert words in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    serve(sys.argv[1])
