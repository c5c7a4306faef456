"""The command that write-betons prints for the training run to come."""

from __future__ import annotations

import pytest

from debeton.commands import train
from debeton.commands.next_command import next_command
from debeton.config import load
from debeton.data.sources import SOURCES
from debeton.data.spec import DatasetSpec
from debeton.system.project import checkout, find_preset

# One's own data, sets under their own names, and sets that the preset of one's own data trains.
WITHOUT_PRESET = (
    *("folder", "huggingface", "webdataset", "wilds"),
    *("spuco_birds", "spuco_dogs", "spuco_sun", "living17", "nico_plus_plus"),
    *("imagenet_a", "imagenet_c", "imagenet_r", "imagenet_sketch", "imagenet_v2"),
)


@pytest.mark.parametrize("source", [name for name in SOURCES.names() if name not in WITHOUT_PRESET])
def test_every_published_set_is_trained_with_its_own_preset(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{source}_train.beton").touch()
    command = next_command(source, DatasetSpec(source, ("a", "b")), tmp_path)
    assert command.words == ("debeton", "train", "--config-file", source, "--training.data_root", str(tmp_path))
    args, overrides = train.parse(command.words[2:])
    config = load([find_preset(file) for file in args.config_file], overrides)
    assert (config.data.dataset, config.training.data_root) == (source, str(tmp_path))


def test_in_a_checkout_the_command_starts_the_script(tmp_path, monkeypatch):
    monkeypatch.chdir(checkout())
    (tmp_path / "digits_train.beton").touch()
    command = next_command("digits", DatasetSpec("digits", ("a", "b")), tmp_path)
    assert command.lines() == [
        f"next: python main.py --config-file dataset_configs/digits.yaml --training.data_root {tmp_path}"
    ]


def test_a_variant_of_a_set_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other_train.beton").touch()
    words = next_command("digits", DatasetSpec("other", ("a", "b")), tmp_path).words
    assert words[4:6] == ("--data.dataset", "other")


def test_without_a_training_beton_there_is_no_command(tmp_path):
    assert next_command("digits", DatasetSpec("digits", ("a", "b")), tmp_path) is None
