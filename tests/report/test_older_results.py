"""Accuracies of older results, computed from their groups, against the metrics of today."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.report.test_write import make_run, printed, settings_of

from debeton.data.spec import DatasetSpec
from debeton.report.older_results import MEANS, with_group_means
from debeton.report.runs import Setting
from debeton.report.tables import summary_numbers, summary_table, to_latex, to_markdown
from debeton.report.write import write_report
from debeton.train.metrics import group_metrics

BIRDS = DatasetSpec("birds", ("landbird", "waterbird"), ("land", "water"), aligned=((0,), (1,)))
TRAIN = dict(zip(BIRDS.group_names, (3498, 184, 56, 1057), strict=True))
TEST = np.array([2255, 2255, 642, 642])


def metrics_of(correct, total, spec=BIRDS, train_counts=None):
    return group_metrics(np.array(correct), np.array(total), np.zeros(len(total)), spec, train_counts)


def older(metrics):
    return {key: value for key, value in metrics.items() if key not in MEANS}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=4, max_size=4))
def test_means_of_older_results_are_those_of_today_or_none(pairs):
    correct, total = zip(*((min(pair), max(pair)) for pair in pairs), strict=True)
    assume(sum(total))
    today = metrics_of(correct, total)
    filled = with_group_means(older(today), TRAIN)
    for name in MEANS:
        assert filled[name] is None or filled[name] == pytest.approx(today[name])


def test_the_aligned_groups_of_waterbirds_are_found_from_the_numbers():
    today = metrics_of([2250, 1700, 400, 600], TEST)
    filled = with_group_means(older(today), {})
    assert [filled[name] for name in MEANS] == pytest.approx([today[name] for name in MEANS])
    assert filled["mean_conflicting_group_accuracy"] == pytest.approx((1700 / 2255 + 400 / 642) / 2)


def test_many_groups_take_the_largest_training_group_of_each_class():
    names = tuple(map(str, range(10)))
    spec = DatasetSpec("many", names, names, aligned=tuple((k,) for k in range(10)))
    rng = np.random.default_rng(0)
    total = rng.integers(1, 90, 100)
    today = metrics_of(rng.integers(0, total + 1), total, spec)
    train = {name: 900 if name[0] == name[-1] else 3 for name in spec.group_names}
    filled = with_group_means(older(today), train)
    assert [filled[name] for name in MEANS] == pytest.approx([today[name] for name in MEANS])
    wrong = {name: 900 if name[-1] == "0" else 3 for name in spec.group_names}
    assert with_group_means(older(today), wrong)["mean_conflicting_group_accuracy"] is None


def test_a_choice_that_the_numbers_leave_open_is_no_number():
    open_metrics = {
        "bias_aligned_accuracy": 0.5,
        "bias_conflicting_accuracy": 0.5,
        "group_accuracy": {"a": 0.5, "b": 0.25, "c": 0.75, "d": 0.5},
        "group_count": {"a": 4, "b": 4, "c": 4, "d": 8},
    }
    assert with_group_means(open_metrics, {})["mean_conflicting_group_accuracy"] == pytest.approx(0.5)
    uneven = {**open_metrics, "group_accuracy": {"a": 0.5, "b": 0.25, "c": 0.625, "d": 0.5}}
    uneven["group_count"] = {"a": 4, "b": 4, "c": 8, "d": 8}
    assert with_group_means(uneven, {})["mean_conflicting_group_accuracy"] is None


def write_results(folder, metrics, train=TRAIN):
    results = json.loads((folder / "results.json").read_text())
    results |= {"val": metrics, "test": metrics, "train_groups": train}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def waterbirds(tmp_path) -> tuple[Setting, ...]:
    """Write an older run on the counts of Waterbirds and return its setting."""
    metrics = metrics_of([2250, 1700, 400, 600], TEST, train_counts=np.array(list(TRAIN.values())))
    write_results(make_run(tmp_path), older(metrics))
    return tuple(settings_of(tmp_path))


def test_every_table_shows_the_average_that_papers_print_for_waterbirds(waterbirds, tmp_path):
    weights = np.array(list(TRAIN.values())) / 4795
    adjusted = f"{100 * weights @ (np.array([2250, 1700, 400, 600]) / TEST):.1f}"
    average, conflicting, cells = "85.4", "72.5", "68.8"
    row = summary_table(waterbirds).loc[0]
    assert row[["average", "adjusted", "conflicting", "mean-conflicting"]].tolist() == [
        average, adjusted, conflicting, cells
    ]  # fmt: skip
    page = write_report([tmp_path], tmp_path / "out").read_text()
    texts = [(tmp_path / "out" / name).read_text() for name in ("summary.md", "summary.tex")]
    for text in (page, *texts, printed(waterbirds)):
        assert all(word in text for word in (adjusted, cells, "adjusted", "mean-conflicting"))
    assert "the average that papers print" in page
    assert to_markdown(summary_table(waterbirds)).splitlines()[1].count("---:") == 8
    assert r"\begin{tabular}{lrrrrrrrrll}" in to_latex(summary_table(waterbirds))
    numbers = summary_numbers(waterbirds).loc[0]
    assert numbers["mean_conflicting_group_accuracy_mean"] == pytest.approx(100 * (1700 / 2255 + 400 / 642) / 2)


def test_columns_that_do_not_fit_a_terminal_come_below_and_no_number_is_cut(waterbirds, tmp_path):
    lines = printed(waterbirds, width=60).splitlines()
    assert max(map(len, lines)) <= 60
    heads = [line.split() for line in lines if line.startswith("setting")]
    assert len(heads) >= 2
    assert all(line.startswith("erm") for line in lines if "85.4" in line or "68.8" in line)
    assert "…" not in "".join(lines)


def test_columns_that_could_not_differ_are_left_out(tmp_path):
    counts = np.array([100, 20, 20, 100])
    metrics = metrics_of([90, 10, 12, 80], counts, train_counts=10 * counts)
    write_results(make_run(tmp_path), metrics, dict(zip(BIRDS.group_names, (10 * counts).tolist(), strict=True)))
    assert list(summary_table(settings_of(tmp_path)).columns) == [
        "setting", "n", "average", "worst-group", "mean-group", "aligned", "conflicting", "worst group", "selection"
    ]  # fmt: skip


def test_a_set_with_other_training_shares_has_the_column_even_if_the_numbers_agree(tmp_path):
    counts = np.array([10, 10, 10, 10])
    write_results(make_run(tmp_path), metrics_of(counts, counts, train_counts=np.array([90, 5, 5, 90])))
    row = summary_table(settings_of(tmp_path)).loc[0]
    assert (row["average"], row["adjusted"]) == ("100.0", "100.0")
