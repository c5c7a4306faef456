"""Further columns of a report: metrics of probabilities and intervals, on request."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from tests.report.test_write import BIRDS, make_run

from debeton.commands import report
from debeton.report.columns import parse_metrics, shown_columns, title_of
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.report.tables import group_table, metric_table, summary_numbers, summary_table
from debeton.system.errors import UsageError, run_command
from debeton.train.intervals import wilson_interval


def give(folder, **metrics) -> None:
    """Add metrics to the test entry of a run's results."""
    results = json.loads((folder / "results.json").read_text())
    results["test"] |= metrics
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def runs(tmp_path):
    """Two settings: erm with two seeds, groupdro with one; F1 by group, AUROC by attribute."""
    for method, seed, f1, auroc in (("erm", 0, 0.5, 0.8), ("erm", 1, 0.7, 0.9), ("groupdro", 0, 0.6, None)):
        give(
            make_run(tmp_path / "runs", method, seed),
            auroc=auroc,
            worst_group_auroc=None,
            worst_attribute_auroc=auroc,
            attribute_auroc={"land": auroc, "water": 1.0},
            f1=f1,
            worst_group_f1=f1 - 0.1,
            group_f1={BIRDS[0]: None, BIRDS[2]: f1},
            brier=1.5,
        )
    return tmp_path / "runs"


def test_asked_metrics_are_columns_beside_their_worst_group_or_attribute(runs):
    settings = group_settings(load_runs([runs]))
    table = summary_table(settings, "test", parse_metrics("auroc,f1,mean_class_accuracy"))
    assert list(table.columns)[-7:-1] == [
        "AUROC",
        "worst-attribute AUROC",
        "F1",
        "worst-group F1",
        "mean-class",
        "worst group",
    ]
    assert table.loc[0, "AUROC"] == "85.0 ± 7.1"
    assert table.loc[1, "AUROC"] == "–"
    assert table.loc[0, "worst-group F1"] == "50.0 ± 14.1"
    assert "AUROC" not in summary_table(settings).columns


def test_summary_csv_has_all_numbers(runs):
    numbers = summary_numbers(group_settings(load_runs([runs])))
    assert numbers.loc[0, "f1_mean"] == pytest.approx(60)
    assert numbers.loc[0, "brier_mean"] == pytest.approx(150)
    assert pd.isna(numbers.loc[0, "accuracy_low"])  # of several seeds
    low, high = wilson_interval(0.6, 50)
    assert numbers.loc[1, "worst_group_accuracy_low"] == pytest.approx(100 * low)
    assert numbers.loc[1, "worst_group_accuracy_high"] == pytest.approx(100 * high)


def test_intervals_are_shown_for_one_seed(runs):
    erm, groupdro = group_settings(load_runs([runs]))
    low, high = (100 * value for value in wilson_interval(0.6, 50))
    row = summary_table([erm, groupdro], "test", ("interval",)).loc[1]
    assert row["worst-group"] == f"60.0 [{low:.1f}, {high:.1f}]"
    assert "[" not in summary_table([erm, groupdro], "test", ("interval",)).loc[0, "worst-group"]
    texts = group_table(groupdro, "test", ("interval",))["accuracy"].tolist()
    assert sum(text == f"60.0 [{low:.1f}, {high:.1f}]" for text in texts) == 2
    assert "[" not in "".join(group_table(groupdro)["accuracy"])


def test_a_metric_has_a_table_by_group_and_by_attribute(runs):
    settings = group_settings(load_runs([runs]))
    f1, auroc = (metric_table(settings, metric) for metric in ("f1", "auroc"))
    assert f1.values.tolist() == [["group", BIRDS[2], "60.0 ± 14.1", "60.0"]]
    assert auroc["name"].tolist() == ["land", "water"]
    assert auroc.loc[0].tolist()[2:] == ["85.0 ± 7.1", "–"]


def test_the_page_and_the_console_show_what_is_asked(runs, tmp_path, capsys):
    words = [str(runs), "--out", str(tmp_path / "out"), "--metrics", "f1,interval"]
    assert run_command(lambda: report.main(words)) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "F1 by group and attribute, test split" in page
    assert "worst-group F1" in page
    assert "| 60.0 " in (tmp_path / "out" / "summary.md").read_text()
    assert "In brackets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [("aurok", "did you mean 'auroc'?"), ("f1,briar", "did you mean 'brier'?"), ("x", "known: auroc")],
)
def test_an_unknown_metric_is_refused_with_the_nearest(text, message, runs, capsys):
    with pytest.raises(UsageError, match=r"unknown metric"):
        parse_metrics(text)
    assert run_command(lambda: report.main([str(runs), "--metrics", text])) == 2
    assert message in capsys.readouterr().err


def test_titles_say_the_group_or_the_attribute(runs):
    assert title_of("worst_attribute_average_precision") == "worst-attribute AP"
    assert title_of("worst_class_accuracy") == "worst-class"
    assert parse_metrics(" f1, f1 ,") == ("f1",)
    assert "f1" not in shown_columns(group_settings(load_runs([runs])), "test")
