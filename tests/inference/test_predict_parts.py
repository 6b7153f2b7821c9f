"""Predictions in parts: joined, they are what a single run writes."""

import itertools
import json
import shutil
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from factories import make_model, make_video, scene

from iccld_cli.errors import IccldError
from iccld_cli.inference import spans
from iccld_cli.inference.inputs import collect
from iccld_cli.inference.merge import merge
from iccld_cli.inference.model import load_model
from iccld_cli.inference.predict import predict
from iccld_cli.inference.predict_options import PredictOptions
from iccld_cli.inference.smooth import GRID
from iccld_cli.inference.spans import Inexact, SpanReader
from iccld_cli.inference.video import VideoReader
from iccld_cli.parts import Part, shares

FRAMES = 2 * GRID + 10
SAVE = ("overlay", "labels", "frames", "dataset")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "m.safetensors"), "cpu", backend="torch")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Two images, a video of three pieces and one of one."""
    folder = tmp_path_factory.mktemp("footage")
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), scene(i, 48, 32)[0])
    make_video(folder / "long.mp4", frames=FRAMES, size=(48, 32))
    make_video(folder / "short.mp4", frames=5, size=(48, 32))
    return folder


def run(model, footage, out, part=None, save=SAVE, **more):
    options = PredictOptions(out=out, save=save, **more)
    return predict(model, collect([footage], out), options, part=None if part is None else Part(*part))


@pytest.fixture(scope="module")
def whole(model, footage, tmp_path_factory):
    """Results of a single run, and what it returned."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(model, footage, out, to_label=5)


def shown(path):
    return [(frame.time, frame.image.tobytes()) for frame in VideoReader(path).frames()]


def same(one, other):
    files = [sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) for out in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".mp4"):
            assert shown(one / name) == shown(other / name), name
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("count", [2, 5])
def test_joined_parts_are_a_single_run(model, footage, whole, tmp_path, count):
    out = tmp_path / "out"
    found = [run(model, footage, out, (number, count), to_label=5) for number in range(count, 0, -1)]
    assert [p.name for p in out.iterdir()] == ["parts"]
    summary, number = merge(out, [])
    assert number == count
    same(whole[0], out)
    assert (summary.images, summary.frames) == (2, FRAMES + 5) == (whole[1].images, whole[1].frames)
    assert sum(part.frames for part in found) == FRAMES + 5
    assert summary.to_label == whole[1].to_label
    assert sum(part.frames > 0 for part in found) >= min(count, 3)


@pytest.mark.parametrize(
    "more",
    [
        {"every": 2, "start": Fraction(1, 2), "end": Fraction(27, 5)},
        {"smooth": False, "start": Fraction(2 * GRID - 1, 25)},
    ],
    ids=["steady", "from the last frame of a piece"],
)
def test_a_stretch_of_time_is_cut_as_well(model, footage, tmp_path, more):
    one, other = tmp_path / "1/out", tmp_path / "2/out"
    run(model, footage / "long.mp4", one, save=("overlay", "labels"), **more)
    parts = [run(model, footage / "long.mp4", other, (i, 2), ("overlay", "labels"), **more) for i in (1, 2)]
    merge(other, [])
    same(one, other)
    assert all(part.frames for part in parts)


def test_a_part_that_was_stopped_goes_on_and_others_may_lie_elsewhere(model, footage, whole, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done > 2:
            raise Stop

    options = PredictOptions(out=tmp_path / "a", save=SAVE, to_label=5)
    with pytest.raises(Stop):
        predict(model, collect([footage], tmp_path / "a"), options, progress=stop, part=Part(1, 2))
    run(model, footage, tmp_path / "b", (2, 2), to_label=5)
    with pytest.raises(IccldError, match=r"part 1 of 2 is not finished .*0\.png.*nothing was joined"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "out").exists()
    first = run(model, footage, tmp_path / "a", (1, 2), to_label=5)
    assert first.resumed >= 1
    again = run(model, footage, tmp_path / "a", (1, 2), to_label=5)
    assert (again.frames, again.resumed) == (0, first.resumed + 1)
    merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    same(whole[0], tmp_path / "out")
    assert (tmp_path / "a/parts/1-of-2/part.json").exists()


def test_a_join_that_was_stopped_goes_on(model, footage, whole, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        run(model, footage, out, (number, 2), to_label=5)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done > 2:
            raise Stop

    with pytest.raises(Stop):
        merge(out, [], progress=stop)
    merge(out, [])
    same(whole[0], out)


class Killed(BaseException):
    """A process that ends at once."""


def killed_while_removing(monkeypatch, out, after):
    """Join, and end when that many folders of parts were removed; None: when all is joined."""
    left = after
    really = shutil.rmtree

    def rmtree(path, *arguments, **more):
        nonlocal left
        if Part.named(path):
            if left == 0:
                raise Killed
            left -= 1
        really(path, *arguments, **more)

    def remove(folder, under=None):
        if under is not None:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", rmtree)
        if after is None:
            patch.setattr("iccld_cli.inference.merge._remove", remove)
        merge(out, [])


@pytest.mark.parametrize("after", [None, 0, 1])
def test_a_join_that_was_killed_while_it_removed_the_parts(model, footage, tmp_path, monkeypatch, after):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    shutil.copy(footage / "short.mp4", inputs)
    (inputs / "bad.png").write_bytes(b"no image")
    for number in (1, 2):
        run(model, inputs, out, (number, 2), ("labels",))
    killed_while_removing(monkeypatch, out, after)
    summary, count = merge(out, [])
    assert (summary.frames, count, [problem[0] for problem in summary.problems]) == (5, 2, [str(inputs / "bad.png")])
    assert sorted(p.name for p in out.iterdir()) == ["labels"]
    with pytest.raises(IccldError, match="no part lies in"):
        merge(out, [])


def test_parts_that_come_after_a_killed_join_are_joined_too(model, footage, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(model, footage / "short.mp4", out, (1, 1), ("labels",))
    killed_while_removing(monkeypatch, out, 0)
    for number in (1, 2):
        run(model, footage / "long.mp4", out, (number, 2), ("labels",))
    assert merge(out, [])[0].frames == FRAMES
    assert sorted(p.name for p in out.iterdir()) == ["labels"]
    assert len([*(out / "labels/long").iterdir()]) == FRAMES


def test_a_mark_of_joined_parts_counts_for_those_alone(model, footage, tmp_path):
    """A join can be killed before its parts got another name, and they be removed by hand."""
    out = tmp_path / "out"
    run(model, footage / "long.mp4", out, (1, 1), ("labels",))
    (out / "parts/merged.json").write_text('{"parts": 1}')
    assert merge(out, [])[0].frames == FRAMES
    assert len([*(out / "labels/long").iterdir()]) == FRAMES


def test_what_does_not_belong_together_is_refused(model, footage, tmp_path):
    run(model, footage, tmp_path / "a", (1, 2), ("labels",))
    with pytest.raises(IccldError, match=r"1-of-2 is another run's part \(save \['labels'\], not \['overlay'\]\)"):
        run(model, footage, tmp_path / "a", (2, 2), ("overlay",))
    with pytest.raises(IccldError, match="one of 2 parts, not of 3"):
        run(model, footage, tmp_path / "a", (2, 3), ("labels",))
    run(model, footage, tmp_path / "b", (2, 2), ("labels",), every=2)
    with pytest.raises(IccldError, match="every 2, not 1"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    shutil.rmtree(tmp_path / "b")
    head = tmp_path / "a/parts/1-of-2/part.json"
    run(model, footage, tmp_path / "b", (2, 2), ("labels",))
    raw = json.loads(head.read_text())
    raw["settings"]["version"] = "0.0.1"
    head.write_text(json.dumps(raw))
    with pytest.raises(IccldError, match=r"version .*, not 0\.0\.1"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "out").exists()


def test_other_inputs_are_refused_and_named(model, footage, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("0.png", "short.mp4"):
        shutil.copy(footage / name, inputs)
    run(model, inputs, tmp_path / "out", (1, 2), ("labels",))
    shutil.copy(footage / "1.png", inputs)
    with pytest.raises(IccldError, match="of other inputs"):
        run(model, inputs, tmp_path / "out", (2, 2), ("labels",))
    with pytest.raises(IccldError, match=r"part 2 of 2 is missing \(.*short\.mp4\)"):
        merge(tmp_path / "out", [])
    (inputs / "1.png").unlink()
    run(model, inputs, tmp_path / "out", (2, 2), ("labels",))
    with pytest.raises(IccldError, match="1 is in no part"):
        merge(tmp_path / "out", [], expected={"0", "1", "short"})


@pytest.mark.parametrize("later", [(1, 2, 3), (3, 2, 1)])
def test_parts_of_another_number_after_others_were_removed(model, footage, whole, tmp_path, later):
    """The list of inputs says which part has which; one of removed parts would leave results out."""
    out = tmp_path / "out"
    run(model, footage, out, (1, 2), to_label=5)
    shutil.rmtree(out / "parts/1-of-2")
    stale = (out / "parts/inputs.jsonl").read_text()
    for number in later:
        run(model, footage, out, (number, 3), to_label=5)
    listed = out / "parts/inputs.jsonl"
    good = listed.read_text()
    for text, words in ((stale, "lists other inputs"), (good[: good.rindex("{")], "damaged")):
        listed.write_text(text)
        with pytest.raises(IccldError, match=words):
            merge(out, [])
    listed.unlink()
    run(model, footage, out, (2, 3), to_label=5)  # the hint's remedy
    merge(out, [])
    same(whole[0], out)


@pytest.mark.parametrize("lost", ["labels/long/000070.png", "labels/long", "videos", "problems.jsonl", "lines"])
def test_the_hint_mends_a_part_that_lost_files(model, footage, whole, tmp_path, lost):
    out = tmp_path / "out"
    for number in (1, 2):
        run(model, footage, out, (number, 2), to_label=5)
    path = next(out.glob(f"parts/2-of-2/{lost}"), None) or next(out.glob(f"parts/1-of-2/{lost}"))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(IccldError) as told:
        merge(out, [])
    part = path.relative_to(out / "parts").parts[0]
    assert told.value.hint == f"remove {out / 'parts' / part} and run that part again"
    shutil.rmtree(out / "parts" / part)
    run(model, footage, out, (int(part[0]), 2), to_label=5)
    merge(out, [])
    same(whole[0], out)


def test_more_parts_than_pieces(model, footage, tmp_path):
    """What has nothing to do says so, and need not run."""
    found = [run(model, footage / "short.mp4", tmp_path / "out", (n, 4), ("labels",)).frames for n in (1, 2, 3, 4)]
    assert sorted(found) == [0, 0, 0, 5]
    shutil.rmtree(tmp_path / f"out/parts/{found.index(0) + 1}-of-4")
    assert merge(tmp_path / "out", [])[0].frames == 5


def test_results_that_exist_are_told_before_the_work(model, footage, tmp_path):
    run(model, footage / "short.mp4", tmp_path / "out", save=("labels",))
    with pytest.raises(IccldError, match=r"labels/short exists"):
        run(model, footage / "short.mp4", tmp_path / "out", (1, 1), ("labels",))
    left = run(model, footage / "short.mp4", tmp_path / "out", (1, 1), ("labels",), skip_existing=True)
    assert left.skipped == 1
    assert merge(tmp_path / "out", [], skip_existing=True)[0].skipped == 1


def test_a_damaged_video_and_an_unreadable_image_are_told_as_in_one_run(model, footage, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "bad.png").write_bytes(b"no image")
    data = bytearray((footage / "long.mp4").read_bytes())
    at = len(data) * 2 // 3
    data[at : at + 400] = bytes(400)
    (inputs / "long.mp4").write_bytes(data)
    one = run(model, inputs, tmp_path / "1/out", save=("labels",))
    for number in (1, 2, 3):
        run(model, inputs, tmp_path / "2/out", (number, 3), ("labels",))
    other = merge(tmp_path / "2/out", [])[0]
    same(tmp_path / "1/out", tmp_path / "2/out")
    assert len(one.problems) == 2
    told = [[(where, str(problem)) for where, problem in found.problems] for found in (one, other)]
    assert sorted(told[0]) == sorted((where, text.replace("/2/", "/1/")) for where, text in told[1])


def test_a_part_that_goes_on_still_knows_its_damaged_videos(model, footage, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done > 60:  # in the second video
            raise Stop

    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    make_video(inputs / "a.mp4", frames=40, size=(48, 32))
    data = bytearray((inputs / "a.mp4").read_bytes())
    at = len(data) * 2 // 3
    data[at : at + 400] = bytes(400)
    (inputs / "a.mp4").write_bytes(data)
    shutil.copy(footage / "long.mp4", inputs / "b.mp4")
    options = PredictOptions(out=out, save=("labels",))
    with pytest.raises(Stop):
        predict(model, collect([inputs], out), options, progress=stop, part=Part(1, 1))
    first = run(model, inputs, tmp_path / "undisturbed", (1, 1), ("labels",))
    again = run(model, inputs, out, (1, 1), ("labels",))
    assert again.resumed == 1
    told = [[(where, problem.message) for where, problem in found.problems] for found in (first, again)]
    assert told[0] == told[1] and len(told[0]) == 1
    assert run(model, inputs, out, (1, 1), ("labels",)).problems[0][0] == told[0][0][0]


@pytest.mark.parametrize("part", [None, (1, 1)])
def test_batches_are_as_large_as_asked_but_for_where_parts_may_end(model, tmp_path, monkeypatch, part):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for i in range(20):
        cv2.imwrite(str(inputs / f"{i:02d}.png"), scene(i, 48, 32)[0])
    make_video(inputs / "v.mp4", frames=GRID + 6, size=(48, 32))
    sizes, segment, logits = [], model.segment, model.logits

    def noted(call):
        return lambda images, *rest, **more: sizes.append(len(images)) or call(images, *rest, **more)

    monkeypatch.setattr(model, "segment", noted(segment))
    monkeypatch.setattr(model, "logits", noted(logits))
    run(model, inputs, tmp_path / "out", part, ("labels",), batch_size=32)
    assert sizes == ([20] if part is None else [16, 4]) + [32, 32, 6]


@pytest.mark.parametrize("size", [8, 16])
def test_joined_parts_are_a_single_run_in_batches(model, footage, tmp_path, size):
    one, other = tmp_path / "1/out", tmp_path / "2/out"
    run(model, footage / "long.mp4", one, save=("labels", "frames"), batch_size=size)
    for number in (1, 2, 3):
        run(model, footage / "long.mp4", other, (number, 3), ("labels", "frames"), batch_size=size)
    merge(other, [])
    same(one, other)


@pytest.mark.parametrize("form", ["mp4", "mkv", "avi", "ts", "webm"])
def test_frames_from_a_number_on_are_those_of_the_whole(tmp_path, form):
    path = tmp_path / f"v.{form}"
    codec = {"mp4": "libx264", "mkv": "mpeg4", "avi": "mpeg4", "ts": "mpeg2video", "webm": "libvpx-vp9"}[form]
    make_video(path, frames=40, size=(48, 32), codec=codec)
    with VideoReader(path) as reader:
        every = [(f.index, f.time, f.image.tobytes()) for f in reader.frames()]
    with SpanReader(path) as reader:
        reader.needed = 25
        frames = reader.frames(lambda index, time: "skip" if index < 25 else "take" if index < 35 else "end")
        assert [(f.index, f.time, f.image.tobytes()) for f in frames] == every[25:35]
        assert reader.sought == (form in ("mp4", "mkv", "webm"))


def test_refresh_without_key_frames_is_read_from_the_beginning(tmp_path):
    """Intra refresh has frames that are marked as key frames and are whole some frames later only."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": "intra-refresh=1:keyint=10:bframes=0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(60):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(i, 96, 64)[0], format="rgb24")))
        out.mux(stream.encode())
    with VideoReader(path) as reader:
        every = [f.image for f in reader.frames()]

    def take(seek):
        with SpanReader(path, seek) as reader:
            reader.needed = 33
            return [f.image for f in reader.frames(lambda index, time: "skip" if index < 33 else "take")]

    try:
        found = take(True)
    except Inexact:
        found = take(False)
    assert np.array_equal(found, every[33:])


def test_shares_are_neighbours_of_like_weight():
    assert shares([1] * 6, 3) == [range(2), range(2, 4), range(4, 6)]
    assert shares([100, 1, 1], 3) == [range(1), range(1, 2), range(2, 3)]
    assert shares([], 2) == [range(0), range(0)]
    rng = np.random.default_rng(0)
    for _ in range(300):
        weights = rng.integers(1, 40, rng.integers(0, 30)).tolist()
        count = int(rng.integers(1, 12))
        found = shares(weights, count)
        assert [i for share in found for i in share] == list(range(len(weights)))
        if len(weights) >= count:
            assert all(found)
        heaviest = max((sum(weights[i] for i in share) for share in found), default=0)
        assert heaviest <= sum(weights) / count + max(weights, default=0) + 40 * (len(weights) < 2 * count)


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "1/0", "1", "-1/2", "1/2/3", "1/99999999"])
def test_no_part(text):
    with pytest.raises(IccldError, match="part"):
        Part.parse(text)


class Counting:
    """PyAV's container, and how many packets are read of it."""

    def __init__(self, container, counts):
        self._container, self._counts = container, counts

    def __getattr__(self, name):
        return getattr(self._container, name)

    def __enter__(self):
        self._container.__enter__()
        return self

    def __exit__(self, *error):
        return self._container.__exit__(*error)

    def demux(self, *streams):
        self._counts.append(0)
        for packet in self._container.demux(*streams):
            self._counts[-1] += packet.size > 0
            yield packet


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    """A video of 2000 frames with a key frame at every 50th."""
    path = tmp_path_factory.mktemp("hour") / "hour.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "50", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(2000):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(i, 48, 32)[0], format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("wanted", "most"),
    [
        ({"last": 300}, [300 + 1 + 32, 50 + 50 + 66]),
        ({"end": Fraction(12)}, [300 + 1 + 32 + 2, 50 + 50 + 66]),
        ({"last": 400, "end": Fraction(12)}, [300 + 1 + 32 + 2, 50 + 50 + 66]),
        ({}, [2000, 1750 + 66]),
    ],
    ids=["number", "time", "the nearer", "all"],
)
def test_a_stretch_reads_no_further_than_it_has_to(hour, monkeypatch, wanted, most):
    counts, opened = [], av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: Counting(opened(*a, **k), counts))
    with SpanReader(hour) as reader:
        reader.needed, reader.last, reader.end = 250, wanted.get("last"), wanted.get("end")
        stop = 300 if wanted else 2000
        found = [
            frame.index
            for frame in reader.frames(lambda index, time: "skip" if index < 250 else "take" if index < stop else "end")
        ]
        assert reader.sought
    assert found == list(range(250, stop))
    table, first, decoded = counts
    assert first < 70
    assert table <= most[0]
    assert decoded <= most[1]


def test_parts_of_a_long_video_read_their_own_share_of_it(model, hour, tmp_path, monkeypatch):
    counts, opened = [], av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: Counting(opened(*a, **k), counts))
    found = run(model, hour, tmp_path / "out", (2, 20), ("labels",), smooth=False)
    assert found.frames >= GRID
    assert sum(counts) < 800
    counts.clear()
    found = run(model, hour, tmp_path / "b", save=("labels",), start=Fraction(8), limit=8, smooth=False)
    assert found.frames == 8
    assert sum(counts) < 700


def test_reading_to_the_end_that_has_too_little_is_inexact(footage):
    with SpanReader(footage / "long.mp4") as reader:
        reader.needed, reader.last = 70, 80
        with pytest.raises(Inexact):  # whoever says where they stop stops there
            list(reader.frames(lambda index, time: "take" if index >= 70 else "skip"))


def test_a_start_behind_the_end_finds_nothing(model, footage, tmp_path):
    found = run(model, footage / "long.mp4", tmp_path / "out", save=("labels",), start=Fraction(100), every=7)
    assert found.frames == 0


def test_a_table_of_times_is_for_sound_files_alone(footage, tmp_path):
    assert spans._table(footage / "long.mp4") is not None
    cut = tmp_path / "cut.mp4"
    with av.open(str(footage / "long.mp4")) as source, av.open(str(cut), "w", format="matroska") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(source.streams.video[0]), 3, 40):  # begins between key frames
            packet.stream = stream
            out.mux(packet)
    assert spans._table(cut) is None
