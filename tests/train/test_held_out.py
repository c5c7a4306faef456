"""Splits that are not held out: the warning before training, results.json, and every table."""

import json
import shutil

import pytest
from rich.console import Console
from tests.report.test_write import make_run
from tests.running import folder_of, run
from tests.train.test_selection import view_of

from debeton.report.console import print_tables
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.report.tables import notes, summary_numbers, summary_table
from debeton.report.write import write_report
from debeton.train.held_out import shared_row_remarks
from debeton.train.remarks import not_held_out, remarks_of

REMARK = "val selected the epoch; not a held-out result"
ALL = {(0, 0): 4, (0, 1): 4, (1, 0): 4, (1, 1): 4}


@pytest.fixture
def without_test(toy_args, toy_betons, tmp_path) -> list[str]:
    """Return the arguments of a short run without a test split."""
    for split in ("train", "val"):
        for file in toy_betons.glob(f"toy_{split}.beton*"):
            shutil.copy(file, tmp_path / file.name)
    return [*toy_args, "--training.data_root", str(tmp_path), "--training.epochs", "1", "--data.mini_dataset", "0.3"]


def results_in(folder):
    return json.loads((folder_of(folder) / "results.json").read_text())


def test_a_validation_split_that_selects_and_is_reported_is_said_everywhere(without_test, tmp_path, capsys):
    assert run([*without_test, "--dry-run", "--all"]) == 0
    assert f"warning: there is no test split: {REMARK}" in "".join(capsys.readouterr())
    assert run(without_test) == 0
    assert REMARK in capsys.readouterr().out  # the table at the end of a run
    results = results_in(tmp_path / "runs")
    assert (results["selected_on"], results["reported"], results["remarks"]) == ("val", ["val"], [REMARK])
    log = (folder_of(tmp_path / "runs") / "log.txt").read_text()
    assert log.index(f"there is no test split: {REMARK}") < log.index("epoch 1/1")
    settings = group_settings(load_runs([tmp_path / "runs"]))
    assert summary_table(settings, "val").loc[0, "remarks"] == summary_numbers(settings, "val").loc[0, "remarks"]
    out = write_report([tmp_path / "runs"], tmp_path / "page").parent
    for name in ("index.html", "summary.md", "summary.tex", "summary.csv"):
        assert REMARK in (out / name).read_text(), name


def test_the_last_epoch_is_a_held_out_result(without_test, tmp_path, capsys):
    assert run([*without_test, "--training.selection", "last"]) == 0
    assert "held-out" not in "".join(capsys.readouterr())
    results = results_in(tmp_path / "runs")
    assert (results["selection"], results["selected_on"], results["remarks"]) == ("last", None, [])
    assert "remarks" not in summary_table(group_settings(load_runs([tmp_path / "runs"])), "val").columns


def test_a_test_split_is_a_held_out_result(tmp_path):
    make_run(tmp_path)
    assert "remarks" not in summary_table(group_settings(load_runs([tmp_path]))).columns


def test_results_of_an_older_run_get_the_remark_too(tmp_path):
    file = make_run(tmp_path) / "results.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "test": None}))
    make_run(tmp_path, "dfr")
    settings = group_settings(load_runs([tmp_path]))
    assert [setting.remarks for setting in settings] == [(REMARK,), ()]
    assert summary_table(settings)["remarks"].tolist() == [REMARK, "–"]
    assert f"Remark: {REMARK} (erm)." in notes(settings)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(settings, console)
    assert REMARK in console.export_text()


def test_rows_that_were_fitted_are_not_held_out():
    notes_of_dfr = {"notes": {"dfr": {"fitted_on": "val", "tuned_on": "half of val"}}}
    results = {"selection": "last", "val": {"accuracy": 1.0}, "test": None, **notes_of_dfr}
    assert remarks_of(results) == ["val fitted the last layer; not a held-out result"]
    assert not_held_out(["selected the epoch", "chose C"], ["val", "test_hard"]) == []


def test_splits_that_share_rows_are_named_with_their_number(tmp_path):
    (tmp_path / "copy").mkdir()
    train, val = view_of(tmp_path, ALL, split="train"), view_of(tmp_path, ALL)
    copy = view_of(tmp_path / "copy", ALL)  # another file with the rows of val
    assert shared_row_remarks({"train": train, "val": val}) == []
    assert shared_row_remarks({"train": train, "val": val, "test": copy}) == ["16 of 16 rows of test are also in val"]
    assert shared_row_remarks({"train": train, "test": train}) == ["16 of 16 rows of test are also in train"]
    halves = {"train": train, "val": val.subset(range(10), "val"), "test_b": val.subset(range(8, 16), "test_b")}
    assert shared_row_remarks(halves) == ["2 of 8 rows of test_b are also in val"]
    assert shared_row_remarks({**halves, "target": val.subset([9])})[0] == "1 of 10 rows of val are also in target"
    rest, held = train.hold_out(0.5, 0, "val")
    assert shared_row_remarks({"train": rest, "val": held}) == []


def test_a_test_beton_that_is_the_validation_beton_is_said_in_log_and_results(without_test, tmp_path, capsys):
    args = [*without_test, "--data.test_path", "toy_val.beton"]
    assert run(args) == 0
    remark = "128 of 128 rows of test are also in val"
    assert f"warning: {remark}" in "".join(capsys.readouterr())
    assert results_in(tmp_path / "runs")["remarks"] == [remark]
    assert f"Remark: {remark}." in notes(group_settings(load_runs([tmp_path / "runs"])))
