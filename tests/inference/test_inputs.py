"""What is found behind files, folders and patterns, and what it is called."""

import http.server
import threading
import time
from pathlib import Path

import pytest

from iccld_cli.errors import IccldError
from iccld_cli.inference.inputs import ASKED, collect


@pytest.fixture
def tree(tmp_path):
    for name in ("a/1.jpg", "a/deep/2.PNG", "b/1.jpg", "b/clip.mp4", "a/notes.md", "a/.hidden/3.jpg", "a/.4.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(items):
    return [item.name.as_posix() for item in items]


def test_a_folder_keeps_its_tree(tree):
    items = collect([tree / "a"], tree / "out")
    assert names(items) == ["1", "deep/2"]
    assert not any(item.is_video for item in items)


def test_two_folders_keep_their_names(tree):
    assert names(collect([tree / "a", tree / "b"], tree / "out")) == ["a/1", "a/deep/2", "b/1", "b/clip"]


def test_files_of_equal_name_are_told_apart(tree):
    (tree / "a/1.png").write_bytes(b"x")
    assert names(collect([tree / "a/1.jpg", tree / "a/1.png"], tree / "out")) == ["1.jpg", "1.png"]
    assert names(collect([tree / "a/1.jpg", tree / "b/1.jpg"], tree / "out")) == ["a/1.jpg", "b/1.jpg"]


def test_patterns(tree):
    assert names(collect([f"{tree}/**/*.jpg"], tree / "out")) == ["a/1", "b/1"]
    assert names(collect([f"{tree}/*/1.jpg", tree / "a/1.jpg"], tree / "out")) == ["a/1", "b/1"]  # once each


def test_the_output_folder_is_not_an_input(tree):
    assert names(collect([tree], tree / "b")) == ["a/1", "a/deep/2"]


def test_brackets_in_a_file_name_are_no_pattern(tree):
    (tree / "x[1].jpg").write_bytes(b"x")
    assert names(collect([tree / "x[1].jpg"], tree / "out")) == ["x[1]"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gone.jpg", "no file or folder at"),
        ("a/notes.md", "neither an image nor a video"),
        ("empty", "holds no image or video"),
        ("a/*.bmp", "no image or video matches"),
    ],
)
def test_wrong_inputs_are_one_error(tree, given, words):
    (tree / "empty").mkdir()
    with pytest.raises(IccldError, match=words):
        collect([f"{tree}/{given}"], Path("out"))


def test_servers_are_asked_about_several_files_at_a_time(tmp_path):
    lock, now, most, asked = threading.Lock(), 0, 0, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            nonlocal now, most
            with lock:
                now, most = now + 1, max(most, now + 1)
                asked.append(self.path)
            time.sleep(0.1)
            with lock:
                now -= 1
            self.send_response(404 if "missing" in self.path else 200)
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{base}/{number}.jpg" for number in range(20)]
        items = collect([*urls, urls[0]], tmp_path / "out")
        assert [item.source for item in items] == urls
        assert sorted(asked) == sorted(url.removeprefix(base) for url in urls)
        assert 1 < most <= ASKED
        with pytest.raises(IccldError, match=r"missing/a\.jpg cannot be read"):
            collect([urls[0], f"{base}/missing/a.jpg", f"{base}/missing/b.jpg"], tmp_path / "out")
        server.shutdown()
