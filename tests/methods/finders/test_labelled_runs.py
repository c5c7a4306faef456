"""Whole runs of probe, knn and ssa: groups that are found, resumed runs, two processes, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.methods.finder import FINDERS
from debeton.methods.method import outline
from debeton.system.errors import DataError
from debeton.train.run import open_run
from debeton.train.trial import rehearse

SSA = ["--groups.from", "ssa", "--ssa.epochs", "2", "--ssa.folds", "2", "--training.eval_epochs", "1"]


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "groups.csv").open() as file:
        return list(csv.DictReader(file))


def notes_of(folder: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((folder / "results.json").read_text())["notes"]["groups"]
    return notes


@pytest.fixture
def words(toy_args: list[str], trained_toy: tuple[Path, Path]) -> list[str]:
    """Return the words of a run that finds groups alone, with a tenth of the attributes known."""
    network = ["--labelled.checkpoint", str(trained_toy[0])]
    return [*toy_args, "--training.method", "groups", "--groups.known", "0.1", *network]


@pytest.mark.parametrize("finder", ["probe", "knn"])
def test_most_bias_conflicting_rows_are_found_and_known_rows_keep_their_attribute(words, finder, tmp_path, toy_betons):
    words = [*words, "--groups.from", finder]
    assert run(words) == 0
    folder = folder_of(tmp_path / "runs")
    notes, table = notes_of(folder), table_of(folder)
    assert notes["precision"] > 0.9
    assert notes["recall"] > 0.9
    assert notes["learnt_from"]["rows"] == 51
    assert notes["learnt_from"]["split"] == "train"
    assert sum(notes["learnt_from"]["groups"].values()) == 51
    with open_run(load([], words[:-2])) as opened:
        train = opened.views["train"]
    known, own = train.knows_attribute, open_beton(toy_betons / "toy_train.beton")
    for line, is_known, attribute in zip(table, known, own.attribute, strict=True):
        assert line["attribute"] == TOY_SPEC.attributes[attribute]  # the true one
        assert not is_known or (line["group"], line["score"]) == (line["attribute"], "1")


@pytest.mark.parametrize("finder", ["probe", "knn"])
def test_groups_do_not_depend_on_the_size_of_batches(words, finder, tmp_path):
    tables = []
    for size in (17, 200):
        out = ["--training.outdir", tmp_path / str(size), "--training.eval_batch_size", size]
        assert run([*words, "--groups.from", finder, *out]) == 0
        tables.append([(line["group"], float(line["score"])) for line in table_of(folder_of(tmp_path / str(size)))])
    assert [group for group, _ in tables[0]] == [group for group, _ in tables[1]]
    assert [score for _, score in tables[0]] == pytest.approx([score for _, score in tables[1]], abs=1e-5)


def test_a_trainer_takes_the_probe_of_another_run_and_is_measured_in_true_groups(words, tmp_path, capsys):
    words = [*words, "--groups.from", "probe"]
    assert run(words) == 0
    capsys.readouterr()
    assert run([*words, "--training.method", "groupdro", "--training.epochs", "1", "--groups.val", "inferred"]) == 0
    said = capsys.readouterr()
    assert "phase 'identify' is the same as in" in said.out + said.err
    (folder,) = (tmp_path / "runs").glob("*groupdro*/*")
    results = json.loads((folder / "results.json").read_text())
    assert set(results["test"]["group_accuracy"]) == set(TOY_SPEC.group_names)
    assert sum(results["train_groups"].values()) == 512
    assert results["notes"]["groups"]["learnt_from"]["rows"] == 51


def test_without_a_known_training_row_validation_rows_serve_and_results_say_so(words, tmp_path):
    assert run([*words, "--groups.from", "knn", "--groups.known", "0"]) == 0
    folder = folder_of(tmp_path / "runs")
    assert notes_of(folder)["learnt_from"]["split"] == "val"
    assert notes_of(folder)["learnt_from"]["rows"] == 128
    assert notes_of(folder)["recall"] > 0.9


def test_a_dry_run_stops_before_features_and_shows_the_known_rows(words, capsys):
    words = [*words, "--groups.from", "probe"]
    with open_run(load([], words)) as opened:
        (phase,) = outline(opened)
        assert "51 rows of 'train' whose attribute is known" in phase.note
        assert rehearse(opened, FINDERS.get("probe").find) is None
        assert not (Path(opened.config.training.outdir) / "features").exists()
    assert run([*words, "--training.method", "groupdro", "--dry-run"]) == 0
    assert "attribute unknown" in capsys.readouterr().out


def test_subg_is_planned_before_its_groups_are_found(words, tmp_path):
    words = [*words, "--groups.from", "probe", "--training.method", "subg", "--training.epochs", "1"]
    words += ["--groups.single", "error"]
    with open_run(load([], words)) as opened:
        plan = outline(opened)
    assert [phase.name for phase in plan] == ["identify", "train"]
    assert plan[1].rows_of_epoch == 512  # at most
    assert "the smallest that probe finds" in plan[1].note
    assert run(words) == 0
    found = notes_of(folder_of(tmp_path / "runs"))["groups"]
    (line,) = [line for line in lines_of(folder_of(tmp_path / "runs")) if line["split"] == "train"]
    assert sum(line["metrics"]["group_count"].values()) == 4 * min(found.values()) < 256


def ssa_state(folder: Path) -> list[torch.Tensor]:
    files = sorted((folder / "checkpoints").glob("phase_identify_*.pt"))
    return [value for file in files for value in torch.load(file, weights_only=True)["state_dict"].values()]


def test_ssa_finds_bias_conflicting_rows_and_a_stopped_run_ends_bit_equal(words, tmp_path, monkeypatch):
    words = [*words, *SSA]
    assert run([*words, "--training.outdir", tmp_path / "one"]) == 0
    stopped_and_resumed(
        [*words, "--training.outdir", tmp_path / "two"], monkeypatch, 13
    )  # in the second fold's network
    one, two = (folder_of(tmp_path / name) for name in ("one", "two"))
    assert (one / "groups.csv").read_bytes() == (two / "groups.csv").read_bytes()
    left, right = ssa_state(one), ssa_state(two)
    assert len(left) == len(right) > 20
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert notes_of(one)["recall"] > 0.8
    assert notes_of(one)["precision"] > 0.6  # of all rows, 12 % are bias-conflicting
    assert notes_of(one)["learnt_from"]["trained_on"] < notes_of(one)["learnt_from"]["rows"] == 51
    assert any(sum(line["objective"]["accepted_rows"].values()) > 0 for line in lines_of(one) if "objective" in line)


def test_two_processes_find_the_groups_of_one(words, two_processes, tmp_path):
    words = [*words, *SSA, "--model.bn_mode", "eval"]
    assert run([*words, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*words, "--training.outdir", tmp_path / "two"])
    one, two = (table_of(folder_of(tmp_path / name)) for name in ("one", "two"))
    assert [line["group"] for line in one] == [line["group"] for line in two]
    scores = ([float(line["score"]) for line in lines] for lines in (one, two))
    assert next(scores) == pytest.approx(next(scores), abs=0.02)


# --- refused -----------------------------------------------------------------------------------------


def refused(words: Sequence[Any], capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert run(words) == status
    return capsys.readouterr().err


@pytest.mark.parametrize("finder", ["probe", "knn", "ssa"])
def test_nothing_to_find_is_refused_with_the_remedy(toy_args, capsys, finder):
    said = refused([*toy_args, "--training.method", "resample", "--groups.from", finder], capsys, 2)
    assert "it is known for all 512 rows of 'train'; hide it with --groups.known 0.05" in said
    assert "--groups.from attribute" in said


@pytest.mark.parametrize(("rule", "words"), [("none", "groups.val 'none'"), ("inferred", "groups.val 'inferred'")])
def test_validation_attributes_that_do_not_count_are_not_learnt_from(toy_args, capsys, rule, words):
    own = ["--training.method", "resample", "--training.selection", "average", "--groups.val", rule]
    said = refused([*toy_args, *own, "--groups.from", "ssa", "--groups.known", "0"], capsys, 2)
    assert f"with {words} their attributes do not count as known" in said


def test_random_weights_are_no_features(toy_args, capsys):
    own = ["--training.method", "groups", "--groups.from", "probe", "--groups.known", "0.1"]
    said = refused([*toy_args, *own], capsys, 2)
    assert "would be of random weights; name one with --labelled.checkpoint RUN" in said


def write_rows(path: Path, attribute: np.ndarray, spec: DatasetSpec = TOY_SPEC, dark: bool = False) -> None:
    rows = toy_rows(len(attribute), 0.9, 9)
    pixels = (lambda i: np.zeros((16, 16, 3), np.uint8)) if dark else rows.image
    write_beton(path, Rows(rows.label, attribute, pixels, rows.names), spec, "train", WriteOptions(mode="raw"))


def test_an_attribute_without_a_known_row_is_named(words, capsys, tmp_path):
    attribute = np.full(64, -1)
    attribute[:6] = 1
    write_rows(tmp_path / "train.beton", attribute)
    own = ["--groups.from", "knn", "--groups.known", "1", "--data.train_path", tmp_path / "train.beton"]
    said = refused([*words, *own], capsys, 1)
    assert "6 rows of 'train' whose attribute is known, and none of them is 'dark'" in said
    assert "two attributes at least" in refused([*words, *own, "--training.empty_groups", "ignore"], capsys, 1)


def test_a_set_without_attributes_is_refused(words, capsys, tmp_path, toy_betons):
    spec = DatasetSpec("plain", ("left", "right"), mean=(0.5,) * 3, std=(0.25,) * 3)
    write_rows(tmp_path / "plain_train.beton", np.zeros(64, np.int64), spec)
    own = ["--data.dataset", "plain", "--training.data_root", tmp_path, "--training.selection", "last"]
    said = refused([*words, *own, "--groups.from", "knn"], capsys, 2)
    assert "this method needs attribute labels, and plain has none" in said


def test_known_rows_of_one_value_each_cannot_be_held_out_by_ssa(words, capsys, tmp_path):
    attribute = np.full(64, -1)
    attribute[:2] = (0, 1)
    write_rows(tmp_path / "train.beton", attribute)
    own = ["--groups.known", "1", "--data.train_path", tmp_path / "train.beton"]
    said = refused([*words, *SSA, *own], capsys, 1)
    assert "no group of them has two rows" in said
    assert "2 rows of 'train' whose attribute is known" in said


def test_equal_features_are_refused(words, tmp_path):
    write_rows(tmp_path / "train.beton", np.where(np.arange(64) < 8, np.arange(64) % 2, -1), dark=True)
    own = ["--groups.from", "probe", "--groups.known", "1", "--data.train_path", str(tmp_path / "train.beton")]
    with open_run(load([], [*words, *own])) as opened, pytest.raises(DataError, match=r"8 rows .* the same features"):
        FINDERS.get("probe").find(opened)
