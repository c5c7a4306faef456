"""Runs on different data of one name are settings of their own, and a note names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from debeton.report.kind import ReportKind
from debeton.report.records import load_runs
from debeton.report.runs import Setting, group_settings
from debeton.report.same_data import short_hash
from debeton.report.tables import notes
from debeton.report.write import write_report
from debeton.studies.collect import remarks_on_data

METRICS = {
    "worst_group_accuracy": 0.5,
    "worst_group": "a, b",
    "group_accuracy": {"a, b": 0.5, "a, c": 0.9},
    "group_count": {"a, b": 10, "a, c": 10},
}


def write_run(root: Path, seed: int, data: dict[str, str] | None, accuracy: float = 0.8, **changes: Any) -> Path:
    """Write one finished run.

    data: the content of each split by name, or None for a run of an older version.
    changes: method, options, data_root, train_path.
    """
    method = changes.get("method", "erm")
    folder = root / f"{method}_{seed}_{len(list(root.glob('*')))}" / "version_0"
    folder.mkdir(parents=True)
    config = {
        "training": {"method": method, "seed": seed, "data_root": changes.get("data_root", "betons")},
        "data": {"dataset": "toy", "seed": 0, "train_path": changes.get("train_path")},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {**METRICS, "accuracy": accuracy}
    results = {
        "dataset": "toy",
        "method": method,
        "seed": seed,
        "selection": "last",
        "dataset_options": changes.get("options", {}),
        "train_groups": {"a, b": 5, "a, c": 50},
        "val": None,
        "test": metrics,
        "timing": {},
        "notes": {},
    }
    if data is not None:
        results["data"] = {split: {"file": "x.beton", "images": content} for split, content in data.items()}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def settings_of(root: Path) -> list[Setting]:
    return group_settings(load_runs([root]))


def sizes(root: Path) -> list[int]:
    """The number of runs of each setting."""
    return sorted(len(setting.runs) for setting in settings_of(root))


def test_runs_on_the_same_data_are_one_setting_without_a_note(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed, {"train": "1", "test": "2"}, data_root=f"copy{seed}")
    assert sizes(tmp_path) == [3]
    assert "data" not in " ".join(notes(settings_of(tmp_path)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_runs_of_one_setting_on_other_data_are_a_row_of_their_own_with_a_note(tmp_path, split):
    same = {"train": "1", "test": "2"}
    write_run(tmp_path, 0, same, accuracy=0.9)
    write_run(tmp_path, 1, same, accuracy=0.8)
    write_run(tmp_path, 2, {**same, split: "3"}, accuracy=0.1)
    settings = settings_of(tmp_path)
    old, new = (next(s for s in settings if len(s.runs) == n) for n in (2, 1))
    assert (old.stat("accuracy", "test").mean, new.stat("accuracy", "test").mean) == (pytest.approx(85), 10)
    assert old.label == f"erm · {split} data {short_hash(old.runs[0], split)}"
    assert new.label == f"erm · {split} data {short_hash(new.runs[0], split)}"
    (note,) = [note for note in notes(settings) if "different data" in note]
    for run in (*old.runs, *new.runs):
        assert run.name in note
    assert f"Split '{split}'" in note
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "Runs on different data of one name" in page
    assert "Runs on different data of one name" in (tmp_path / "report" / "summary.md").read_text()


def test_settings_measured_on_different_test_data_are_named(tmp_path):
    write_run(tmp_path, 0, {"train": "1", "test": "2"})
    write_run(tmp_path, 0, {"train": "1", "test": "3"}, method="groupdro", data_root="elsewhere")
    settings = settings_of(tmp_path)
    assert [s.identity["test data"] for s in settings] == [short_hash(s.runs[0], "test") for s in settings]
    assert any("Split 'test'" in note for note in notes(settings))


def test_runs_of_an_older_version_stand_apart_only_where_others_differ(tmp_path):
    write_run(tmp_path, 0, {"train": "1", "test": "2"})
    write_run(tmp_path, 1, None)
    assert sizes(tmp_path) == [2]
    write_run(tmp_path, 2, {"train": "1", "test": "3"})
    assert sizes(tmp_path) == [1, 1, 1]
    assert any(setting.label == "erm · test data unknown" for setting in settings_of(tmp_path))


def test_test_data_of_other_options_may_differ(tmp_path):
    for seed in range(3):  # a data set that is drawn anew for each seed
        write_run(tmp_path, seed, {"train": f"1{seed}", "test": f"2{seed}"}, options={"seed": seed})
    assert sizes(tmp_path) == [3]


def test_training_data_of_each_seed_in_a_folder_of_its_own_is_averaged_with_a_note(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed, {"train": f"1{seed}", "val": f"1{seed}", "test": "2"}, data_root=f"seed{seed}")
    assert sizes(tmp_path) == [3]
    named = [note for note in notes(settings_of(tmp_path)) if "different folders" in note]
    assert len(named) == 1  # the rows of 'val' are held out of 'train'
    assert named[0].startswith("The runs of 'erm' have different 'train' data in different folders: ")


def test_a_report_of_one_table_names_them_too(tmp_path):
    for seed, content in enumerate("23"):
        write_run(tmp_path, seed, {"train": "1", "test": content})
    table = pd.DataFrame({"setting": ["x"]})
    kind = ReportKind("", "x", "A note.", "", lambda settings: table, lambda settings: None)
    assert "Runs on different data of one name are settings of their own. Split 'test'" in kind.text([tmp_path])


def test_tables_of_a_study_say_that_one_number_holds_runs_on_different_data(tmp_path):
    folders = [write_run(tmp_path, seed, {"train": "1", "test": content}) for seed, content in enumerate("223")]
    assert remarks_on_data(folders[:2]) == []
    (remark,) = remarks_on_data(folders)
    assert remark.startswith("Runs on different 'test' data stand in one number here")
