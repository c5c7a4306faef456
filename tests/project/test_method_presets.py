"""Every method preset loads on top of a data set's. Its head names the method, the command and the paper."""

from __future__ import annotations

import shlex
from pathlib import Path

import main
import pytest

from debeton.config import load
from debeton.methods import METHODS

ROOT = Path(main.__file__).resolve().parent
PRESETS = sorted((ROOT / "dataset_configs" / "methods").glob("*.yaml"))
DOMINOES = ROOT / "dataset_configs" / "dominoes.yaml"


def head(preset: Path) -> list[str]:
    lines = preset.read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_loads_on_dominoes_and_names_its_method(preset: Path):
    config, data = load([DOMINOES, preset]), load([DOMINOES])
    assert config.training.method in METHODS
    assert preset.stem.startswith(config.training.method)
    assert config.data.dataset == data.data.dataset  # it leaves the data alone
    assert load([preset]).training.method == config.training.method


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_says_what_it_is_and_gives_a_command_that_is_valid(preset: Path):
    text = head(preset)
    assert len(text[0]) > 20
    assert len(text) >= 5
    (command,) = [line for line in text if "main.py" in line]
    words = shlex.split(command.lstrip("# "))
    args, overrides = main.parse(words[words.index("main.py") + 1 :])
    assert args.config_file[-1] == f"dataset_configs/methods/{preset.name}"
    assert load([ROOT / file for file in args.config_file], overrides).training.method in METHODS


def test_there_are_presets():
    balancing = {
        "resample",
        "resample_class",
        "reweight",
        "reweight_class",
        "subg",
        "suby",
        "groupdro",
        "cvar",
        "mixup",
    }
    assert balancing <= {preset.stem for preset in PRESETS}
