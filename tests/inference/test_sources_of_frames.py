"""Lists, addresses, streams and cameras as inputs, against real servers on this machine."""

import contextlib
import functools
import http.server
import io
import itertools
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from factories import free_port, make_model, make_video, sender

from iccld_cli.errors import IccldError
from iccld_cli.inference import live, remote
from iccld_cli.inference.inputs import Input, collect
from iccld_cli.inference.journal import Journal
from iccld_cli.inference.live import LiveReader
from iccld_cli.inference.merge import merge
from iccld_cli.inference.model import load_model
from iccld_cli.inference.predict import predict
from iccld_cli.inference.predict_options import PredictOptions
from iccld_cli.inference.remote import fetch, is_url, shown_url, url_path
from iccld_cli.inference.video import VideoReader
from iccld_cli.parts import Part


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(live, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(live, "TIMEOUT", 3.0)


class Server(http.server.ThreadingHTTPServer):
    """Serves the bytes of `files` by path; `asked` holds (method, path, Range) of every request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.kinds, self.asked, self.breaks = {}, {}, [], 0

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        data = self.server.files.get(self.path)
        if data is None or (self.path == "/no-head.png" and self.command == "HEAD"):
            self.send_error(404 if data is None else 405)
            return
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", self.server.kinds.get(self.path, "application/octet-stream"))
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(data[begin : begin + (len(data) - begin) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[begin:])


@pytest.fixture
def server():
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()


def picture(width=64, height=48):
    return cv2.imencode(".png", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def test_a_file_is_fetched_and_taken_up_where_it_broke(server, tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()
    server.files["/v.mp4"], server.breaks = data, 2
    fetch(server.url("/v.mp4"), tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == data
    assert [range_ for *_, range_ in server.asked] == [None, "bytes=50000-", "bytes=75000-"]


def test_what_cannot_be_fetched_ends_after_a_few_tries(server, tmp_path):
    server.files["/v.mp4"], server.breaks = bytes(1000), 99
    with pytest.raises(IccldError, match="cannot be fetched in 4 tries"):
        fetch(server.url("/v.mp4"), tmp_path / "v")
    assert len(server.asked) == 4
    with pytest.raises(IccldError, match=r"cannot be read \(404"):
        fetch(server.url("/gone.mp4"), tmp_path / "v")
    server.breaks = 0
    with pytest.raises(IccldError, match="larger than"):
        fetch(server.url("/v.mp4"), tmp_path / "v", most=999)
    with pytest.raises(IccldError, match="does not answer"):
        collect(["http://127.0.0.1:9/a.png"], tmp_path / "out")  # the discard port: nobody listens


def test_addresses_become_jobs(server, tmp_path):
    server.files = dict.fromkeys(("/a/one.png", "/two", "/no-head.png", "/page", "/cam"), picture())
    server.kinds = {"/two": "video/mp4", "/page": "text/html", "/cam": "multipart/x-mixed-replace; boundary=x"}
    paths = "/a/one.png", "/two", "/no-head.png"
    jobs = collect([server.url(path) for path in paths], tmp_path / "out")
    assert [(job.is_video, job.live) for job in jobs] == [(False, False), (True, False), (False, False)]
    assert [job.name.name for job in jobs] == ["one", "two", "no-head"]
    assert jobs[0].stamp[0] == len(picture())
    assert [method for method, path, _ in server.asked if path == "/no-head.png"] == ["HEAD", "GET"]
    for path, words in (
        ("/page", "neither an image nor a video but text/html"),
        ("/gone.png", "404"),
        ("/cam", "pictures without an end"),
    ):
        with pytest.raises(IccldError, match=words):
            collect([server.url(path)], tmp_path / "out")


def test_addresses_are_shown_without_secrets():
    url = "rtsp://me:secret@cam.example:554/live?key=secret"
    assert shown_url(url) == "rtsp://cam.example:554/live"
    assert url_path(url).as_posix() == "cam.example_554/live"
    assert url_path("http://h/../../%2e%2e/etc/%00x").as_posix() == "h/etc/x"
    assert is_url(url)
    assert not any(map(is_url, ("C://x", "a.png", "file:///etc/passwd", "concat:a|b")))
    job = collect([url], Path("out"))[0]
    assert "secret" not in f"{job.where} {job.path} {job.name}"
    assert job.live


def test_addresses_that_differ_in_query_or_password_alone_are_two_inputs(server, tmp_path):
    server.files = dict.fromkeys(("/get.jpg?id=1", "/get.jpg?id=2"), picture())
    channels = [f"rtsp://me:{password}@cam/realmonitor?channel={n}" for n, password in ((1, "a"), (2, "a"), (2, "b"))]
    given = [server.url("/get.jpg?id=1"), server.url("/get.jpg?id=2"), *channels]
    jobs = collect(given, tmp_path / "out")
    assert len({job.name for job in jobs}) == 5
    assert [job.name for job in jobs] == [job.name for job in collect(given, tmp_path / "out")]
    same = [replace(job, name=jobs[0].name) for job in jobs[:2]]
    with Journal(tmp_path / "out", {}) as journal:
        assert journal.part(same[0]) != journal.part(same[1])
        journal.publish([(same[0], [], None)])
        assert journal.owns(same[0])
        assert not journal.owns(same[1])


@pytest.mark.parametrize(("stamp", "finished"), [((5, 0), True), ((-1, 7), True), ((-1, 0), False)])
def test_what_a_server_says_nothing_of_is_fetched_again(tmp_path, stamp, finished):
    job = Input(Path("h/a.png"), PurePath("a"), False, "http://h/a.png", stamp=stamp)
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path, {}) as journal:
        journal.publish([(job, [], None)])
        raise KeyboardInterrupt
    with Journal(tmp_path, {}) as journal:
        assert journal.finished(job) == finished


@pytest.mark.parametrize(
    "url", ["http://[::1/a.mp4", "rtsp://host:abc/x", "http://host:99999/x", "rtsp://me:sec/ret@host/x"]
)
def test_a_malformed_address_is_one_line(tmp_path, url):
    with pytest.raises(IccldError, match="is no address that can be read") as raised:
        collect([url], tmp_path / "out")
    assert "sec" not in str(raised.value)


def test_an_address_with_a_space_is_asked_once(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(remote.time, "sleep", waited.append)
    with pytest.raises(IccldError, match="no address that can be asked"):
        collect([server.url("/a b.png")], tmp_path / "out")
    assert waited == server.asked == []


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = collect(["0"], tmp_path / "out")
    assert (job.source, job.live, job.where) == (0, True, "camera 0")
    with pytest.raises(IccldError, match="camera 0 cannot be opened"):
        LiveReader(0).__exit__()  # this machine has none, or the test means nothing
    (tmp_path / "0").mkdir()
    (tmp_path / "0/a.png").write_bytes(picture())
    assert collect(["0"], tmp_path / "out")[0].source is None


def test_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b b.png", "c.png"):
        Path(name).write_bytes(picture())
    Path("list.txt").write_text("a.png\n\nb b.png\r\n*.png\n", encoding="utf-8")
    assert [job.path.name for job in collect(["list.txt"], tmp_path / "out")] == ["a.png", "b b.png", "c.png"]
    for data, words in ((b"c.png\na.png", None), (b"", "is empty"), (b"-", "holds the input -"), (b"\0", "no list")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        context = contextlib.nullcontext() if words is None else pytest.raises(IccldError, match=words)
        with context:
            assert [job.path.name for job in collect(["-"], tmp_path / "out")] == ["c.png", "a.png"]


def choose(every, start, end, index, time):
    return "end" if time >= end else "skip" if index % every or time < start else "take"


def test_frames_are_chosen_by_number_and_time(tmp_path):
    path = make_video(tmp_path / "v.mp4", frames=20)
    with VideoReader(path) as reader:
        whole = list(reader.frames())
        assert not reader.stopped
    with VideoReader(path) as reader:
        some = list(reader.frames(functools.partial(choose, 3, Fraction("0.2"), Fraction("0.6"))))
        assert reader.stopped
    assert [frame.index for frame in some] == [6, 9, 12]
    assert all((frame.image == whole[frame.index].image).all() for frame in some)


@pytest.mark.parametrize(("form", "scheme"), [("rtsp", "rtsp"), ("mpegts", "tcp")])
def test_a_stream_is_read_to_its_end_newest_frame_first(form, scheme):
    """FFmpeg waits for a sender itself, which takes the part of a camera."""
    url = f"{scheme}://127.0.0.1:{free_port()}/live"
    options = {"rtsp_flags": "listen", "listen_timeout": "20"} if form == "rtsp" else {"listen": "1"}
    seen = []
    with sender(url, form, 60, 0.02), LiveReader(url, options=options) as reader:
        for frame in reader.frames():
            seen.append(frame)
            time.sleep(0.06)  # slower than the source
    assert reader.problem is None
    assert len(seen) < reader.received <= 60
    assert [frame.index for frame in seen] == sorted({frame.index for frame in seen})
    assert seen[-1].index > 50
    assert abs(int(seen[-1].image.mean()) - (seen[-1].index + 20)) <= 3  # its own pixels, not older ones
    assert seen[-1].image.shape == (48, 64, 3)
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(seen))


def test_a_stream_that_is_silent_or_absent_ends_after_a_few_tries():
    told = []
    with pytest.raises(IccldError, match="4 tries were made"):
        LiveReader(f"rtsp://127.0.0.1:{free_port()}/live", told.append)
    assert len(told) == 3


def test_problems_of_addresses_that_look_alike_are_told_of_the_right_one(server, tmp_path):
    """What an address is called leaves its query out."""
    server.files = {"/i.png?n=1": b"no image", "/i.png?n=2": picture()}
    out = tmp_path / "out"
    items = collect([server.url("/i.png?n=1"), server.url("/i.png?n=2")], out)
    model = load_model(make_model(tmp_path / "m.safetensors"), "cpu")
    predict(model, items, PredictOptions(out, ("labels",)), part=Part(1, 1))
    summary, _ = merge(out, [])
    assert (summary.images, len(summary.problems)) == (1, 1)
    assert [p.stem for p in (out / "labels").rglob("*.png")] == [items[1].name.name]
