"""Tests of runs on rows whose attribute is not known: metrics, selection, methods, warnings and results."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.running import folder_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.library import measure_predictions
from debeton.methods.parts.logistic_head import FeatureSet, Logistic, accuracies
from debeton.methods.parts.marked_rows import describe_marks
from debeton.methods.parts.row_weights import RowWeights
from debeton.report.pictures import worst_mistakes
from debeton.studies.choice import rule_of_scores
from debeton.system.errors import DataError, UsageError
from debeton.train.attack import rates_by
from debeton.train.metrics import GroupMeter, add_by_group, group_metrics, selection_score
from debeton.train.run_views import check_selection, check_selection_rows, groups_without_rows, prepare_views

PETS = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), aligned=((0,), (1,)))

# --- metrics ---------------------------------------------------------------------------------------------------


def test_unknown_rows_count_in_accuracies_of_rows_and_classes_and_in_no_group() -> None:
    label = [0, 0, 0, 1, 1, 1, 1]
    attribute = [0, 1, -1, 0, 1, -1, -1]
    right = np.array([1, 0, 1, 1, 1, 0, 0], bool)
    loss = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    metrics = measure_predictions(np.where(right, label, 1 - np.array(label)), label, attribute, PETS, loss=loss)
    assert metrics["accuracy"] == pytest.approx(4 / 7)
    assert metrics["mean_class_accuracy"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert metrics["worst_class_accuracy"] == pytest.approx(0.5)
    assert metrics["loss"] == pytest.approx(127 / 7)
    assert metrics["group_accuracy"] == {"cat, in": 1.0, "cat, out": 0.0, "dog, in": 1.0, "dog, out": 1.0}
    assert metrics["group_count"] == dict.fromkeys(PETS.group_names, 1)
    assert (metrics["mean_group_accuracy"], metrics["worst_group"]) == (0.75, "cat, out")
    assert (metrics["bias_aligned_accuracy"], metrics["bias_conflicting_accuracy"]) == (1.0, 0.5)
    assert metrics["attribute_unknown"] == {"count": 3, "accuracy": pytest.approx(1 / 3)}


def test_metrics_are_the_same_with_and_without_a_place_for_unknown_rows_where_there_are_none() -> None:
    correct, total, loss = np.array([3, 1, 0, 5]), np.array([4, 2, 1, 5]), np.array([0.1, 0.2, 0.3, 0.7])
    plain = group_metrics(correct, total, loss, PETS)
    assert plain == group_metrics(*(np.concatenate([values, [0, 0]]) for values in (correct, total, loss)), PETS)
    assert "attribute_unknown" not in plain


def test_where_no_attribute_is_known_metrics_of_groups_are_none_and_classes_break_ties() -> None:
    metrics = measure_predictions([0, 1, 1], [0, 1, 0], [None, float("nan"), -1], PETS)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["worst_group_accuracy"] is metrics["mean_group_accuracy"] is metrics["worst_group"] is None
    assert selection_score(metrics, "average") == (metrics["accuracy"], metrics["mean_class_accuracy"])


def test_predictions_with_an_attribute_that_is_no_number_are_refused() -> None:
    with pytest.raises(DataError, match="the attribute cannot be read"):
        measure_predictions([0], [0], [0.25], PETS)


def test_a_meter_saves_and_restores_unknown_rows() -> None:
    first, second = GroupMeter(4, 2), GroupMeter(4, 2)
    group, label = torch.tensor([0, -1, -1]), torch.tensor([0, 1, 1])
    first.update_predictions(torch.tensor([0, 1, 0]), label, group, torch.ones(3))
    second.restore(first.state())
    assert second.compute(PETS)["attribute_unknown"] == {"count": 2, "accuracy": 0.5}


def test_sums_by_group_leave_unknown_rows_out() -> None:
    sums = torch.zeros(2, 4)
    add_by_group(sums, torch.tensor([3, -1, 3]), torch.tensor([[1.0, float("nan"), 2.0], [1.0, 1.0, 1.0]]))
    assert sums.tolist() == [[0, 0, 0, 3], [0, 0, 0, 2]]


def test_rates_by_group_leave_unknown_rows_out() -> None:
    label, group = np.array([0, 0, 1]), np.array([0, -1, 3])
    rates = rates_by(group, PETS.group_names, label, label, 1 - label)
    assert rates["dog, out"] == {"attack_success_rate": 1.0, "flip_rate": 1.0}
    assert rates["cat, out"] == {"attack_success_rate": None, "flip_rate": None}


def test_dfr_measures_candidates_on_unknown_rows_by_class_alone() -> None:
    x = np.array([[-1.0], [1.0], [1.0]], np.float32)
    rows = FeatureSet(x, np.array([0, 1, 0]), np.array([0, 3, -1]), PETS)
    metrics = accuracies(Logistic(np.array([[1.0]]), np.array([0.0])), rows)
    assert (metrics["worst_group_accuracy"], metrics["accuracy"]) == (1.0, pytest.approx(2 / 3))


# --- found rows ------------------------------------------------------------------------------------------------


def test_precision_and_recall_are_over_rows_whose_attribute_is_known(paper_view) -> None:
    # Four conflicting rows, of which three are marked; two aligned rows, of which one is; four unknown, two marked.
    view: View = paper_view([0] * 10, [1, 1, 1, 1, 0, 0, -1, -1, -1, -1], spec=PETS)
    marked = np.array([1, 1, 1, 0, 1, 0, 1, 1, 0, 0], bool)
    found = describe_marks(view, marked, "error")
    assert (found["precision"], found["recall"], found["error_rate_aligned"]) == (0.75, 0.75, 0.5)
    assert (found["rows"], found["errors"]) == (10, 6)
    assert found["attribute_unknown"] == {"rows": 4, "errors": 2}
    assert found["by_group"]["cat, out"]["rows"] == 4
    assert "attribute_unknown" not in describe_marks(view.subset(np.arange(6)), marked[:6], "error")


def test_weights_of_unknown_rows_are_counted_apart(paper_view) -> None:
    weights = RowWeights(paper_view([0, 0, 1, 1], [0, 1, -1, -1], spec=PETS))
    weights.update(torch.arange(4), torch.tensor([0.05, 0.95, 0.55, 0.55]))
    summary = weights.summary()
    assert (summary["weight_aligned"], summary["weight_conflicting"]) == pytest.approx((0.05, 0.95))
    tenths = summary["weight_by_tenth"]
    assert {name: np.flatnonzero(counts).tolist() for name, counts in tenths.items()} == {
        "aligned": [0],
        "conflicting": [9],
        "attribute_unknown": [5],
    }
    assert summary["weight_by_group"]["dog, out"] is None


# --- runs ------------------------------------------------------------------------------------------------------


def masked(rows: Rows, unknown: np.ndarray) -> Rows:
    return Rows(rows.label, np.where(unknown, -1, rows.attribute), rows.image, rows.names)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons: 'none' has no attribute in train, 'part' has three of four; 'blind' has none in val and test."""
    folder = tmp_path_factory.mktemp("betons")
    for name, splits in {"none": ("train",), "part": ("train", "val", "test"), "blind": ("val", "test")}.items():
        for seed, (split, n, share) in enumerate((("train", 96, 0.9), ("val", 48, 0.5), ("test", 64, 0.5))):
            every = np.arange(n) % 4 != 1 if name == "part" else np.zeros(n, bool)
            rows = masked(toy_rows(n, share, seed), (~every) & (split in splits))
            write_beton(folder / f"{name}_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


def words(root: Path, dataset: str, out: Path, **settings: Any) -> list[str]:
    given = {
        "data.dataset": dataset,
        "training.data_root": root,
        "training.outdir": out,
        "training.epochs": 1,
        "training.batch_size": 32,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "model.arch": "small_resnet",
        "resolution.val_res": 16,
        **settings,
    }
    return [str(word) for key, value in given.items() for word in (f"--{key}", value)]


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((folder_of(out) / "results.json").read_text())


def test_jtt_trains_without_attributes_and_its_table_leaves_them_empty(root: Path, tmp_path: Path) -> None:
    assert run(words(root, "none", tmp_path, **{"training.method": "jtt"})) == 0
    results = results_of(tmp_path)
    groups = dict.fromkeys(TOY_SPEC.group_names, 0)
    assert results["train_groups"] == {**groups, "left, attribute unknown": 48, "right, attribute unknown": 48}
    assert results["notes"]["jtt"]["recall"] is None
    assert results["test"]["worst_group_accuracy"] is not None
    with (folder_of(tmp_path) / "error_set.csv").open() as file:
        assert {line["attribute"] for line in csv.DictReader(file)} == {""}


@pytest.mark.parametrize("method", ["lff", "debian", "eiil", "cdpm"])
def test_methods_without_a_need_for_attributes_train_on_partly_known_rows(
    method: str, root: Path, tmp_path: Path
) -> None:
    more = {"eiil.steps": 5} if method == "eiil" else {}
    if method == "cdpm":
        more = {"cdpm.condition": "label", "cdpm.widths": "8,8", "cdpm.layers": 1, "cdpm.epochs": 1, "cdpm.steps": 4}
    assert run(words(root, "part", tmp_path, **{"training.method": method, **more})) == 0
    results = results_of(tmp_path)
    assert results["train_groups"]["right, attribute unknown"] == 24
    if method != "cdpm":
        assert results["test"]["attribute_unknown"]["count"] == 16


@pytest.mark.parametrize("method", ["groupdro", "reweight", "resample", "subg", "dfr", "cdpm"])
def test_methods_that_need_attributes_are_refused_with_the_count(
    method: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"cdpm.condition": "group"} if method == "cdpm" else {}
    assert run(words(root, "part", tmp_path, **{"training.method": method, **more})) == 2
    error = capsys.readouterr().err
    split, counts = ("val", "12 of 48") if method == "dfr" else ("train", "24 of 96")
    assert f"needs the attribute of every row, and {counts} rows of '{split}'" in error
    assert not list(tmp_path.rglob("*.pt"))


def test_the_known_rows_alone_serve_a_method_that_needs_attributes(root: Path, tmp_path: Path) -> None:
    more = {"training.method": "groupdro", "data.known_attributes_only": "true"}
    assert run(words(root, "part", tmp_path, **more)) == 0
    assert sum(results_of(tmp_path)["train_groups"].values()) == 72


def views_and_config(root: Path, dataset: str, **settings: Any):
    config = load([], words(root, dataset, root, **settings))
    return config, prepare_views(config)


@pytest.mark.parametrize("rule", ["worst_group", "mean_group", "minority"])
def test_a_rule_that_looks_at_groups_is_refused_where_no_validation_attribute_is_known(rule: str, root: Path) -> None:
    config, views = views_and_config(root, "blind", **{"training.selection": rule})
    with pytest.raises(UsageError, match=f"training.selection is '{rule}', but the attribute of no row of 'val'"):
        check_selection(config, views)


def test_minority_is_refused_without_a_conflicting_validation_row(root: Path) -> None:
    config, views = views_and_config(root, "part", **{"training.selection": "minority"})
    check_selection_rows(config, views)
    aligned = views["val"].label == views["val"].attribute
    with pytest.raises(UsageError, match="selection is 'minority', but 2 of 2 conflicting groups have no row"):
        check_selection_rows(config, {**views, "val": views["val"].subset(aligned[views["val"].rows])})


def test_a_run_selected_by_classes_needs_no_attribute_in_validation_and_test(root: Path, tmp_path: Path) -> None:
    assert run(words(root, "blind", tmp_path, **{"training.selection": "worst_class", "training.epochs": 2})) == 0
    results = results_of(tmp_path)
    assert results["test"]["worst_group_accuracy"] is None
    assert results["test"]["attribute_unknown"]["count"] == 64
    assert "groups_without_rows" not in results


def test_the_log_and_the_dry_run_say_how_many_rows_group_accuracies_leave_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "warning: the attribute of 16 of 64 rows of 'test' is not known; accuracies of groups"
    assert run([*words(root, "part", tmp_path), "--dry-run", "--all"]) == 0
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert "  left, attribute unknown   0\n" not in shown.out
    assert "right, attribute unknown  24" in shown.out
    assert run(words(root, "part", tmp_path)) == 0
    assert (folder_of(tmp_path) / "log.txt").read_text().count(sentence) == 1


# --- measured splits without a group ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons whose test split has no row of 'left, light', and whose validation split no bias-conflicting row."""
    folder = tmp_path_factory.mktemp("lacking")
    for seed, (split, n, share) in enumerate((("train", 96, 0.75), ("val", 32, 1.0), ("test", 64, 0.5))):
        rows = toy_rows(n, share, seed)
        kept = np.flatnonzero(~((rows.label == 0) & (rows.attribute == 1)) | (split == "train"))
        rows = Rows(
            rows.label[kept],
            rows.attribute[kept],
            lambda i, image=rows.image, kept=kept: image(int(kept[i])),
            [rows.names[i] for i in kept],
        )
        write_beton(folder / f"gap_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


def test_measured_splits_without_a_group_of_the_training_rows_are_named_with_its_count(lacking: Path) -> None:
    _, views = views_and_config(lacking, "gap")
    counts = views["train"].counts_by_name()
    conflicting = {name: counts[name] for name in ("left, light", "right, dark")}
    assert min(conflicting.values()) > 0
    assert groups_without_rows(views) == {"val": conflicting, "test": {"left, light": counts["left, light"]}}
    assert groups_without_rows({"train": views["train"], "test": views["train"]}) == {}


def test_a_run_warns_once_of_a_test_split_without_a_group_and_results_hold_it(
    lacking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    count = open_beton(lacking / "gap_train.beton").sidecar["group_counts"]["left, light"]
    sentence = (
        f"warning: 'test' has no row of 1 of the 4 groups of the training rows ('left, light', {count} training rows); "
        "its worst-group and mean-group accuracy are over the other groups"
    )
    arguments = words(lacking, "gap", tmp_path, **{"training.selection": "worst_class"})
    assert run([*arguments, "--dry-run", "--all"]) == 0
    assert capsys.readouterr().err.count(sentence) == 1
    with caplog.at_level(logging.WARNING, "debeton"):
        assert run(arguments) == 0
    assert (folder_of(tmp_path) / "log.txt").read_text().count(sentence) == 1
    assert results_of(tmp_path)["groups_without_rows"]["test"] == {"left, light": count}


def test_a_study_compares_last_epochs_by_classes_where_no_validation_attribute_is_known() -> None:
    val = measure_predictions([0, 1, 1], [0, 1, 0], [-1, -1, -1], PETS)
    rule = rule_of_scores([{"folder": "a", "val": val, "selection": "last"}])
    assert (rule, selection_score(val, rule)) == (
        "worst_class",
        (val["worst_class_accuracy"], val["mean_class_accuracy"]),
    )


def test_pictures_of_mistakes_name_the_rows_of_unknown_attribute(root: Path, tmp_path: Path) -> None:
    assert run(words(root, "blind", tmp_path, **{"training.selection": "last", "training.lr": 0.0001})) == 0
    mistakes = worst_mistakes(folder_of(tmp_path), "test", torch.device("cpu"))
    assert {group.group for group in mistakes} <= {"left, attribute unknown", "right, attribute unknown"}
    assert sum(group.total for group in mistakes) in (32, 64)
