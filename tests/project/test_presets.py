"""Every preset loads, and says first how it is run and what to expect."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import main
import pytest

from debeton.config import load
from debeton.data.sources import SOURCES
from debeton.methods import METHODS

ROOT = Path(main.__file__).resolve().parent
PRESETS = sorted((ROOT / "dataset_configs").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_loads_and_names_its_command_hardware_and_expected_numbers(preset):
    config = load([preset])
    assert config.data.dataset in SOURCES
    head = [line for line in preset.read_text().splitlines()[:12] if line.startswith("#")]
    text = "\n".join(head)
    assert f"python writers/write_betons.py --dataset {config.data.dataset}" in text
    assert f"python main.py --config-file dataset_configs/{preset.name}" in text
    assert "cores" in text
    assert "Expected" in text


def test_every_local_path_that_the_readmes_name_exists():
    for readme in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "src/debeton/methods/README.md"):
        text = readme.read_text()
        for word in text.replace("(", " ").replace(")", " ").replace("`", " ").split():
            word = word.strip(".,:;").partition("#")[0]  # without the heading of a link
            named = word.startswith(("scripts/", "writers/", "src/", "dataset_configs/", "docs/"))
            if named and not any(placeholder in word for placeholder in ("NAME", "*", "$")):
                assert (ROOT / word).exists() or (readme.parent / word).exists(), (readme.name, word)


def test_every_training_command_of_the_readmes_is_a_valid_configuration():
    commands = []
    for file in (ROOT / "README.md", *PRESETS):
        text = re.sub(r"\\\n[# ]*", "", file.read_text())  # lines that go on
        for line in text.splitlines():
            words = (
                shlex.split(line.lstrip("# "), comments=True) if "main.py --config-file dataset_configs" in line else []
            )
            if words:
                commands.append(words[words.index("main.py") + 1 :])
    assert len(commands) > len(PRESETS)
    for words in commands:
        args, overrides = main.parse(words)
        assert load([ROOT / file for file in args.config_file], overrides).training.method in METHODS
