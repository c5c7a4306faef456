"""attack.py: the rates of a trigger, against counts by hand and a loop over rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from debeton.train.attack import attack_metrics, rates_by

CLASSES = ("bird", "cat", "dog")


def test_rates_of_six_rows_counted_by_hand():
    label = np.array([0, 0, 1, 1, 2, 2])
    clean = np.array([0, 1, 1, 1, 0, 2])  # rows 0, 2, 3 and 5 are right
    triggered = np.array([2, 0, 1, 2, 2, 2])  # of these 0 and 3 become wrong; 0, 1, 3 and 4 change
    found = attack_metrics(label, clean, triggered, CLASSES)
    assert found["attack_success_rate"] == 2 / 4
    assert found["flip_rate"] == pytest.approx(4 / 6)
    assert found["accuracy_drop"] == 0  # rows 1 and 4 become right
    assert found["shift"] == {
        "bird": pytest.approx(-1 / 6),
        "cat": pytest.approx(-2 / 6),
        "dog": pytest.approx(3 / 6),
    }
    assert found["shift_class"] == "dog"
    by_class = rates_by(label, CLASSES, label, clean, triggered)
    assert by_class == {
        "bird": {"attack_success_rate": 1.0, "flip_rate": 1.0},
        "cat": {"attack_success_rate": 0.5, "flip_rate": 0.5},
        "dog": {"attack_success_rate": 0.0, "flip_rate": 0.5},
    }


def test_what_has_no_rows_is_none_and_never_zero():
    label, wrong = np.array([0, 0, 2]), np.array([1, 1, 1])
    assert attack_metrics(label, wrong, wrong, CLASSES)["attack_success_rate"] is None
    found = rates_by(label, CLASSES, label, wrong, wrong)
    assert found["cat"] == {"attack_success_rate": None, "flip_rate": None}
    assert found["dog"] == {"attack_success_rate": None, "flip_rate": 0.0}


rows = st.lists(st.tuples(*(st.integers(0, 2) for _ in range(4))), min_size=1, max_size=60)


@given(rows)
def test_rates_equal_a_loop_over_rows(table):
    label, clean, triggered, group = np.array(table).T
    found = attack_metrics(label, clean, triggered, CLASSES)
    right = [row for row in table if row[0] == row[1]]
    lost = [row for row in right if row[2] != row[0]]
    assert found["attack_success_rate"] == (pytest.approx(len(lost) / len(right)) if right else None)
    assert found["flip_rate"] == pytest.approx(sum(row[1] != row[2] for row in table) / len(table))
    assert sum(found["shift"].values()) == pytest.approx(0)
    assert found["accuracy_drop"] == pytest.approx((len(right) - sum(row[2] == row[0] for row in table)) / len(table))
    by_group = rates_by(group, CLASSES, label, clean, triggered)
    for code, name in enumerate(CLASSES):
        mine = [row for row in table if row[3] == code]
        kept = [row for row in mine if row[0] == row[1]]
        expected = sum(row[2] != row[0] for row in kept) / len(kept) if kept else None
        assert by_group[name]["attack_success_rate"] == (None if expected is None else pytest.approx(expected))
