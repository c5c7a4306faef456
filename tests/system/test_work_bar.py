"""Progress of long work: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging

import pytest
from tqdm import tqdm

from debeton.system import work_bar as module
from debeton.system.work_bar import WorkLines, work_bar


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute_with_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO)
    with work_bar("images", 6000, unit="image", shown=False) as bar:
        for _ in range(12):
            clock[0] += 10
            bar.update(20)
    assert [record.getMessage() for record in caplog.records] == [
        "images: 120 of 6,000, 2 image/s, left 49 min",
        "images: 240 of 6,000, 2 image/s, left 48 min",
    ]


def test_short_work_says_nothing_and_items_come_as_they_are(clock, caplog):
    caplog.set_level(logging.INFO)
    bar = work_bar("measuring test", items=range(5), unit="step", shown=False)
    assert isinstance(bar, WorkLines)
    assert list(bar) == [0, 1, 2, 3, 4]
    assert (bar.done, bar.total, caplog.records) == (5, 5, [])


def test_work_of_unknown_length_is_counted(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in work_bar("read", items=iter("abcd"), unit="item", shown=False):
        clock[0] += 40
    assert [record.getMessage() for record in caplog.records] == [
        "read: 2 items, 0.025 item/s",
        "read: 4 items, 0.025 item/s",
    ]


def test_a_terminal_gets_a_bar():
    bar = work_bar("images", 3, unit="image", shown=True)
    assert isinstance(bar, tqdm)
    assert (bar.total, bar.desc.rstrip(": "), bar.unit) == (3, "images", "image")
    bar.close()
