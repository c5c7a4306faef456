"""The commands of docs/training.md, and its table of settings."""

from __future__ import annotations

import json
import re

import pytest
from tests.pages import ROOT, commands_of
from tests.running import folder_of, run

from debeton.config.section import SECTIONS

PAGE = "training.md"


@pytest.mark.parametrize("name", ["early", "accumulate", "layers", "classes"])
def test_a_command_of_the_page_trains(toy_args, tmp_path, name):
    """Its settings are the page's; the data are the toy set, and the epochs are few."""
    ((command, preset, _, *words),) = commands_of(PAGE, name)
    assert (command, preset) == ("train", "--config-file")
    assert run([*toy_args, *words, "--training.epochs", 2, "--training.batch_size", 128]) == 0
    config = (folder_of(tmp_path / "runs") / "config.yaml").read_text()
    for key, value in zip(words[::2], words[1::2]):
        assert key == "--training.batch_size" or f"{key.removeprefix('--training.')}: {float_text(value)}" in config


def float_text(value: str) -> str:
    """Return a value as YAML writes it."""
    return str(float(value)) if re.fullmatch(r"\d+e-\d+", value) else value


def test_the_table_names_settings_that_exist_with_values_that_they_accept():
    table = re.findall(
        r"^\| `(.*?) \|.*\| `(--training\.\S+) (\S+)` \|$", (ROOT / "docs" / PAGE).read_text(), re.MULTILINE
    )
    assert len(table) == 21
    for names, key, value in table:
        name = key.removeprefix("--training.")
        assert name in re.findall(r"\w+", names)
        SECTIONS["training"].settings[name].checker.check(value)


def test_a_phase_that_ends_early_is_in_phases_json_as_in_results_json(toy_args, tmp_path):
    words = ["--training.lr", "1e-9", "--training.momentum", 0, "--training.patience", 1, "--training.epochs", 4]
    assert run([*toy_args, *words, "--training.batch_size", 512, "--model.bn_mode", "eval"]) == 0
    folder = folder_of(tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text())
    (phase,) = json.loads((folder / "checkpoints" / "phases.json").read_text()).values()
    assert results["ended_early"] == {"train": phase["ended_early"]}
