"""predictions.parquet: a line for each measured row, from which every number of results.json follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tests.running import folder_of, run
from tests.toy import TOY_SPEC

from debeton.data.beton.columns import Columns
from debeton.data.beton.reading import open_beton
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import DataError
from debeton.train.predictions import probability_columns
from debeton.train.probability_metrics import PROBABILITY_METRICS, probability_metrics

TRIGGER = ["--spurious.spurious_type", "square", "--resolution.val_res", "16"]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def check(folder: Path, betons: Path, read=pd.read_parquet, name: str = "predictions.parquet") -> pd.DataFrame:
    """Compare a run's predictions with its betons, results.json and results.pt; return those of the test rows."""
    table, results = read(folder / name), results_of(folder)
    assert sorted(set(table["split"])) == ["test", "val"]
    for split in ("val", "test"):
        part, beton = table[table["split"] == split], open_beton(betons / f"toy_{split}.beton")
        assert part["row"].tolist() == list(range(len(beton)))
        assert part["path"].tolist() == list(beton.extra["path"])
        for column, codes, names in (
            ("label", beton.label, TOY_SPEC.classes),
            ("attribute", beton.attribute, TOY_SPEC.attributes),
            ("group", beton.group, TOY_SPEC.group_names),
        ):
            assert part[f"{column}_code"].tolist() == codes.tolist()
            assert part[column].tolist() == [names[code] for code in codes]
        probabilities = part[["p_left", "p_right"]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
        assert part["predicted_code"].tolist() == probabilities.argmax(1).tolist()
        assert part["correct"].mean() == results[split]["accuracy"]
        of_label = probabilities[np.arange(len(part)), part["label_code"]]
        np.testing.assert_allclose(part["loss"], -np.log(of_label), rtol=1e-4, atol=1e-6)
        found = results[split]
        assert found["auroc"] == pytest.approx(roc_auc_score(part["label_code"], part["p_right"]), abs=1e-9)
        again = probability_metrics(
            probabilities,
            *(part[f"{column}_code"].to_numpy() for column in ("predicted", "label", "attribute", "group")),
            TOY_SPEC,
        )
        if read is pd.read_parquet:
            assert found.items() >= again.items()
        assert found["group_accuracy_interval"].keys() == found["group_accuracy"].keys()
    test = table[table["split"] == "test"]
    stored = load_checkpoint(folder / "results.pt")["results"]["results_standard"]["preds"]
    assert test["predicted_code"].tolist() == stored.tolist()
    return test


def test_a_run_leaves_the_predictions_of_every_measured_row(toy_betons, toy_args, tmp_path):
    assert run([*toy_args, "--training.epochs", 1]) == 0
    check(folder_of(tmp_path / "runs"), toy_betons)


def test_the_suffix_decides_the_format_and_an_empty_value_writes_none(toy_betons, toy_args, tmp_path):
    short = [*toy_args, "--training.epochs", 1]
    assert run([*short, "--logging.predictions", "rows.csv", "--training.exp_name", "csv"]) == 0
    check(folder_of(tmp_path / "runs" / "csv"), toy_betons, pd.read_csv, "rows.csv")
    assert run([*short, "--logging.predictions", "", "--training.exp_name", "none"]) == 0
    folder = folder_of(tmp_path / "runs" / "none")
    assert not list(folder.glob("*.parquet"))
    assert set(PROBABILITY_METRICS) <= results_of(folder)["test"].keys()


@pytest.mark.parametrize("name", ["rows.txt", "rows", "sub/rows.csv"])
def test_a_name_that_is_no_table_is_refused_before_training(name, toy_args, tmp_path, capsys):
    assert run([*toy_args, "--logging.predictions", name]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_predictions_of_planted_triggers_are_those_of_the_images_as_they_are(toy_betons, toy_args, tmp_path):
    assert run([*toy_args, "--training.epochs", 1, *TRIGGER, "--spurious.spurious_perc", 0.5]) == 0
    folder = folder_of(tmp_path / "runs")
    test = check(folder, toy_betons)
    clean = load_checkpoint(folder / "results.pt")["results"]["results_clean"]
    assert results_of(folder)["triggers"]["test"]["square"]["clean"].keys().isdisjoint(PROBABILITY_METRICS)
    assert len(test) == len(clean["preds"])


def test_cached_features_and_dfr_leave_predictions_too(toy_betons, toy_args, tmp_path):
    short = [*toy_args, "--training.epochs", 1, "--resolution.val_res", 16]
    assert run([*short, "--training.method", "dfr", "--training.exp_name", "dfr"]) == 0
    folder = folder_of(tmp_path / "runs" / "dfr")
    check(folder, toy_betons)
    source = folder / "checkpoints" / "checkpoint_best.pt"
    fixed = ["--model.transfer", "FIXED", "--model.checkpoint", source, "--training.augment", "none"]
    assert run([*short, *fixed, "--model.cache", "on", "--training.exp_name", "fixed"]) == 0
    check(folder_of(tmp_path / "runs" / "fixed"), toy_betons)


def test_two_processes_write_one_line_for_each_row(toy_betons, toy_args, two_processes, tmp_path):
    two_processes([*toy_args, "--training.epochs", 1])
    check(folder_of(tmp_path / "runs"), toy_betons)


def test_a_run_whose_beton_lost_its_paths_keeps_its_results(toy_args, tmp_path, monkeypatch, caplog):
    get = Columns.__getitem__

    def lost(self, name):
        if name == "path":
            raise DataError("toy.columns.npz is missing")
        return get(self, name)

    monkeypatch.setattr(Columns, "__getitem__", lost)
    assert run([*toy_args, "--training.epochs", 1]) == 0
    table = pd.read_parquet(folder_of(tmp_path / "runs") / "predictions.parquet")
    assert table["path"].isna().all()
    assert len(table) == 384


def test_classes_of_one_name_have_columns_of_their_own():
    assert probability_columns(["crane", "tench", "crane"]) == ["p_crane (0)", "p_tench", "p_crane (2)"]
