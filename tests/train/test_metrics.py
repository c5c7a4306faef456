"""Group metrics against closed forms, fairlearn and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from debeton.data.spec import DatasetSpec, Factor
from debeton.train.metrics import GroupMeter, group_metrics, selection_score

SPEC = DatasetSpec("toy", ("a", "b", "c"), ("x", "y"), aligned=((0,), (1,), (0, 1)))


def metrics_of(predicted, label, attribute, spec=SPEC, train_counts=None, loss=None):
    predicted, label, attribute = (torch.as_tensor(v) for v in (predicted, label, attribute))
    meter = GroupMeter(spec.num_groups, spec.num_classes)
    group = torch.from_numpy(spec.group(label.numpy(), attribute.numpy()))
    loss = torch.zeros(len(label)) if loss is None else torch.as_tensor(loss)
    for part in torch.arange(len(label)).split(3):  # several updates must add up
        meter.update_predictions(predicted[part], label[part], group[part], loss[part])
    return meter.compute(spec, train_counts)


def test_an_absent_group_is_none_and_does_not_count():
    metrics = metrics_of([0, 1, 1], [0, 1, 0], [0, 1, 0])
    assert metrics["group_accuracy"] == {
        "a, x": 0.5,
        "a, y": None,
        "b, x": None,
        "b, y": 1.0,
        "c, x": None,
        "c, y": None,
    }
    assert metrics["group_count"]["a, y"] == 0
    assert metrics["worst_group_accuracy"] == 0.5
    assert metrics["worst_group"] == "a, x"
    assert metrics["mean_group_accuracy"] == 0.75
    assert metrics["mean_class_accuracy"] == 0.75


def test_no_row_at_all_gives_no_number():
    metrics = GroupMeter(6, 3).compute(SPEC, np.ones(6, np.int64))
    for key in ("accuracy", "worst_group_accuracy", "mean_group_accuracy", "adjusted_accuracy", "worst_group", "loss"):
        assert metrics[key] is None


def test_adjusted_accuracy_weighs_groups_by_their_training_share():
    # Waterbirds' training counts; accuracies 1, .5, .25, .75 by group.
    spec = DatasetSpec("waterbirds", ("land", "water"), ("land", "water"))
    correct, total = np.array([8, 4, 2, 6]), np.array([8, 8, 8, 8])
    metrics = group_metrics(correct, total, np.zeros(4), spec, np.array([3498, 184, 56, 1057]))
    assert metrics["adjusted_accuracy"] == pytest.approx((3498 + 0.5 * 184 + 0.25 * 56 + 0.75 * 1057) / 4795)
    assert metrics["accuracy"] == 0.625
    assert group_metrics(correct, total, np.zeros(4), spec)["adjusted_accuracy"] is None


def test_missing_cells_are_not_reported():
    spec = DatasetSpec("animals", ("a", "b"), ("x", "y"), missing=(1,))
    metrics = group_metrics(np.array([1, 0, 1, 1]), np.array([1, 0, 2, 1]), np.zeros(4), spec)
    assert list(metrics["group_accuracy"]) == ["a, x", "b, x", "b, y"]


def test_aligned_and_conflicting_follow_the_spec():
    metrics = metrics_of([0, 0, 1, 0, 2, 0], [0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 0, 1])
    assert metrics["bias_aligned_accuracy"] == 0.75  # a,x right; b,y right; c,x right; c,y wrong
    assert metrics["bias_conflicting_accuracy"] == 0.5  # a,y right; b,x wrong
    plain = metrics_of([0], [0], [0], DatasetSpec("plain", ("a", "b")))
    assert plain["bias_aligned_accuracy"] is None


def test_conflicting_rows_and_conflicting_groups_have_an_accuracy_each():
    # The counts of CelebA's test rows; (not blond, female) and (blond, male) are bias-conflicting.
    spec = DatasetSpec("celeba", ("not blond", "blond"), ("female", "male"), aligned=((1,), (0,)))
    total, correct = np.array([9767, 7535, 2480, 180]), np.array([7591, 7500, 2400, 80])
    metrics = group_metrics(correct, total, np.zeros(4), spec)
    assert metrics["bias_conflicting_accuracy"] == pytest.approx(7671 / 9947)
    assert metrics["mean_conflicting_group_accuracy"] == pytest.approx((7591 / 9767 + 80 / 180) / 2)
    assert metrics["bias_aligned_accuracy"] == pytest.approx(9900 / 10015)
    assert metrics["mean_aligned_group_accuracy"] == pytest.approx((7500 / 7535 + 2400 / 2480) / 2)
    assert (round(100 * metrics["bias_conflicting_accuracy"], 1), metrics["mean_conflicting_group_accuracy"]) == (
        77.1,
        pytest.approx(0.6108, abs=1e-4),
    )


def test_means_over_groups_leave_out_groups_without_rows_and_sets_without_pairs():
    metrics = metrics_of([0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1])
    assert metrics["mean_aligned_group_accuracy"] == metrics["mean_conflicting_group_accuracy"] == 1.0
    only_aligned = metrics_of([0], [0], [0])
    assert only_aligned["mean_aligned_group_accuracy"] == 1.0
    assert only_aligned["mean_conflicting_group_accuracy"] is None
    assert metrics_of([0], [0], [0], DatasetSpec("plain", ("a", "b")))["mean_conflicting_group_accuracy"] is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31 - 1))
def test_group_accuracy_agrees_with_fairlearn(n, seed):
    rng = np.random.default_rng(seed)
    label, predicted, attribute = rng.integers(0, 3, n), rng.integers(0, 3, n), rng.integers(0, 2, n)
    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=label,
        y_pred=predicted,
        sensitive_features={"label": label, "attribute": attribute},
    )
    metrics = metrics_of(predicted, label, attribute)
    expected = {f"{'abc'[int(y)]}, {'xy'[int(a)]}": v for (y, a), v in frame.by_group.items() if not np.isnan(v)}
    assert {k: v for k, v in metrics["group_accuracy"].items() if v is not None} == pytest.approx(expected)
    assert metrics["worst_group_accuracy"] == pytest.approx(frame.group_min())
    assert metrics["accuracy"] == pytest.approx(frame.overall)
    assert metrics["mean_group_accuracy"] == pytest.approx(np.mean(list(expected.values())))


def test_loss_is_scikit_learns_log_loss():
    rng = np.random.default_rng(0)
    logits, label = torch.from_numpy(rng.normal(size=(50, 3))).float(), torch.from_numpy(rng.integers(0, 3, 50))
    meter = GroupMeter(6, 3)
    meter.update(logits, label, label * 2)
    assert meter.compute(SPEC)["loss"] == pytest.approx(
        log_loss(label, logits.softmax(1).numpy(), labels=[0, 1, 2]), abs=1e-6
    )


def test_a_restored_meter_goes_on_counting():
    meter, other = GroupMeter(6, 3), GroupMeter(6, 3)
    logits, label = torch.eye(3), torch.tensor([0, 1, 1])
    meter.update(logits, label, label * 2)
    other.restore({name: value.clone() for name, value in meter.state().items()})
    for m in (meter, other):
        m.update(logits, label, label * 2 + 1)
    assert other.compute(SPEC) == meter.compute(SPEC)
    meter.reset()
    assert meter.compute(SPEC)["accuracy"] is None


def test_selection_prefers_the_rules_metric_and_breaks_ties_by_mean_group():
    better_mean = {"worst_group_accuracy": 0.0, "mean_group_accuracy": 0.6, "accuracy": 0.5, "loss": 2.0}
    better_loss = {"worst_group_accuracy": 0.0, "mean_group_accuracy": 0.5, "accuracy": 0.7, "loss": 1.0}
    assert selection_score(better_mean, "worst_group") > selection_score(better_loss, "worst_group")
    assert selection_score(better_loss, "average") > selection_score(better_mean, "average")
    assert selection_score(better_loss, "loss") > selection_score(better_mean, "loss")


# --- Gaps of several shortcuts -------------------------------------------------------------------------------

CARS = DatasetSpec(
    "cars",
    ("urban", "country"),
    ("uu", "uc", "cu", "cc"),
    aligned=((0,), (3,)),
    factors=(
        Factor("background", ("urban", "country"), (0, 1), 0.95),
        Factor("co_object", ("urban", "country"), (0, 1), 0.95),
    ),
)
# Accuracies by group: both aligned 1 and .9, object conflicts .8 and .7, background .6 and .5, both .4 and .1.
CARS_CORRECT, CARS_TOTAL = np.array([10, 8, 6, 4, 1, 5, 7, 9]), np.full(8, 10)


def test_shortcut_gaps_are_those_of_the_paper():
    gaps = group_metrics(CARS_CORRECT, CARS_TOTAL, np.zeros(8), CARS)["shortcut_gaps"]
    id_accuracy = 0.9025 * 0.95 + 0.0475 * 0.55 + 0.0475 * 0.75 + 0.0025 * 0.25
    assert gaps["id_accuracy"] == pytest.approx(id_accuracy)
    assert list(gaps["conflicting"]) == ["background", "co_object", "background+co_object"]
    for name, accuracy in (("background", 0.55), ("co_object", 0.75), ("background+co_object", 0.25)):
        found = gaps["conflicting"][name]
        assert found["accuracy"] == pytest.approx(accuracy)
        assert found["drop"] == pytest.approx(accuracy - id_accuracy)  # negative, as Whac-A-Mole prints it
        assert found["gap"] == -found["drop"]
    assert json.loads(json.dumps(gaps)) == gaps


def test_a_cells_accuracy_is_the_mean_over_its_groups_and_not_over_its_rows():
    correct, total = CARS_CORRECT * 1, CARS_TOTAL * 1
    correct[2], total[2] = 600, 1000
    gaps = group_metrics(correct, total, np.zeros(8), CARS)["shortcut_gaps"]
    assert gaps["conflicting"]["background"]["accuracy"] == pytest.approx(0.55)


def test_gaps_of_an_absent_cell_are_none():
    correct, total = CARS_CORRECT * 1, CARS_TOTAL * 1
    correct[[2, 5]] = total[[2, 5]] = 0  # no row whose background alone conflicts
    gaps = group_metrics(correct, total, np.zeros(8), CARS)["shortcut_gaps"]
    assert gaps["id_accuracy"] is None
    assert gaps["conflicting"]["background"] == {"accuracy": None, "drop": None, "gap": None}
    assert gaps["conflicting"]["co_object"] == {"accuracy": pytest.approx(0.75), "drop": None, "gap": None}
    total[2], correct[2] = 5, 3
    gaps = group_metrics(correct, total, np.zeros(8), CARS)["shortcut_gaps"]
    assert gaps["conflicting"]["background"]["accuracy"] == pytest.approx(0.6)  # the mean over groups with rows
    assert gaps["id_accuracy"] == pytest.approx(0.9025 * 0.95 + 0.0475 * 0.6 + 0.0475 * 0.75 + 0.0025 * 0.25)


def test_three_factors_have_seven_gaps_and_rates_of_their_own():
    rates = (0.9, 0.8, 1.0)
    factors = tuple(Factor(name, ("0", "1"), (0, 1), rate) for name, rate in zip("abc", rates))
    spec = DatasetSpec("cube", ("0", "1"), tuple(f"{k:03b}" for k in range(8)), factors=factors)
    total = np.full(16, 8)
    conflicts = np.array([[bit != str(group // 8) for bit in f"{group % 8:03b}"] for group in range(16)])
    correct = 8 - conflicts @ np.array([1, 2, 4])  # each factor costs its own share of the rows
    gaps = group_metrics(correct, total, np.zeros(16), spec)["shortcut_gaps"]
    assert gaps["id_accuracy"] == pytest.approx(1 - 0.1 / 8 - 0.2 * 2 / 8)
    assert list(gaps["conflicting"]) == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    assert gaps["conflicting"]["a+c"]["accuracy"] == pytest.approx(3 / 8)
    total[conflicts[:, 2]] = correct[conflicts[:, 2]] = 0  # c never conflicts in training: id needs no such row
    assert group_metrics(correct, total, np.zeros(16), spec)["shortcut_gaps"]["id_accuracy"] == gaps["id_accuracy"]


def test_sets_without_factors_have_no_shortcut_gaps():
    assert "shortcut_gaps" not in metrics_of([0], [0], [0])
