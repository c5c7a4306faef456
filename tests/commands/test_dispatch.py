"""The command `debeton`, and the scripts that start the same modules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import debeton
from debeton.commands import dispatch, report
from debeton.commands.list_names import KINDS, LONG
from debeton.system.errors import UsageError, run_command
from debeton.system.project import SCRIPTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher sets the program's name; it stays within the test."""
    monkeypatch.setattr(sys, "argv", ["debeton"])


def command(*words: str) -> int:
    """Run `debeton` in this process; its exit status."""
    return run_command(lambda: dispatch.main(words))


def test_help_has_one_line_for_each_command(capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    for name, entry in dispatch.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", text, re.MULTILINE)


def test_without_a_word_the_help_goes_to_standard_error_and_the_status_is_2(capsys):
    assert command() == 2
    assert "usage: debeton COMMAND" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert command("--version") == 0
    assert capsys.readouterr().out == f"debeton {debeton.__version__}\n"


def test_an_unknown_command_names_the_nearest_with_status_2(capsys):
    assert command("trian", "--dry-run") == 2
    assert "unknown command 'trian'; did you mean 'train'? known: train, write-betons" in capsys.readouterr().err


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_the_help_of_a_command_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        command(name, "--help")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: debeton {name} ")


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_a_script_starts_its_command_and_is_a_few_lines(script, name, monkeypatch, capsys):
    text = (ROOT / script).read_text()
    assert len(text.splitlines()) <= 30
    assert "sys.path" not in text
    assert f'run_script("{name}")' in text
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as stop:
        dispatch.run_script(name)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {Path(script).name} ")


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "debeton", "--version"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout == f"debeton {debeton.__version__}\n"


def test_the_benchmark_script_runs_the_package_of_its_checkout_from_any_folder():
    words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2
    assert "unknown benchmark 'nothing'" in done.stderr


# --- list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_list_prints_one_kind(kind, capsys):
    assert command("list", kind) == 0
    expected = {"methods": "erm", "datasets": "dominoes", "triggers": "square", "augmentations": "flip"}
    expected |= {"generators": "halves", "models": "resnet18", "finders": "jtt", "presets": "methods/dfr"}
    expected |= {"timm": "timm:resnet50", "open_clip": "open_clip:RN50@openai"}
    assert re.search(rf"^{expected[kind]}( |$)", capsys.readouterr().out, re.MULTILINE)


def test_list_without_a_kind_prints_all_but_networks_and_presets(capsys):
    assert command("list") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(":")] == [
        f"{kind}:" for kind in KINDS if kind not in LONG
    ]
    assert f"The presets are in {ROOT / 'dataset_configs'}." in out


# --- report and a folder that is called like a kind ---------------------------------------------------------------


def test_a_kind_is_a_kind_and_a_folder_of_its_name_is_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.asked_kind(["runs", "ddb"]) == (None, [Path("runs"), Path("ddb")])
    assert report.asked_kind(["ddb", "runs"]) == (report.kinds()["ddb"], [Path("runs")])
    with pytest.raises(UsageError, match="ddb needs runs"):
        report.asked_kind(["ddb"])
    (tmp_path / "ddb").mkdir()
    assert report.asked_kind(["ddb"]) == (None, [Path("ddb")])
    assert report.asked_kind(["./ddb", "runs"]) == (None, [Path("ddb"), Path("runs")])
    assert capsys.readouterr().err == ""
    assert report.asked_kind(["ddb", "runs"]) == (report.kinds()["ddb"], [Path("runs")])
    assert "write ./ddb for the folder" in capsys.readouterr().err
