"""Configuration: presets, files and assignments, and errors that name the key."""

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

import iccld_cli
from iccld_cli.config import RENAMED, Config, config_from_dict, load_config, preset_names
from iccld_cli.errors import IccldError
from iccld_cli.reading import tomllib

PACKAGE = Path(iccld_cli.__file__).parent
PRESETS = preset_names()


def sections():
    for name, field in Config.model_fields.items():
        if name not in ("preset", "recipe"):
            yield name, field.annotation


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_survives_toml(name):
    config = load_config(name)
    assert config.preset == name
    assert config_from_dict(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_why(name):
    lines = (PACKAGE / "presets" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {name}: ")


def test_the_documented_presets_are_there():
    assert {"tiny", "small", "base", "large", "xl", "paper-gta5", "paper-synthia"} <= set(PRESETS)


def test_the_base_is_kept_unless_a_preset_is_named():
    base = load_config("tiny", assignments=["optim.lr=0.5"])
    assert load_config(base=base).optim.lr == 0.5
    assert load_config("tiny", base=base).optim.lr == load_config("tiny").optim.lr
    assert load_config(base=base, assignments=["run.seed=3"]).run.seed == 3
    assert base.run.seed == 0


def test_file_then_options_then_assignments(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[optim]\nlr = 0.1\nwarmup = 7\n[run]\nseed = 1\n", encoding="utf-8")
    config = load_config(
        "tiny", file=path, overrides={"optim.lr": 0.2, "run.seed": 2, "run.device": None}, assignments=["run.seed=3"]
    )
    assert (config.optim.lr, config.optim.warmup, config.run.seed, config.run.device) == (0.2, 7, 3, "auto")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.lr=1e-4", 1e-4),
        (" optim.lr = 1e-4 ", 1e-4),
        ("run.compile=true", True),
        ("run.device=cuda:1", "cuda:1"),
        ("pseudo.gate=threshold", "threshold"),
        ('pseudo.gate="threshold"', "threshold"),
        ("data.crop=[512, 256]", (512, 256)),
        ("model.encoder=a=b", "a=b"),
        ("model.encoder=/data/mit b2", "/data/mit b2"),
        ("model.encoder=C:\\models\\mit", "C:\\models\\mit"),
    ],
)
def test_assignments(text, value):
    config = load_config("tiny", assignments=[text])
    section, name = text.partition("=")[0].strip().split(".")
    assert getattr(getattr(config, section), name) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.lr", "--set optim.lr=1e-4"),
        ("optim.rl=1", "unknown configuration key 'optim.rl': did you mean 'optim.lr'?"),
        ("optimizer.lr=1", "did you mean 'optim'?"),
        ("seg.iteration=1", "did you mean 'seg.iterations'?"),
        ("preset.x=1", "'preset.x' is not possible: preset is a value, not a section"),
        ("data.batch_size=0", "data.batch_size = 0 is not possible"),
        ("data.batch_size=many", "data.batch_size = 'many' is not possible"),
        ("data.crop=[100, 64]", "multiples of 32"),
        ("data.crop=64", "data.crop = 64 is not possible"),
        ("data.source_scale=[2, 1]", "low <= high"),
        ("model.unet_channels=[]", "at least one width"),
        ("model.unet_channels=[12]", "multiple of 8"),
        ("model.unet_channels=[8]", "multiple of 8 from 16 on"),
        ("optim.lr=nan", "optim.lr = nan is not possible"),
        ("optim.lr=inf", "optim.lr = inf is not possible"),
        ("run.device=gpu", "run.device = 'gpu' is not possible"),
        ("run=1", "run = 1 is not possible"),
    ],
)
def test_errors_name_the_key(text, words):
    with pytest.raises(IccldError) as caught:
        load_config("tiny", assignments=[text])
    assert words in str(caught.value)


def test_sizes_that_the_networks_cannot_have_are_refused():
    for text in ("model.latent_channels=30", "model.fuse_channels=10", "model.decoder_channels=20"):
        with pytest.raises(IccldError, match="multiple of"):
            load_config("tiny", assignments=[text])


def test_ranges_run_upwards():
    for text in (
        "augment.blur_sigma=[1.0, 0.1]",
        "augment.style_strength=[0.9, 0.1]",
        "pseudo.limits=[0.9, 0.1]",
        "optim.betas=[0.9, 1.0]",
    ):
        with pytest.raises(IccldError, match="is not possible"):
            load_config("tiny", assignments=[text])


def test_two_resolutions_need_crops_that_can_be_halved():
    load_config("tiny", assignments=["model.detail=true", "data.crop=[128, 64]"])
    for assignments in (["model.detail=true", "data.crop=[96, 64]"], ["data.crop=[96, 64]", "model.detail=true"]):
        with pytest.raises(IccldError, match="multiples of 64"):
            load_config("tiny", assignments=assignments)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(IccldError, match="did you mean 'small'"):
        load_config("smal")


def test_unreadable_files_are_explained(tmp_path):
    with pytest.raises(IccldError, match="no configuration file at"):
        load_config("tiny", file=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[optim\n")
    with pytest.raises(IccldError, match="is not TOML"):
        load_config("tiny", file=broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IccldError, match="is not UTF-8 text"):
        load_config("tiny", file=broken)
    with pytest.raises(IccldError):
        load_config("tiny", file=tmp_path)


def test_old_names_in_saved_configurations_mean_the_new_keys():
    """A tree as versions before the section `pseudo` saved it."""
    old = load_config("paper-gta5").model_dump(mode="json")
    pseudo = old.pop("pseudo") | {"quantile": 0.7, "limits": [0.2, 0.9]}
    names = {"gate": "confidence", "threshold": "confidence_threshold"}
    names |= {"quantile": "confidence_quantile", "limits": "confidence_range"}
    old["seg"] |= {names[key]: value for key, value in pseudo.items()}
    config = config_from_dict(old)
    assert config.pseudo.model_dump(mode="json") == pseudo
    assert config.seg == load_config("paper-gta5").seg
    assert "confidence" in old["seg"]  # what was given is left as it is


def test_removed_keys_of_saved_configurations_are_left_out(monkeypatch):
    monkeypatch.setitem(RENAMED, "run.gone", None)
    tree = load_config("tiny").model_dump(mode="json")
    assert config_from_dict(tree | {"run": tree["run"] | {"gone": 1}}) == load_config("tiny")
    with pytest.raises(IccldError, match=r"run\.gone was removed"):
        load_config("tiny", assignments=["run.gone=1"])


def test_old_names_that_a_person_writes_are_answered_with_the_new_ones(tmp_path):
    with pytest.raises(IccldError, match=r"seg\.confidence is now pseudo\.gate"):
        load_config("tiny", assignments=["seg.confidence=threshold"])
    path = tmp_path / "own.toml"
    path.write_text('[seg]\nconfidence = "threshold"\nconfidence_threshold = 0.5\n', encoding="utf-8")
    with pytest.raises(IccldError, match=r"own\.toml.*confidence is now pseudo\.gate, .*is now pseudo\.threshold"):
        load_config("tiny", file=path)


def test_new_names_are_keys():
    keys = {f"{s}.{k}" for s, m in sections() for k in m.model_fields}
    assert keys.isdisjoint(RENAMED)
    assert keys.issuperset(new for new in RENAMED.values() if new is not None)


def test_configurations_cannot_be_changed():
    with pytest.raises(ValidationError):
        load_config("tiny").optim.lr = 1.0


def test_every_key_is_documented():
    for name, model in sections():
        for key, field in model.model_fields.items():
            assert (field.description or "").endswith("."), f"{name}.{key} has no description"


def test_every_key_is_used():
    """A key that nothing reads would be a promise that nobody keeps."""
    used = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("config.py", "sections.py", "settings.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unused = [f"{s}.{k}" for s, m in sections() for k in m.model_fields if k not in used]
    assert unused == []
