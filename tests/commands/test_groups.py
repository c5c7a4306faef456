"""Tests of `debeton groups`: the printed table, its copy, a finished run, help, and words that are wrong."""

from __future__ import annotations

import csv
import re

import pytest
from tests.running import folder_of, run

from debeton.commands import groups, list_names
from debeton.methods import FINDERS
from debeton.system.errors import run_command
from debeton.system.plugins import load_plugins

PLUGIN = """
import numpy as np
import debeton


@debeton.register_finder("thirds", "every third row", paper="none", needs="label", cost="none")
def thirds(run):
    def groups_of(view):
        marked = np.arange(len(view)) % 3 == 0
        return debeton.Groups(marked, marked.astype(float))

    return debeton.found_groups(run, run.network(), groups_of)


@debeton.register_method("mine", "erm on marked rows alone", paper="none", needs="label, attribute")
def mine(run):
    view = run.views["train"]
    return debeton.fit_phase(run, view.subset(view.attribute[view.rows] == 1), debeton.CrossEntropy())
"""


def command(words: list[str]) -> int:
    return run_command(lambda: groups.main(words))


def test_the_groups_are_printed_and_copied_and_a_finished_run_prints_them_again(toy_args, tmp_path, capsys):
    out = tmp_path / "my groups.csv"
    words = [*toy_args, "--groups.from", "cnc", "--out", str(out)]
    assert command(words) == 0
    first = capsys.readouterr().out.splitlines()
    folder = folder_of(tmp_path / "runs")
    assert out.read_bytes() == (folder / "groups.csv").read_bytes()
    with out.open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "label", "attribute", "group", "score"]
    assert len(table) == 512
    for label in ("left", "right"):
        count = sum((line["label"], line["group"]) == (label, "left") for line in table)
        assert any(re.fullmatch(rf"  {label}, predicted left +{count}", line) for line in first)
    reading = f"--data.pseudo_groups '{out}' --data.pseudo_column group --data.pseudo_kind prediction"
    assert first[-1] == f"train on it: {reading}"
    assert sum(re.fullmatch(r"(precision|recall): [\d.]+ % of the .*", line) is not None for line in first) == 2
    out.unlink()
    assert command(words) == 0
    assert capsys.readouterr().out.splitlines()[-len(first) :] == first
    assert out.is_file()


def test_help_names_the_words_of_the_command(capsys):
    with pytest.raises(SystemExit) as left:
        groups.main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "--out FILE" in said
    assert "--groups.from jtt" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param([], "groups.from is 'attribute', which finds nothing", id="no finder"),
        pytest.param(["--groups.from", "jt"], "did you mean 'jtt'?", id="unknown finder"),
        pytest.param(["--groups.form", "jtt"], "groups.form", id="unknown setting"),
        pytest.param(["--groups.from", "jtt", "--out", "."], "--out . is a folder", id="a folder"),
    ],
)
def test_words_that_are_wrong_are_refused_with_status_2(toy_args, tmp_path, capsys, more, said):
    assert command([*toy_args, *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


def test_finders_are_listed(capsys):
    assert list_names.main(["finders"]) == 0
    listed = capsys.readouterr().out
    assert run(["--list", "finders"]) == 0
    assert capsys.readouterr().out == listed
    assert [line.split()[0] for line in listed.splitlines()] == FINDERS.names()


@pytest.mark.usefixtures("plugins_end_here")
def test_a_finder_and_a_trainer_of_a_plugin_work_together(toy_args, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    load_plugins([str(file)])
    assert run([*toy_args, "--training.method", "mine", "--groups.from", "thirds", "--training.epochs", "1"]) == 0
    folder = folder_of(tmp_path / "runs")
    log = (folder / "log.txt").read_text()
    assert "groups from thirds: 4 groups, 171 of 512 rows called bias-conflicting" in log
    assert "171 rows in batches of 64" in log
