"""The project's own files, in a checkout and in an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from debeton.system import project
from debeton.system.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package that is installed, with two presets; the current folder is another one."""
    package = tmp_path / "site-packages" / "debeton"
    (package / "dataset_configs" / "studies").mkdir(parents=True)
    for name in ("pets", "studies/quick"):
        (package / "dataset_configs" / f"{name}.yaml").write_text("# one line\n")
    monkeypatch.setattr(project, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    return package


def test_a_checkout_is_its_own_root_and_has_its_presets():
    assert project.checkout() == project.project_root() == ROOT
    assert project.presets_folder() == ROOT / "dataset_configs"
    assert {"dominoes", "methods/dfr", "studies/quick"} <= set(project.preset_names())


def test_an_installed_package_carries_its_presets_and_studies_count_from_the_current_folder(installed, tmp_path):
    assert project.checkout() is None
    assert project.project_root() == tmp_path
    assert project.preset_names() == ["pets", "studies/quick"]


def test_a_file_goes_before_a_preset_of_the_same_name(installed, tmp_path):
    assert project.find_preset("pets.yaml") == installed / "dataset_configs" / "pets.yaml"
    (tmp_path / "pets.yaml").write_text("")
    assert project.find_preset("pets.yaml") == Path("pets.yaml")
    assert project.find_preset("pets.yaml", root=tmp_path) == tmp_path / "pets.yaml"


@pytest.mark.parametrize("name", ["pets", "pets.yaml", "dataset_configs/pets.yaml", "dataset_configs/pets"])
def test_a_preset_is_found_by_every_spelling_of_its_name(installed, name):
    assert project.find_preset(name) == installed / "dataset_configs" / "pets.yaml"


def test_a_study_needs_no_folder_before_its_name(installed):
    found = project.find_preset("quick", kind="study", below="studies")
    assert found == installed / "dataset_configs" / "studies" / "quick.yaml"


@pytest.mark.parametrize("name", ["pet", "/pets.yaml"])
def test_what_is_neither_names_the_nearest_and_the_folder(installed, name):
    with pytest.raises(UsageError, match=rf"no config file at {name}; did you mean 'pets'\? .*{installed}"):
        project.find_preset(name)


def test_a_script_is_started_where_it_is_and_as_a_command_where_it_is_not(tmp_path):
    assert project.program("main.py", ROOT) == [sys.executable, str(ROOT / "main.py")]
    assert project.program("main.py", tmp_path) == [sys.executable, "-m", "debeton", "train"]
    assert project.program("scripts/studies/animals.py", tmp_path)[1:] == [str(tmp_path / "scripts/studies/animals.py")]
