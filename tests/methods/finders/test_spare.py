"""Tests of spare: clusters of an early network's outputs in whole runs, resumed, in two processes, and undivided."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from tests.running import folder_of, run, stopped_and_resumed

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.methods.finder import FINDERS
from debeton.methods.finders.spare import class_probabilities
from debeton.methods.parts.class_clusters import divide_classes
from debeton.methods.parts.clusters import ClusterRule
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.divergence import NotFinite
from debeton.train.run import open_run


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "groups.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def train_path(write_toy, tmp_path_factory) -> Path:
    """Return a training set of 256 rows, 90 % of them bias-aligned."""
    path = tmp_path_factory.mktemp("train") / "train.beton"
    write_toy(path, 256, 0.9)
    return path


@pytest.fixture(scope="module")
def spare_args(toy_betons, train_path) -> list[str]:
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": train_path,
        "model.arch": "small_resnet",
        "training.epochs": 1,
        "training.batch_size": 32,
        "training.lr": 0.05,
        "training.lr_scheduler": "constant",
        "training.augment": "pad_crop:2",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "groupdro",
        "groups.from": "spare",
        "groups.val": "inferred",
    }
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def finished(spare_args, tmp_path_factory) -> Path:
    outdir = tmp_path_factory.mktemp("spare")
    assert run([*spare_args, "--training.outdir", outdir]) == 0
    return folder_of(outdir)


@pytest.fixture
def opened(spare_args, finished, tmp_path):
    """Return (a run, its network after phase 'identify'), to look at in single steps."""
    with open_run(load([], [*spare_args, "--training.outdir", str(tmp_path)])) as one:
        network = one.network()
        network.load_state_dict(load_checkpoint(finished / "checkpoints/phase_identify.pt")["state_dict"])
        yield one, network


def test_a_run_finds_the_bias_conflicting_rows_as_the_smaller_clusters(finished, train_path):
    notes, beton = json.loads((finished / "results.json").read_text())["notes"]["groups"], open_beton(train_path)
    conflicting = beton.label != beton.attribute
    small = np.array([record["group"] != "0" for record in table_of(finished)])
    assert notes["recall"] == pytest.approx(small[conflicting].mean())
    assert notes["recall"] > 0.8  # by chance: the share of the rows, 0.1
    assert notes["precision"] > 0.3
    assert sum(notes["groups"].values()) == 256
    assert (notes["from"], notes["val"]) == ("spare", "inferred")


def test_the_clusters_are_those_of_scikit_learn_on_the_class_probabilities(opened, finished):
    one, network = opened
    view = one.views["train"]
    values, label = class_probabilities(one, network, view), view.label[view.rows]
    groups = np.array([int(record["group"]) for record in table_of(finished)])
    scores = np.array([float(record["score"]) for record in table_of(finished)])
    for code in range(2):
        x = values[label == code]
        fits = {k: KMeans(k, n_init=10, random_state=5).fit(x) for k in range(2, 6)}
        best = max(fits, key=lambda k: silhouette_score(x, fits[k].labels_))
        sizes = np.bincount(fits[best].labels_)
        assert np.bincount(groups[label == code]).tolist() == sorted(sizes, reverse=True)
        near = np.sort(fits[best].transform(x), axis=1)
        np.testing.assert_allclose(scores[label == code], 1 - near[:, 0] / near[:, 1], atol=1e-4)


def test_the_size_of_evaluation_batches_changes_no_cluster(opened, spare_args, tmp_path, finished):
    one, network = opened
    rule, view = ClusterRule("kmeans", most=5, restarts=10, mean="rows"), one.views["train"]
    with open_run(
        load([], [*spare_args, "--training.outdir", str(tmp_path / "two"), "--training.eval_batch_size", "7"])
    ) as two:
        values = class_probabilities(two, network, two.views["train"])
    label = view.label[view.rows]
    cluster, _ = divide_classes(values, label, ("a", "b"), rule).assign(values, label)
    assert cluster.tolist() == [int(record["group"]) for record in table_of(finished)]


def test_outputs_that_are_not_finite_are_an_error(opened):
    one, network = opened
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(NotFinite, match=r"the loss .* 'train'"):
        class_probabilities(one, network, one.views["train"])


@pytest.mark.parametrize("step", [5, 8 + 5])  # in the first phase; in the second
def test_a_stopped_run_ends_bit_equal_to_an_uninterrupted_one(finished, spare_args, tmp_path, monkeypatch, step):
    args = [*spare_args, "--training.outdir", tmp_path]
    stopped_and_resumed(args, monkeypatch, step)
    ours, theirs = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (finished, folder_of(tmp_path)))
    assert all(torch.equal(ours["state_dict"][k], theirs["state_dict"][k]) for k in ours["state_dict"])
    assert table_of(finished) == table_of(folder_of(tmp_path))
    notes = [json.loads((f / "results.json").read_text())["notes"] for f in (finished, folder_of(tmp_path))]
    assert notes[0] == notes[1]


def test_two_processes_find_the_clusters_of_one(spare_args, two_processes, tmp_path):
    args = [*spare_args, "--model.bn_mode", "eval"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    one, two = (table_of(folder_of(tmp_path / name)) for name in ("one", "two"))
    assert {record["group"] for record in one} >= {"0", "1"}
    assert [record["group"] for record in one] == [record["group"] for record in two]


def test_classes_that_no_silhouette_divides_stop_a_run_that_asks_for_groups(spare_args, tmp_path, capsys):
    args = [*spare_args, "--spare.min_silhouette", "1", "--groups.single", "error", "--training.outdir", tmp_path]
    assert run(args) == 1
    error = capsys.readouterr().err
    assert "groups.from 'spare' found one group in each class" in error
    assert "lower --spare.min_silhouette" in error


@pytest.mark.parametrize("words", [("max_clusters", "1"), ("min_silhouette", "1.5")], ids=lambda words: words[0])
def test_a_wrong_setting_is_refused(spare_args, tmp_path, capsys, words):
    assert run([*spare_args, "--training.outdir", tmp_path, f"--spare.{words[0]}", words[1]]) == 2
    assert f"spare.{words[0]}" in capsys.readouterr().err


def test_the_finder_s_cost_and_phase_are_declared(opened):
    one, _ = opened
    (phase,) = FINDERS.get("spare").phases(one)
    assert (phase.name, phase.settings.epochs, phase.settings.selection) == ("identify", 1, "last")
    assert "finder.epochs" in FINDERS.get("spare").cost
