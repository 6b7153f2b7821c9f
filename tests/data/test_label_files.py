"""Label maps and label files, with their traps of bit depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import all_ids, grey, palette, png, rgb, rgb16

from iccld_cli.data.labelfiles import decode_channels, decode_ids, histogram, map_colors, map_ids
from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, IGNORE, LabelSpace
from iccld_cli.prepare.labelmap import LabelMap, parse_label_map, read_label_map
from iccld_cli.prepare.matfile import read_integers

NAMES = st.one_of(st.none(), st.sampled_from(CITYSCAPES.names))
TABLES = st.dictionaries(st.integers(0, 255), NAMES, min_size=1, max_size=60)


@given(TABLES, st.data())
@settings(max_examples=60, deadline=None)
def test_map_ids_is_the_table_pixel_by_pixel(table, data):
    values = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=64))
    label = map_ids(np.array([values], np.uint8), table, CITYSCAPES)
    golden = [IGNORE if table[v] is None else CITYSCAPES.id_of(table[v]) for v in values]
    assert label.dtype == np.uint8
    assert label[0].tolist() == golden


@given(TABLES, st.integers(0, 65535))
@settings(max_examples=60, deadline=None)
def test_an_id_outside_the_table_is_named(table, value):
    raw = np.array([[value]], np.uint16)
    if value in table:
        map_ids(raw, table, CITYSCAPES)
    else:
        with pytest.raises(IccldError, match=str(value)):
            map_ids(raw, table, CITYSCAPES)


COLORS = st.tuples(*[st.integers(0, 255)] * 3)


@given(st.dictionaries(COLORS, NAMES, min_size=1, max_size=8), st.data())
@settings(max_examples=15, deadline=None)
def test_map_colors_is_the_table_pixel_by_pixel(table, data):
    values = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=32))
    label = map_colors(np.array([values], np.uint8), table, CITYSCAPES)
    assert label[0].tolist() == [IGNORE if table[v] is None else CITYSCAPES.id_of(table[v]) for v in values]


def test_unknown_colours_are_refused_or_ignored():
    raw = np.array([[(1, 2, 3), (9, 9, 9)]], np.uint8)
    with pytest.raises(IccldError, match=r"\(9, 9, 9\)"):
        map_colors(raw, {(1, 2, 3): "road"}, CITYSCAPES)
    assert map_colors(raw, {(1, 2, 3): "road"}, CITYSCAPES, strict=False).tolist() == [[0, IGNORE]]
    with pytest.raises(IccldError, match="RGB"):
        map_colors(raw[..., :1], {(1, 2, 3): "road"}, CITYSCAPES)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_histogram_counts_every_pixel(height, width, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    assert histogram(values).tolist() == np.bincount(values.ravel(), minlength=256).tolist()


def test_decoders_keep_the_ids(tmp_path):
    ids = all_ids([*range(34)])
    assert (decode_ids(grey(tmp_path / "g.png", ids).read_bytes()) == ids).all()
    assert (decode_ids(palette(tmp_path / "p.png", ids).read_bytes()) == ids).all()
    assert (decode_ids(rgb16(tmp_path / "s.png", ids, ids * 700).read_bytes()) == ids).all()
    assert (decode_channels((tmp_path / "s.png").read_bytes())[..., 1] == ids * 700).all()
    stacked = np.stack([ids, ids + 1, ids + 2], -1)
    assert (decode_channels(rgb(tmp_path / "c.png", stacked).read_bytes()) == stacked).all()


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1, 1, 0]), (2, [0, 1, 2, 3]), (4, [0, 5, 9, 15])])
def test_narrow_grey_files_are_not_stretched(depth, values):
    bits = 0
    for value in values:
        bits = bits << depth | value
    row = (bits << (-len(values) * depth % 8)).to_bytes(max(1, len(values) * depth // 8), "big")
    assert decode_ids(png(4, 1, depth, 0, b"\0" + row)).tolist() == [values]


def test_16_bit_grey_ids():
    assert decode_ids(png(2, 1, 16, 0, b"\0" + bytes([1, 44, 0, 7]))).tolist() == [[300, 7]]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: b"", "empty"),
        (lambda d: d[:-20], "truncated"),
        (lambda d: d[: len(d) // 2], "truncated"),
        (lambda d: d[:60] + bytes([d[60] ^ 1]) + d[61:], "damaged"),
        (lambda d: b"GIF89a" + d, "not an image"),
    ],
)
def test_damaged_labels_are_refused(tmp_path, damage, reason):
    data = grey(tmp_path / "g.png", np.random.default_rng(0).integers(0, 9, (30, 40))).read_bytes()
    with pytest.raises(IccldError, match=reason):
        decode_ids(damage(data))


def test_a_huge_label_is_refused_before_it_is_decoded():
    with pytest.raises(IccldError, match="too large"):
        decode_ids(png(30000, 30000, 8, 0, b"\0" * 1000))


def test_label_map_with_ids():
    table = parse_label_map({"ids": {"7": "road", "9": "ignore"}, "channel": 1})
    assert table == LabelMap(CITYSCAPES, {7: "road", 9: None}, channel=1)
    assert table.names() == ("road",)


def test_label_map_that_ignores_what_it_lacks(tmp_path):
    table = parse_label_map({"ids": {"7": "road"}, "unknown": "ignore"})
    label = table.decode(grey(tmp_path / "m.png", all_ids([0, 7, 200])).read_bytes())
    assert label[0, :3].tolist() == [IGNORE, 0, IGNORE]


def test_label_map_whose_classes_take_in_others():
    table = parse_label_map({"ids": {"1": "car"}, "covers": {"truck": "car"}})
    assert table.covers == {"truck": "car"}


def test_label_map_with_colours_and_classes_of_its_own(tmp_path):
    path = tmp_path / "map.toml"
    path.write_text(
        '[colors]\n"#010203" = "quay"\n"10, 20, 30" = "crane"\n'
        '[label_space]\nname = "harbour"\n'
        'classes = [{name = "quay", color = [1, 1, 1]}, {name = "crane", color = [2, 2, 2]}]\n'
    )
    table = read_label_map(path)
    assert table.space == LabelSpace("harbour", ("quay", "crane"), ((1, 1, 1), (2, 2, 2)))
    raw = np.array([[(10, 20, 30), (1, 2, 3)]], np.uint8)
    assert table.decode(rgb(tmp_path / "m.png", raw).read_bytes()).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "either"),
        ({"ids": {}, "colors": {}}, "either"),
        ({"idz": {"1": "road"}}, "did you mean 'ids'"),
        ({"ids": {"1": "raod"}}, "did you mean 'road'"),
        ({"ids": {"256": "road"}}, "0 to 255"),
        ({"colors": {"1,2": "road"}}, "no colour"),
        ({"colors": {"1,2,300": "road"}}, "no colour"),
        ({"ids": {"1": "road"}, "unknown": "maybe"}, "error or ignore"),
        ({"ids": {"1": "road"}, "channel": 9}, "0, 1, 2 or 3"),
        ({"ids": {"1": "road"}, "label_space": {"name": "x"}}, "label space"),
        ({"ids": {"1": "car"}, "covers": {"truk": "car"}}, "did you mean 'truck'"),
        ({"ids": {"1": "car"}, "covers": {"truck": "bus"}}, "no class of this map"),
        ({"ids": {"1": "car", "2": "truck"}, "covers": {"truck": "car"}}, "itself"),
    ],
)
def test_wrong_label_maps(raw, message):
    with pytest.raises(IccldError) as caught:
        parse_label_map(raw)
    assert message in str(caught.value)


def test_label_map_file_errors(tmp_path):
    with pytest.raises(IccldError, match="no label map"):
        read_label_map(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[ids\n")
    with pytest.raises(IccldError, match=r"label map .* is not TOML"):
        read_label_map(tmp_path / "bad.toml")


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_mat_reader_survives_anything(data):
    for content in (data, b"\0" * 124 + b"\0\1IM" + data):
        try:
            read_integers(content, "split.mat")
        except IccldError as error:
            assert "split.mat" in str(error)
