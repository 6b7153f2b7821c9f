"""Any training state, index, description and settings at all: what they should be, or one clear line, and soon.

Headers of model files have theirs in test_model_files.py.
"""

import json
import time

import pytest
import torch
import training_runs as runs
from accelerate import Accelerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from iccld_cli.config import Config, load_config
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.names import shown
from iccld_cli.parallel.layout import Replicated
from iccld_cli.train.loop import extras_problem
from iccld_cli.train.state import Contents, list_states, load_state, save_state

WHOLE = Replicated(Accelerator(cpu=True))

BOUNDED = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, 7, 64, 255, 256, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["train", "road", "../a.png", "/etc/passwd", "C:/a", "\ud800", "\x1b[2J", "a\0b"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))


def leaves(tree, path=()):
    """Paths of everything in nested lists and dictionaries."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))


def mutate(data, tree):
    """Change one to three places of nested lists and dictionaries: another value, one more, or one less."""
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(leaves(tree)) or [("new",)]))
        place = tree
        for key in path[:-1]:
            place = place[key]
        how = data.draw(st.integers(0, 5))
        if isinstance(place, dict) and how == 0:
            place[data.draw(st.text(max_size=8))] = data.draw(VALUES)
        elif how == 1 and path[-1] in (place if isinstance(place, dict) else range(len(place))):
            del place[path[-1]]
        else:
            place[path[-1]] = data.draw(VALUES)
    return tree


def sound_or_one_line(use):
    """Call a function that may refuse; what it gives, None where it refused."""
    began = time.process_time()
    try:
        return use()
    except IccldError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1500 and shown(text) == text
        return None
    finally:
        assert time.process_time() - began < 3


def contents():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.rand(2, 3)).square().mean().backward()
    optimizer.step()
    extras = {"window": [{"loss": 0.5}], "health": [{"disc": 1.0}], "validation": {"miou": 3.0}, "scaler": None}
    return Contents(
        {"net": network},
        {"adam": optimizer},
        {"seed": 1, "data": {"classes": ["road"]}},
        extras,
        Replicated(Accelerator(cpu=True)),
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    save_state(run, "stage1", 7, contents(), keep=1)
    return list_states(run)[0], (run / "state/stage1-00000007/state.json").read_text()


@BOUNDED
@given(data=st.data(), old=st.booleans())
def test_b17_b20_any_training_state_loads_or_is_one_line(state, data, old):
    saved, text = state
    record = json.loads(text)
    if old:  # those of older versions have no checksum over this part
        del record["record_sha256"]
    before = dict(record)
    changed = mutate(data, record)
    old = isinstance(changed, dict) and "record_sha256" not in changed
    (saved.path / "state.json").write_text(json.dumps(changed), encoding="utf-8")
    found = sound_or_one_line(lambda: load_state(saved, contents()))
    if found is not None:
        assert found[0] == 7
        assert extras_problem(found[1], scaled=False) is None or old
        assert old or record["extras"] == before["extras"]


@BOUNDED
@given(data=st.binary(max_size=200))
def test_b17_any_bytes_in_place_of_a_state_are_one_line(state, data):
    (state[0].path / "state.json").write_bytes(data)
    assert sound_or_one_line(lambda: load_state(state[0], contents())) is None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = runs.make_dataset(tmp_path_factory.mktemp("set") / "mine", (("train", 2),), size=(24, 16))
    return root, (root / "dataset.json").read_text(), (root / "index.jsonl").read_text()


def read_all(root):
    """Open a set and read all that it names; paths that were read."""
    found = PreparedDataset(root)
    frames = list(found.iter_frames())
    for frame in frames:
        image = found.read_image(frame)
        assert image.shape == (frame.height, frame.width, 3)
        if frame.label:
            assert found.read_label(frame).shape == image.shape[:2]
    return frames


@BOUNDED
@given(data=st.data())
def test_a13_b17_any_index_is_read_or_is_one_line_and_leads_nowhere_else(world, data):
    root, description, index = world
    (root / "dataset.json").write_text(description)
    lines = [json.loads(line) for line in index.splitlines()]
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = mutate(data, lines[at])
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "index.jsonl").write_text(text, encoding="utf-8")
    for frame in sound_or_one_line(lambda: read_all(root)) or []:
        for name in filter(None, (frame.image, frame.label)):
            assert (root / name).resolve().is_relative_to(root.resolve())


@BOUNDED
@given(data=st.data())
def test_b17_any_description_of_a_set_is_read_or_is_one_line(world, data):
    root, description, index = world
    (root / "index.jsonl").write_text(index)
    text = json.dumps(mutate(data, json.loads(description)))
    (root / "dataset.json").write_text(text, encoding="utf-8")
    sound_or_one_line(lambda: read_all(root))


@BOUNDED
@given(data=st.binary(max_size=300), name=st.sampled_from(["dataset.json", "index.jsonl"]))
def test_b17_any_bytes_in_place_of_a_set_s_files_are_one_line(world, data, name):
    root, description, index = world
    (root / "dataset.json").write_text(description)
    (root / "index.jsonl").write_text(index)
    (root / name).write_bytes(data)
    sound_or_one_line(lambda: read_all(root))


KEYS = [".".join(path) for path in leaves(load_config("tiny").model_dump(mode="json")) if all(map(str, path))
        and not any(isinstance(part, int) for part in path)]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=20),
    VALUES.map(lambda value: json.dumps(value)),
    st.sampled_from(["nan", "inf", "-1", "1e999", "[[]]", "{}", "{a = {b = 1}}", "9" * 5000, "0x7f", "true", "[1, 2]"]),
)


@BOUNDED
@given(given_keys=st.lists(st.tuples(st.one_of(st.sampled_from(KEYS), st.text(max_size=12)), TEXTS), max_size=4))
def test_b17_any_settings_give_a_configuration_or_one_line(given_keys):
    assignments = [f"{key}={value}" for key, value in given_keys]
    found = sound_or_one_line(lambda: load_config("tiny", assignments=assignments))
    if found is not None:
        assert isinstance(found, Config)
        assert load_config(base=found).to_toml() == found.to_toml()


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory):
    return tmp_path_factory.mktemp("settings") / "c.toml"


@BOUNDED
@given(
    text=st.one_of(
        st.binary(max_size=200),
        st.lists(st.tuples(st.sampled_from(KEYS), TEXTS), max_size=5).map(
            lambda pairs: "\n".join(f"{key} = {value}" for key, value in pairs).encode("utf-8", "surrogatepass")
        ),
    )
)
def test_b17_any_settings_file_gives_a_configuration_or_one_line(settings_file, text):
    settings_file.write_bytes(text)
    sound_or_one_line(lambda: load_config("tiny", file=settings_file))
