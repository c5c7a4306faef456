"""Tests of jtt: only rows that the first network gets wrong are repeated, and a resumed run repeats the same."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import ROOT, assert_same_training, folder_of, run, stopped_and_resumed

from debeton.config import load, phase_settings
from debeton.data.beton.reading import open_beton
from debeton.data.loader.order import epoch_order
from debeton.data.spec import DatasetSpec
from debeton.data.views.row_lists import pseudo_grouped, read_marks
from debeton.data.views.view import View
from debeton.methods import METHODS
from debeton.methods.finder import identify_settings
from debeton.methods.finders.jtt import ERROR_SET, JttSettings, error_set
from debeton.methods.jtt import upweighted
from debeton.methods.parts.marked_rows import describe_marks, minority_rows, read_or_write_table, write_table
from debeton.nets.checkpoint import load_checkpoint, weights_hash
from debeton.system.errors import DataError
from debeton.train.evaluation import Evaluation, evaluate
from debeton.train.run import open_run

SPEC = DatasetSpec("toy", ("a", "b"), ("x", "y"), aligned=((0,), (1,)))


def errors_of(folder: Path) -> list[int]:
    with (folder / ERROR_SET).open() as file:
        return [int(record["error"]) for record in csv.DictReader(file)]


@pytest.fixture(scope="session")
def paper_view(paper_view) -> Callable[..., View]:
    """Return paper_view(label, attribute, spec) with this file's own spec; one path has a comma in it."""

    def make(label: list[int], attribute: list[int], spec: DatasetSpec = SPEC) -> View:
        names = [f"{i},odd/{i}.jpg" if i == 2 else f"dir/{i}.jpg" for i in range(len(label))]
        return paper_view(label, attribute, spec, path=np.array(names))

    return make


@pytest.fixture(scope="module")
def train_path(write_toy, tmp_path_factory) -> Path:
    """Return a training set of 256 rows, 90 % of them bias-aligned."""
    path = tmp_path_factory.mktemp("train") / "train.beton"
    write_toy(path, 256, 0.9)
    return path


@pytest.fixture(scope="module")
def jtt_args(toy_betons, train_path) -> list[str]:
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": train_path,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 32,
        "training.lr": 0.05,
        "training.lr_scheduler": "constant",
        "training.eval_epochs": 2,
        "training.augment": "pad_crop:2",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "jtt",
        "jtt.epochs": 1,
        "jtt.upweight": 2,
        "jtt.lr": 0.01,
    }
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def finished(jtt_args, tmp_path_factory) -> Path:
    outdir = tmp_path_factory.mktemp("jtt")
    assert run([*jtt_args, "--training.outdir", outdir]) == 0
    return folder_of(outdir)


# --- the view ------------------------------------------------------------------------------------


def test_an_error_row_occurs_upweight_plus_one_times_and_a_correct_row_once(paper_view):
    view = paper_view([0, 1, 0, 1, 0], [0, 0, 1, 1, 0]).subset(np.array([4, 1, 3, 0]))
    error = np.array([False, True, False, True])
    more = upweighted(view, error, 3)
    assert sorted(more.rows.tolist()) == [0] * 4 + [1] * 4 + [3, 4]
    assert len(more) == len(view) + 3 * 2
    assert more.group_counts().tolist() == [1 + 4, 0, 4, 1]
    for order in ("random", "quasi_random", "sequential"):
        drawn = more.rows[epoch_order(more, order, 0, 0)]
        assert sorted(drawn.tolist()) == sorted(more.rows.tolist())


def test_upweight_0_and_an_empty_error_set_leave_the_view_as_it_is(paper_view):
    view = paper_view([0, 1, 0, 1], [0] * 4)
    for error, upweight in (([True, False, True, False], 0), ([False] * 4, 7)):
        assert upweighted(view, np.array(error), upweight).rows.tolist() == view.rows.tolist()


def test_the_error_set_has_the_misclassified_rows_alone(toy_args, monkeypatch):
    with open_run(load([], toy_args)) as opened:
        view = opened.views["train"]
        predicted = view.label[view.rows].copy()
        wrong = np.zeros(len(view), bool)
        wrong[[3, 70, 511]] = True
        predicted[wrong] = 1 - predicted[wrong]
        evaluation = Evaluation({}, torch.from_numpy(predicted), torch.zeros(len(view)))
        monkeypatch.setattr("debeton.methods.finder.evaluate_view", lambda run, model, view: evaluation)
        error = minority_rows(error_set(opened, torch.nn.Identity()).train)
        repeated = upweighted(view, error, 5)
    assert np.flatnonzero(error).tolist() == [3, 70, 511]
    rows, counts = np.unique(repeated.rows, return_counts=True)
    assert rows[counts > 1].tolist() == [3, 70, 511]
    assert set(counts[counts > 1].tolist()) == {6}


# --- the file ------------------------------------------------------------------------------------


def test_the_error_set_is_read_back_and_serves_as_pseudo_groups(tmp_path, paper_view):
    view = paper_view([0, 1, 0, 1, 1], [0, 0, 1, 1, 0]).subset(np.array([4, 2, 0, 1]))
    error = np.array([True, True, False, False])
    path = tmp_path / ERROR_SET
    write_table(path, view, {"error": error.astype(int)})
    assert path.read_text().splitlines()[:3] == ["path,label,attribute,error", "dir/4.jpg,b,x,1", '"2,odd/2.jpg",a,y,1']
    assert read_marks(path, view, "error").tolist() == error.tolist()
    grouped = pseudo_grouped(view, path, "error")
    assert grouped.attribute[view.rows].tolist() == [1, 1, 0, 0]
    assert describe_marks(grouped, error) == describe_marks(view, error)  # in the set's own groups


@pytest.mark.parametrize("change", ["2,x,y,1\n", "", "dir/0.jpg,a,x,2\n", "other.jpg,a,x,0\n", "dir/0.jpg\n", "\n"])
def test_an_error_set_of_other_rows_is_refused(tmp_path, change, paper_view):
    view, path = paper_view([0], [0]), tmp_path / ERROR_SET
    network, read = torch.nn.Linear(2, 2), partial(read_marks, column="error")
    read_or_write_table(path, view, network, lambda: {"error": [0]}, read)
    path.write_text("path,label,attribute,error\n" + change)
    with pytest.raises(DataError, match=r"is not what was written: its sha256 .* belongs to another run: remove it"):
        read_or_write_table(path, view, network, dict, read)
    path.with_suffix(".made_of.json").write_text(json.dumps({"weights": weights_hash(network)}))  # an older version's
    with pytest.raises(DataError, match="belongs to another run: remove it"):
        read_or_write_table(path, view, network, dict, read)


def test_an_error_set_of_another_network_is_computed_again_with_a_warning(tmp_path, paper_view, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("debeton"), "propagate", False)
    view, path, read = paper_view([0, 1], [0, 1]), tmp_path / ERROR_SET, partial(read_marks, column="error")
    first, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for network, errors, expected in ((first, [0, 1], [0, 1]), (first, [1, 1], [0, 1]), (other, [1, 1], [1, 1])):
        found = read_or_write_table(path, view, network, lambda errors=errors: {"error": errors}, read)
        assert found.astype(int).tolist() == expected
    assert caplog.messages == [f"warning: {path} is not of this run's network, and is computed again"]


@pytest.mark.parametrize(
    "damage", ['{"weights": 5}', '{"weights": NaN}', "[" * 5000, ""], ids=["number", "NaN", "nested", "empty"]
)
def test_a_damaged_file_beside_the_error_set_is_named_and_the_set_is_computed_again(
    tmp_path, paper_view, caplog, monkeypatch, damage
):
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    view, path, read = paper_view([0, 1], [0, 1]), tmp_path / ERROR_SET, partial(read_marks, column="error")
    network, beside = torch.nn.Linear(2, 2), path.with_suffix(".made_of.json")
    for errors in ([0, 1], [1, 1]):
        found = read_or_write_table(path, view, network, lambda errors=errors: {"error": errors}, read)
        assert found.astype(int).tolist() == errors
        beside.write_text(damage)
    assert caplog.messages[0].startswith(f"warning: {beside}")
    assert "the table is computed again" in caplog.messages[0]


# --- what is found out ---------------------------------------------------------------------------


def test_precision_and_recall_are_those_of_bias_conflicting_rows(paper_view):
    # groups ax: 3 rows, 1 error; ay: 2 rows, 1 error; bx: none; by: 3 rows, 1 error
    view = paper_view([0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1])
    error = np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    description = describe_marks(view, error, "error")
    assert (description["rows"], description["errors"]) == (8, 3)
    assert description["precision"] == pytest.approx(1 / 3)
    assert description["recall"] == 0.5
    assert description["error_rate_aligned"] == pytest.approx(2 / 6)
    assert description["by_class"] == {"a": {"precision": 0.5, "recall": 0.5}, "b": {"precision": 0.0, "recall": None}}
    assert description["by_group"]["a, y"] == {"rows": 2, "errors": 1, "error_rate": 0.5, "share": pytest.approx(1 / 3)}
    assert description["by_group"]["b, x"] == {"rows": 0, "errors": 0, "error_rate": None, "share": 0.0}
    json.dumps(description)


def test_without_a_pairing_precision_and_recall_are_undefined(paper_view):
    view = paper_view([0, 1, 0], [0] * 3, DatasetSpec("plain", ("a", "b")))
    description = describe_marks(view, np.array([True, False, False]), "error")
    assert (description["precision"], description["recall"], description["error_rate_aligned"]) == (None, None, None)
    assert "by_class" not in description
    assert description["by_group"]["a"]["error_rate"] == 0.5


# --- settings ------------------------------------------------------------------------------------


def test_the_first_phase_has_training_s_settings_unless_it_is_given_its_own():
    training = phase_settings(load())
    assert identify_settings(load(), JttSettings) == replace(training, epochs=1, selection="last")
    own = ["--jtt.epochs", "3", "--jtt.lr", "1e-5", "--jtt.weight_decay", "0", "--jtt.optimizer", "adamw"]
    assert identify_settings(load([], own), JttSettings) == replace(
        training, epochs=3, selection="last", lr=1e-5, weight_decay=0.0, optimizer="adamw"
    )


@pytest.mark.parametrize("setting", [("epochs", "0"), ("upweight", "-1"), ("lr", "-2"), ("optimizer", "adm")])
def test_a_wrong_setting_is_refused(toy_args, capsys, setting):
    assert run([*toy_args, "--training.method", "jtt", f"--jtt.{setting[0]}", setting[1]]) == 2
    assert f"jtt.{setting[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["jtt", "lff"])
def test_the_preset_loads_over_a_data_set_s(preset):
    path = ROOT / "dataset_configs/methods" / f"{preset}.yaml"
    config = load([ROOT / "dataset_configs/dominoes.yaml", path])
    assert config.training.method == preset
    files = f"--config-file dataset_configs/dominoes.yaml --config-file dataset_configs/methods/{preset}.yaml"
    assert f"python main.py {files}" in path.read_text()
    assert preset in METHODS


# --- whole runs ----------------------------------------------------------------------------------


def test_a_run_repeats_the_errors_of_the_first_network_and_reports_their_recall(finished, train_path):
    notes = json.loads((finished / "results.json").read_text())["notes"]["jtt"]
    lines = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    train = [(line["phase"], line["epoch"], line["metrics"]) for line in lines if line["split"] == "train"]
    assert [(phase, epoch) for phase, epoch, _ in train] == [("identify", 1), ("train", 1), ("train", 2)]
    assert lines[0]["lr"] == 0.01
    errors = errors_of(finished)
    assert notes["errors"] == sum(errors) > 0
    assert sum(train[0][2]["group_count"].values()) == 256
    assert sum(train[1][2]["group_count"].values()) == 256 + 2 * sum(errors)
    for name, group in notes["by_group"].items():
        assert train[1][2]["group_count"][name] == group["rows"] + 2 * group["errors"]
    beton = open_beton(train_path)
    conflicting = beton.label != beton.attribute
    assert notes["recall"] == pytest.approx(np.mean(np.array(errors)[conflicting]))
    assert notes["recall"] > 2 * notes["error_rate_aligned"]  # the shortcut is learnt first


def test_the_errors_are_those_of_the_first_phase_s_last_weights(finished, train_path, jtt_args, tmp_path):
    with open_run(load([], [*jtt_args, "--training.outdir", str(tmp_path)])) as opened:
        model = opened.network()
        model.load_state_dict(load_checkpoint(finished / "checkpoints/phase_identify.pt")["state_dict"])
        predicted = evaluate(opened, model, "train").predicted.numpy()
    label = open_beton(train_path).label
    assert errors_of(finished) == (predicted != label).astype(int).tolist()


@pytest.mark.parametrize("step", [5, 8 + 11])  # in the first phase; in the second epoch of the second
def test_a_stopped_run_ends_bit_equal_to_an_uninterrupted_one(finished, jtt_args, tmp_path, monkeypatch, step):
    args = [*jtt_args, "--training.outdir", tmp_path]
    stopped_and_resumed(args, monkeypatch, step)
    ours, theirs = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (finished, folder_of(tmp_path)))
    assert ours["step"] == theirs["step"]
    assert all(torch.equal(ours["state_dict"][k], theirs["state_dict"][k]) for k in ours["state_dict"])
    assert errors_of(finished) == errors_of(folder_of(tmp_path))
    notes = [json.loads((f / "results.json").read_text())["notes"] for f in (finished, folder_of(tmp_path))]
    assert notes[0] == notes[1]


def test_the_error_set_on_disk_is_the_one_that_a_resumed_run_trains_on(toy_args, monkeypatch):
    config = load([], toy_args)
    with open_run(config) as opened:
        view = opened.views["train"]
        evaluation = Evaluation({}, torch.from_numpy(view.label[view.rows] ^ 1), torch.zeros(len(view)))
        monkeypatch.setattr("debeton.methods.finder.evaluate_view", lambda *_: evaluation)
        assert minority_rows(error_set(opened, torch.nn.Identity()).train).all()
    with open_run(config) as again:
        monkeypatch.setattr("debeton.methods.finder.evaluate_view", lambda *_: pytest.fail("identified anew"))
        assert minority_rows(error_set(again, torch.nn.Identity()).train).all()


def test_two_processes_repeat_the_errors_of_one(jtt_args, two_processes, tmp_path):
    args = [*jtt_args, "--model.bn_mode", "eval", "--training.epochs", "1"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    one, two = (folder_of(tmp_path / name) for name in ("one", "two"))
    assert sum(errors_of(one)) > 0
    assert errors_of(one) == errors_of(two)
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt")["state_dict"] for f in (one, two))
    assert_same_training(left, right, "small_resnet")
