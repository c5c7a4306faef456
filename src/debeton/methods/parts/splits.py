"""Splits that a method needs beside the training split."""

from __future__ import annotations

from debeton.data.views.view import View
from debeton.system.errors import UsageError
from debeton.train.run import Run

REMEDIES = {
    "val": "write one, or hold some training rows out with --data.val_fraction 0.1",
    "target": "cut one off with --data.bias_rule scale, or give one with --data.target_path",
}


def view_of(run: Run, split: str, why: str) -> View:
    """Return the run's view of a split. Raise UsageError where there is none.

    split: 'val' or 'target'.
    why: the reason for needing the split, with which the error begins.
    """
    if split not in run.views:
        raise UsageError(f"{why}, but there is no such split; {REMEDIES[split]}")
    return run.views[split]
