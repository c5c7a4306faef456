"""Plugins: files and modules that register things, what is said of one that fails, and the record of a run."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path

import pytest
from tests.running import folder_of, run

from debeton.methods import METHODS
from debeton.studies import runner
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system import plugins
from debeton.system.errors import UsageError
from debeton.system.registry import Registry

METHOD = """
import debeton

@debeton.register_method("mine", "erm under another name", paper="none", needs="label")
def mine(run):
    return debeton.fit_phase(run, run.views["train"], debeton.CrossEntropy())
"""

pytestmark = pytest.mark.usefixtures("plugins_end_here")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A file that registers the method 'mine'."""
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    return file


def test_a_file_is_loaded_once_however_it_is_named(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    plugins.load_plugins(["mine.py", str(plugin), "./mine.py"])
    assert "mine" in METHODS
    assert plugins.plugin_words() == ["--plugins", str(plugin)]


def test_a_module_is_loaded_by_its_name(plugin, monkeypatch):
    monkeypatch.syspath_prepend(plugin.parent)
    plugins.load_plugins(["mine"])
    assert "mine" in METHODS
    assert plugins.plugin_words() == ["--plugins", "mine"]
    del sys.modules["mine"]


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("import debeton\n\nx = undefined\n", 3, "NameError: name 'undefined' is not defined"),
        ("import debeton\ndef f(:\n", 2, "SyntaxError: invalid syntax"),
        ("\nimport no_such_package\n", 2, "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line_and_cause(text, line, cause, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        plugins.load_plugins([str(file)])
    assert f"--plugins {file} cannot be loaded: {file}, line {line}: {cause}" in str(error.value)
    assert plugins.plugin_words() == []


def test_a_plugin_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match=r"--plugins nowhere/mine.py: there is no such file"):
        plugins.load_plugins(["nowhere/mine.py"])
    with pytest.raises(UsageError, match=r"--plugins no_such_module .*a file is named with its suffix"):
        plugins.load_plugins(["no_such_module"])


def test_a_name_that_is_registered_twice_names_both_places(tmp_path):
    file = tmp_path / "again.py"
    file.write_text(METHOD.replace('"mine"', '"erm"'))
    with pytest.raises(UsageError) as error:
        plugins.load_plugins([str(file)])
    own = re.escape(str(file))
    assert re.search(
        rf"method 'erm' is registered twice: in \S+methods/erm.py, line \d+ and in {own}, line 4", str(error.value)
    )


def test_a_registry_knows_where_a_name_was_registered():
    registry: Registry[int] = Registry("thing")
    registry.add("one", 1, "the first")
    assert re.match(rf"{re.escape(__file__)}, line \d+$", next(iter(registry)).place)


def test_the_entry_points_of_installed_packages_are_loaded(plugin, monkeypatch):
    monkeypatch.syspath_prepend(plugin.parent)
    folder = plugin.parent / "my_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[debeton.plugins]\nmine = mine\n")
    assert [entry.name for entry in importlib.metadata.entry_points(group=plugins.GROUP)] == ["mine"]
    plugins._load_entry_points.cache_clear()
    plugins.load_plugins([])
    plugins._load_entry_points.cache_clear()
    assert "mine" in METHODS
    assert plugins.plugin_words() == []  # the jobs of a study find it as this process does
    del sys.modules["mine"]


# --- the record of a run ------------------------------------------------------------------------------------------


def test_a_run_records_its_plugin_and_warns_when_it_has_changed(plugin, toy_args, tmp_path, capsys):
    words = [*toy_args, "--plugins", plugin, "--training.method", "mine", "--training.epochs", "1"]
    assert run(words) == 0
    folder = folder_of(tmp_path / "runs")
    (recorded,) = json.loads((folder / "plugins.json").read_text())
    assert (recorded["name"], recorded["file"], len(recorded["sha256"])) == (str(plugin), str(plugin), 64)
    assert run(words) == 0
    assert "warning" not in capsys.readouterr().err
    plugins._LOADED[str(plugin)] = plugins.Plugin(str(plugin), str(plugin), "0" * 64)
    assert run(words) == 0
    assert f"warning: the plugin {plugin} has changed since {folder} began" in capsys.readouterr().err


def test_a_run_whose_plugin_is_missing_says_which_to_give_and_runs_no_code(plugin, tmp_path):
    plugins.load_plugins([str(plugin)])
    plugins.record_plugins(tmp_path)
    plugins.require_plugins_of(tmp_path)
    plugins._LOADED.clear()
    with pytest.raises(UsageError, match=rf"was made with the plugin {plugin}, .* give it with --plugins {plugin}"):
        plugins.require_plugins_of(tmp_path)
    elsewhere = tmp_path / "moved" / "mine.py"
    elsewhere.parent.mkdir()
    elsewhere.write_text("")
    plugins.load_plugins([str(elsewhere)])
    plugins.require_plugins_of(tmp_path)


def test_a_run_without_plugins_records_nothing(tmp_path):
    plugins.record_plugins(tmp_path)
    assert list(tmp_path.iterdir()) == []
    plugins.require_plugins_of(tmp_path)


def test_a_study_passes_plugins_on_to_its_jobs_and_to_write_betons(plugin, tmp_path, monkeypatch):
    plugins.load_plugins([str(plugin)])
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: plugged\nbetons: writers/write_betons.py --dataset digits\nvariants: {mine: }\n"
        "settings: {training.method: mine}\n"
    )
    calls = []
    monkeypatch.setattr(runner.Runner, "execute", lambda self, command, *rest: calls.append(command) or 0)
    folders = StudyFolders(tmp_path, tmp_path / "runs", tmp_path / "data")
    states = JobStates(load_study(study).jobs(), folders)
    runner.Runner(states, 1, lambda line: None).run(states.jobs)
    start = [sys.executable, "-m", "debeton"]
    assert [command[:4] for command in calls] == [[*start, "write-betons"], [*start, "train"]]
    assert all(command[4:6] == ["--plugins", str(plugin)] for command in calls)
