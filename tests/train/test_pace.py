"""The lines of a run: the pace of an epoch, its accuracies, and which epoch is kept and why."""

from __future__ import annotations

from typing import Any

import pytest

from debeton.train import pace
from debeton.train.keeper import epoch_line, reason_of_epoch
from debeton.train.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


def test_the_pace_has_the_seconds_of_the_epoch_images_a_second_and_the_time_left(clock: list[float]) -> None:
    watch = Pace(epochs=4, images_per_step=64)
    watch.begin(step=0, seconds=0.0)
    clock[0] += 30  # of which 20 in training
    assert watch.after_epoch(1, step=10, seconds=20.0) == "30 s  32 img/s  left 1.5 min"
    clock[0] += 12  # the first epoch also compiled: the others count alone
    assert watch.after_epoch(2, step=20, seconds=28.0) == "12 s  80 img/s  left 24 s"
    clock[0] += 18
    assert watch.after_epoch(3, step=30, seconds=40.0) == "18 s  53 img/s  left 15 s"
    clock[0] += 12
    assert watch.after_epoch(4, step=40, seconds=50.0) == "12 s  64 img/s"


def test_later_phases_count_by_their_images_and_a_resumed_epoch_by_its_own_steps(clock: list[float]) -> None:
    watch = Pace(epochs=2, images_per_step=10, later_images=1000)
    watch.begin(step=5, seconds=50.0)
    clock[0] += 5
    # 5 steps of 10 images in 5 s; left: 1 epoch of 5 s, and 1000 images at 10 a second
    assert watch.after_epoch(1, step=10, seconds=55.0) == "5.0 s  10 img/s  left 5.0 s (run 1.8 min)"
    clock[0] += 5
    assert watch.after_epoch(2, step=15, seconds=60.0) == "5.0 s  10 img/s  left for the run 1.7 min"


def metrics(**values: Any) -> dict[str, Any]:
    names = ("accuracy", "worst_group_accuracy", "mean_group_accuracy", "bias_conflicting_accuracy", "loss")
    return {**dict.fromkeys(names), "mean_class_accuracy": 0.5, **values}


def test_a_line_shows_the_accuracy_that_selects_and_those_that_are_defined() -> None:
    train = metrics(loss=0.5, accuracy=0.75)
    val = metrics(accuracy=0.9, worst_group_accuracy=0.1, mean_group_accuracy=0.6, bias_conflicting_accuracy=0.3)
    line = epoch_line(3, 60, train, val, 0.1, "accuracy")
    assert line == "epoch  3/60  lr 0.1  train loss 0.500 acc 75.0  val acc 90.0 worst 10.0 mean 60.0"
    assert epoch_line(3, 60, train, val, 0.1, "accuracy", "minority").endswith(
        "val acc 90.0 conflicting 30.0 worst 10.0"
    )
    assert epoch_line(3, 60, train, val, 0.1, "accuracy", shown=1).endswith("val acc 90.0")
    unknown = metrics(accuracy=0.9, loss=0.25)
    assert epoch_line(3, 60, train, unknown, 0.1, "accuracy", "loss").endswith("val acc 90.0 loss 0.250")


def test_the_reason_of_the_kept_epoch_names_the_rule_its_value_and_what_broke_a_tie() -> None:
    def val(worst: float, mean: float) -> dict[str, Any]:
        return metrics(worst_group_accuracy=worst, mean_group_accuracy=mean)

    def reason(epoch: int, *values: dict[str, Any]) -> str:
        return reason_of_epoch(epoch, 3, "worst_group", "worst_group", dict(enumerate(values, 1)))

    assert reason(2, val(0.1, 0), val(0.5, 0), val(0.2, 0)) == "epoch 2 of 3 is kept: worst_group on val 50.0 %"
    by_mean = reason(3, val(0.5, 0.6), val(0.1, 0.9), val(0.5, 0.7))
    assert by_mean == "epoch 3 of 3 is kept: worst_group on val 50.0 % (1 tie: mean_group decides)"
    earliest = reason(1, val(0.5, 0.6), val(0.5, 0.6), val(0.5, 0.5))
    assert earliest == "epoch 1 of 3 is kept: worst_group on val 50.0 % (2 ties: the earliest decides)"
    assert reason_of_epoch(3, 3, "last", "last", {}) == "epoch 3, the last, is kept"
    loss = reason_of_epoch(1, 3, "loss", "loss", {1: metrics(loss=0.25), 2: metrics(loss=0.5)})
    assert loss == "epoch 1 of 3 is kept: loss on val 0.2500"
