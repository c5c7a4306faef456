"""Tests of george: clusters of a trained network's features, in a run that is stopped and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed

from debeton.config import load
from debeton.methods.finder import identify_settings
from debeton.methods.finders.george import GeorgeSettings, network_features
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.divergence import NotFinite
from debeton.train.run import open_run


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "groups.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def george_args(toy_betons) -> list[str]:
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "groups",
        "groups.from": "george",
        "george.max_clusters": 3,
    }
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def finished(george_args, tmp_path_factory) -> Path:
    outdir = tmp_path_factory.mktemp("george")
    assert run([*george_args, "--training.outdir", outdir]) == 0
    return folder_of(outdir)


def test_the_network_is_trained_as_long_as_the_model_unless_george_epochs_says_otherwise(finished, george_args):
    assert [line["epoch"] for line in lines_of(finished) if line["split"] == "train"] == [1, 2]
    assert identify_settings(load([], [*george_args, "--george.epochs", "7"]), GeorgeSettings).epochs == 7


def test_a_run_finds_the_bias_conflicting_rows_as_the_smaller_clusters(finished):
    notes, records = json.loads((finished / "results.json").read_text())["notes"]["groups"], table_of(finished)
    assert len(records) == 512
    small = np.array([record["group"] != "0" for record in records])
    conflicting = np.array([(r["label"] == "left") != (r["attribute"] == "dark") for r in records])
    assert notes["recall"] == pytest.approx(small[conflicting].mean())
    assert notes["recall"] > 0.8  # by chance: the share of the rows, 0.1
    assert notes["precision"] > 0.8


def test_a_stopped_run_leaves_the_same_table(finished, george_args, tmp_path, monkeypatch):
    stopped_and_resumed([*george_args, "--training.outdir", tmp_path], monkeypatch, 8 + 3)
    assert table_of(finished) == table_of(folder_of(tmp_path))
    notes = [json.loads((f / "results.json").read_text())["notes"] for f in (finished, folder_of(tmp_path))]
    assert notes[0] == notes[1]


def test_features_are_those_of_each_row_and_an_error_where_they_are_not_finite(finished, george_args, tmp_path):
    with open_run(load([], [*george_args, "--training.outdir", str(tmp_path)])) as one:
        network, view = one.network(), one.views["train"]
        network.load_state_dict(load_checkpoint(finished / "checkpoints/phase_identify.pt")["state_dict"])
        whole = network_features(one, network, view)
        part = network_features(one, network, view.subset(np.array([300, 7, 41])))
        np.testing.assert_allclose(part, whole[[300, 7, 41]], atol=1e-5)
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)
        with pytest.raises(NotFinite, match="a feature"):
            network_features(one, network, view)


@pytest.mark.parametrize(
    "words", [("components", "0"), ("max_clusters", "1"), ("parts", "0"), ("algorithm", "kmean")], ids=lambda w: w[0]
)
def test_a_wrong_setting_is_refused(george_args, tmp_path, capsys, words):
    assert run([*george_args, "--training.outdir", tmp_path, f"--george.{words[0]}", words[1]]) == 2
    assert f"george.{words[0]}" in capsys.readouterr().err
