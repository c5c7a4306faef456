"""Metrics of probabilities: scikit-learn's numbers on all rows, fairlearn's by group, and what is not defined."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as reference
from sklearn.preprocessing import label_binarize

from debeton import DataError, DatasetSpec, measure_predictions
from debeton.train.intervals import accuracy_intervals, wilson_interval
from debeton.train.probability_metrics import PROBABILITY_KEYS, calibration_error, probability_metrics

EXACT = {"rel": 0, "abs": 1e-9}


def spec_of(classes: int, attributes: int, **more) -> DatasetSpec:
    return DatasetSpec("x", tuple(f"c{k}" for k in range(classes)), tuple(f"a{k}" for k in range(attributes)), **more)


def drawn(seed: int, rows: int, classes: int, attributes: int, levels: int):
    """Probabilities on a coarse grid, so that many tie, and codes; every class has a row."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, levels, (rows, classes)) + 0.25
    label = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    return weights / weights.sum(1, keepdims=True), label, rng.integers(0, attributes, rows)


def close(found, expected) -> bool:
    return found is expected is None or found == pytest.approx(expected, **EXACT)


def measured(probabilities, label, attribute, spec):
    predicted = probabilities.argmax(1)
    return probability_metrics(probabilities, predicted, label, attribute, spec.group(label, attribute), spec)


def expected_scores(probabilities, label):
    """The definitions of this package in scikit-learn's functions."""
    predicted, classes = probabilities.argmax(1), probabilities.shape[1]
    present = np.unique(label)
    if classes == 2:
        score, positive = probabilities[:, 1], label == 1
        return {
            "auroc": reference.roc_auc_score(positive, score) if len(present) > 1 else None,
            "average_precision": reference.average_precision_score(positive, score) if len(present) > 1 else None,
            "f1": reference.f1_score(label, predicted) if positive.any() else None,
            "brier": reference.brier_score_loss(positive, score, pos_label=True),
        }
    truth = label_binarize(label, classes=range(classes))
    ranked = len(present) > 1
    pairs = [(truth[:, k], probabilities[:, k]) for k in present]
    return {
        "auroc": np.mean([reference.roc_auc_score(*pair) for pair in pairs]) if ranked else None,
        "average_precision": np.mean([reference.average_precision_score(*p) for p in pairs]) if ranked else None,
        "f1": reference.f1_score(label, predicted, average="macro", zero_division=0),
        "brier": float(((probabilities - truth) ** 2).sum(1).mean()),
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 60), st.integers(2, 5), st.integers(1, 3), st.sampled_from([2, 4, 1000]))
def test_every_number_is_scikit_learns_with_ties_and_absent_classes(seed, rows, classes, attributes, levels):
    probabilities, label, attribute = drawn(seed, rows, classes, attributes, levels)
    spec = spec_of(classes, attributes)
    group = spec.group(label, attribute)
    found = measured(probabilities, label, attribute, spec)
    kinds = [("group", group, spec.group_names), ("attribute", attribute, spec.attributes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric, value in expected_scores(probabilities, label).items():
            assert close(found[metric], value), metric
        for kind, code, names in kinds[: 1 + (attributes > 1)]:
            for k, name in enumerate(names):
                rows_of = code == k
                scores = expected_scores(probabilities[rows_of], label[rows_of]) if rows_of.any() else None
                for metric in ("auroc", "average_precision", "f1", "brier"):
                    value = None if scores is None else scores[metric]
                    assert close(found[f"{kind}_{metric}"][name], value), (metric, name)
    assert ("attribute_auroc" in found) == (attributes > 1)


def test_all_rows_of_several_classes_agree_with_scikit_learns_own_averages():
    probabilities, label, attribute = drawn(3, 200, 4, 2, 9)
    found = measured(probabilities, label, attribute, spec_of(4, 2))
    truth = label_binarize(label, classes=range(4))
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(label, probabilities, multi_class="ovr"), **EXACT)
    assert found["average_precision"] == pytest.approx(
        reference.average_precision_score(truth, probabilities, average="macro"), **EXACT
    )
    assert found["f1"] == pytest.approx(reference.f1_score(label, probabilities.argmax(1), average="macro"), **EXACT)


def test_numbers_by_attribute_and_by_group_are_those_of_fairlearns_metric_frame():
    probabilities, label, attribute = drawn(5, 300, 2, 3, 7)
    spec = spec_of(2, 3)
    found = measured(probabilities, label, attribute, spec)
    score, predicted = probabilities[:, 1], probabilities.argmax(1)
    for metric, function, values, worst in (
        ("auroc", reference.roc_auc_score, score, "group_min"),
        ("average_precision", reference.average_precision_score, score, "group_min"),
        ("f1", reference.f1_score, predicted, "group_min"),
        ("brier", reference.brier_score_loss, score, "group_max"),
    ):
        frame = MetricFrame(metrics=function, y_true=label, y_pred=values, sensitive_features=attribute)
        assert list(found[f"attribute_{metric}"].values()) == pytest.approx(frame.by_group.tolist(), **EXACT)
        assert found[f"worst_attribute_{metric}"] == pytest.approx(getattr(frame, worst)(), **EXACT)

    def squares(truth, given):
        return float(np.square(given - truth).mean())

    frame = MetricFrame(metrics=squares, y_true=label, y_pred=score, sensitive_features=spec.group(label, attribute))
    assert list(found["group_brier"].values()) == pytest.approx(frame.by_group.tolist(), **EXACT)
    assert found["worst_group_brier"] == pytest.approx(frame.group_max(), **EXACT)


def test_a_group_of_one_class_has_no_ranking_metric_and_f1_only_for_the_positive_class():
    probabilities, label, attribute = drawn(1, 40, 2, 2, 5)
    found = measured(probabilities, label, attribute, spec_of(2, 2))
    assert set(found["group_auroc"].values()) == set(found["group_average_precision"].values()) == {None}
    assert found["worst_group_auroc"] is None
    assert [value is None for value in found["group_f1"].values()] == [True, True, False, False]
    assert found["worst_group_f1"] == min(found["group_f1"]["c1, a0"], found["group_f1"]["c1, a1"])
    assert set(PROBABILITY_KEYS) <= set(found)


def test_the_calibration_error_is_that_of_bins_counted_one_by_one():
    probabilities, label, _ = drawn(2, 500, 3, 1, 30)
    probabilities[:5] = [[1 / 3] * 3, [0.4, 0.3, 0.3], [0.6, 0.2, 0.2], [1, 0, 0], [0.8, 0.1, 0.1]]  # edges of bins
    predicted = probabilities.argmax(1)
    confidence, right = probabilities.max(1), predicted == label
    total = 0.0
    for b in range(15):
        rows = [i for i in range(500) if b / 15 < confidence[i] <= (b + 1) / 15]
        if rows:
            total += len(rows) / 500 * abs(right[rows].mean() - confidence[rows].mean())
    assert calibration_error(probabilities, predicted, label) == pytest.approx(total, **EXACT)
    # Half of the rows right at a confidence of 0.9, in one bin: 0.4 apart.
    half = np.tile([0.1, 0.9], (10, 1))
    assert calibration_error(half, np.ones(10, int), np.arange(10) % 2) == pytest.approx(0.4)


def test_rows_of_unknown_attribute_count_over_all_rows_and_in_no_group():
    probabilities, label, attribute = drawn(4, 60, 2, 2, 50)
    spec = spec_of(2, 2)
    attribute[::3] = -1
    found, known = measured(probabilities, label, attribute, spec), attribute >= 0
    of_known = measured(probabilities[known], label[known], attribute[known], spec)
    assert close(found["auroc"], reference.roc_auc_score(label, probabilities[:, 1]))
    assert found["group_brier"] == of_known["group_brier"]
    assert found["attribute_auroc"] == of_known["attribute_auroc"]


def test_probabilities_that_are_no_numbers_leave_the_metrics_undefined():
    probabilities, label, attribute = drawn(4, 20, 2, 2, 50)
    probabilities[3] = np.nan
    found = measured(probabilities, label, attribute, spec_of(2, 2))
    assert [found[name] for name in ("auroc", "f1", "ece", "brier")] == [None] * 4


@pytest.mark.parametrize(("right", "rows"), [(0, 7), (7, 7), (3, 7), (980, 1000)])
def test_the_interval_of_an_accuracy_is_wilsons(right, rows):
    interval = binomtest(right, rows).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(right / rows, rows)
    assert [low, high] == pytest.approx([interval.low, interval.high], abs=1e-12)
    assert 0 <= low <= right / rows <= high <= 1


def test_intervals_are_of_all_rows_and_of_every_group_that_has_rows():
    found = accuracy_intervals(
        {
            "accuracy": 0.5,
            "group_accuracy": {"a": 0.25, "b": None},
            "group_count": {"a": 8, "b": 0},
            "attribute_unknown": {"count": 2, "accuracy": 1.0},
        }
    )
    assert found["accuracy_interval"] == wilson_interval(0.5, 10)
    assert found["group_accuracy_interval"] == {"a": wilson_interval(0.25, 8), "b": None}
    assert wilson_interval(None, 3) is wilson_interval(0.5, 0) is None


def test_measure_predictions_takes_probabilities_made_anywhere():
    probabilities, label, attribute = drawn(6, 80, 3, 2, 40)
    spec, predicted = spec_of(3, 2), probabilities.argmax(1)
    found = measure_predictions(predicted, label, attribute, spec, probabilities=probabilities)
    assert found.items() >= measured(probabilities, label, attribute, spec).items()
    assert found["accuracy_interval"] == wilson_interval(found["accuracy"], 80)
    assert "auroc" not in measure_predictions(predicted, label, attribute, spec)
    single = measure_predictions(
        probabilities[:, 1] > 0.5, label > 0, attribute, spec_of(2, 2), probabilities=probabilities[:, 1]
    )
    assert single["auroc"] == pytest.approx(reference.roc_auc_score(label > 0, probabilities[:, 1]), **EXACT)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.5]] * 3, r"expected \[4, 2\]"),
        ([[0.5, 0.5]] * 3 + [[0.5, 0.4]], "row 3 add up to 0.9"),
        ([[0.5, 0.5]] * 3 + [[1.5, -0.5]], "row 3 .*between 0 and 1"),
        ([0.1, 0.2, math.nan, 0.3], "row 2 .*between 0 and 1"),
    ],
)
def test_wrong_probabilities_are_named_by_their_first_row(probabilities, message):
    with pytest.raises(DataError, match=message):
        measure_predictions([0, 1, 0, 1], [0, 1, 1, 0], [0] * 4, spec_of(2, 1), probabilities=probabilities)
