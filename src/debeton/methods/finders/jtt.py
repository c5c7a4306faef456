"""Errors of an early network: the rows that a network gets wrong after a few epochs of ERM.

Liu et al. 2021, "Just Train Twice: Improving Group Robustness without Training Group Information" (arXiv 2107.09044).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from debeton.config import phase_setting, section, setting
from debeton.config.checkers import Int
from debeton.data.views.view import View
from debeton.methods.finder import (
    IDENTIFY,
    Found,
    Groups,
    early_network,
    errors_and_losses,
    found_groups,
    identify_outline,
    register_finder,
)
from debeton.train.outline import Outline
from debeton.train.run import Run

ERROR_SET, COLUMN = "error_set.csv", "error"


@section("jtt", "Just Train Twice: the phase that finds the error rows, and their weight")
@dataclass(frozen=True)
class JttSettings:
    """The settings of section 'jtt'."""

    epochs: int = setting(Int(1), "epochs of the phase 'identify' (T)", default=1)
    upweight: int = setting(Int(0), "further copies of each error row in the training rows (lambda)", default=50)
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


def jtt_outline(run: Run) -> Outline:
    """Return the outline of phase 'identify'."""
    return identify_outline(run, JttSettings)


def error_set(run: Run, network: nn.Module) -> Found:
    """Return the training rows in groups by the network's errors, from error_set.csv of the run's folder."""

    def groups_of(view: View) -> Groups:
        return Groups(*errors_and_losses(run, network, view))

    hint = (
        "train the first network less: fewer --jtt.epochs, lower --jtt.lr, higher --jtt.weight_decay; if it gets every "
        "row wrong, train it longer or with another --jtt.lr"
    )
    return found_groups(run, network, groups_of, table=ERROR_SET, column=COLUMN, hint=hint)


@register_finder(
    "jtt",
    "rows that an early network gets wrong",
    paper="Liu et al. 2021 (JTT)",
    needs="label",
    cost="jtt.epochs",
    sections=("jtt",),
    phases=jtt_outline,
)
def jtt_groups(run: Run) -> Found:
    """Train ERM for T epochs; its errors are called bias-conflicting."""
    return error_set(run, early_network(run, JttSettings))
