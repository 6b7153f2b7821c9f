"""`doctor` on broken installations: each dependency is imported in a process of its own, and mends are named."""

import pytest

from iccld_cli.inference import doctor


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A function: package, version, source -> it is installed, for this process and those that it starts."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, version, source):
        (tmp_path / f"{name}.py").write_text(source)
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return install


@pytest.fixture
def imports(monkeypatch):
    """A function: needed packages, optional ones -> (problems, warnings)."""

    def examine(needed, optional=()):
        monkeypatch.setattr(doctor, "IMPORTED", {name: name for name in needed})
        monkeypatch.setattr(doctor, "IMPORTED_IF_THERE", {name: name for name in optional})
        problems, warnings = [], []
        doctor.check_imports(problems, warnings)
        return problems, warnings

    return examine


def test_a_mismatched_torchvision_is_named_and_not_its_victims(site, imports):
    site("torchvision", "0.20.0", "raise RuntimeError('operator torchvision::nms does not exist')")
    site("victim", "1.0", "try:\n    import torchvision\nexcept Exception as e:\n    raise RuntimeError('lazy') from e")
    problems, warnings = imports(["victim", "json"], ["torchvision"])
    assert warnings == []
    (said,) = problems
    assert "torchvision 0.20.0 cannot be imported (RuntimeError: operator torchvision::nms does not exist)" in said
    assert "keeps victim from being imported" in said
    assert "pip uninstall torchvision" in said


def test_a_broken_torchvision_that_hurts_nobody_is_a_warning(site, imports):
    site("torchvision", "0.20.0", "raise RuntimeError('no')")
    problems, warnings = imports(["json"], ["torchvision"])
    assert problems == []
    assert "pip uninstall torchvision" in warnings[0]


def test_every_broken_dependency_is_told_with_its_mend(site, imports):
    site("half", "2.5", "import not_there_at_all")
    site("crashes", "1.0", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    site("fine", "1.0", "")
    problems, warnings = imports(["half", "crashes", "fine", "absent_package"])
    assert warnings == []
    assert len(problems) == 3
    assert "half 2.5 cannot be imported (ModuleNotFoundError: No module named 'not_there_at_all')" in problems[0]
    assert "pip install not_there_at_all" in problems[0]
    assert "signal 11" in problems[1]
    assert "pip install --force-reinstall --no-deps crashes==1.0" in problems[1]
    assert problems[2] == "absent_package is not installed; mend: pip install absent_package"


def test_what_works_is_tried_in_one_process(imports, monkeypatch):
    calls = []
    monkeypatch.setattr(doctor, "_reason", lambda code: calls.append(code))
    assert imports(["json", "csv"]) == ([], [])
    assert len(calls) == 1
