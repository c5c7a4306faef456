"""Progressive Data Expansion: training on a group-balanced subset, to which rows are then added step by step.

Deng, Yang, Mirzasoleiman and Gu 2023 (arXiv 2306.04949), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Int, OrNull
from debeton.data.spec import count_codes
from debeton.data.views.subsets import balanced
from debeton.data.views.view import View
from debeton.methods.method import phase_on, register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.system.log import logger
from debeton.system.seed import make_rng
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run
from debeton.train.training import fit


@section("pde", "PDE: a group-balanced warm-up, and rows that are added step by step (Deng et al. 2023)")
@dataclass(frozen=True)
class PdeSettings:
    """The settings of section 'pde'."""

    warmup_epochs: int = setting(Int(1), "epochs on the balanced subset alone (T_0)", default=15)
    interval: int = setting(Int(1), "epochs between two expansions (J)", default=10)
    expansion: int | None = setting(
        OrNull(Int(1), 0),
        "rows that are added at each expansion (m); null: so many that the last one adds the last row",
        default=10,
    )


def expanding_view(view: View, settings: PdeSettings, epochs: int, seed: int) -> View:
    """Return the training rows as epochs have them: a group-balanced subset, and `settings.expansion` more at a time.

    The rows that are added are drawn at random from all others, whatever their group, each once.

    view: in the groups to balance.
    epochs: of the training, from which an expansion of null is computed.
    seed: data.seed, which decides the subset and the sequence of the other rows.
    """
    first = balanced(view, "group", seed)
    since = np.zeros(len(view), np.int64)
    others = make_rng(seed, f"pde {view.name}").permutation(np.flatnonzero(~np.isin(view.rows, first.rows)))
    expansions = max(1, -(-(epochs - settings.warmup_epochs) // settings.interval))
    size = settings.expansion or max(1, -(-len(others) // expansions))
    since[others] = settings.warmup_epochs + settings.interval * (np.arange(len(others)) // size)
    return view.growing(since)


def pde_view(run: Run) -> View:
    """Return `expanding_view` of the run's training rows."""
    training = run.config.training
    return expanding_view(view_by_group(run), run.config.section(PdeSettings), training.epochs, run.config.data.seed)


def describe_expansion(view: View, epochs: int) -> dict[str, Any]:
    """Return plain values: the rows of the warm-up, of the last epoch, and of the latter by group. Log them.

    Warn where training ends with the warm-up.
    """
    part, since = view.in_epoch(epochs - 1), view.since
    assert part is not None
    assert since is not None
    last, rows = view.subset(part), view.epoch_size
    logger.info("PDE: %d rows in the warm-up, %d of %d in the last epoch", rows, len(last), len(view))
    if len(last) == rows < len(view):
        logger.warning(
            "warning: pde adds no row: its first expansion is at epoch %d, and training.epochs is %d; so it is subg in "
            "epochs of %d rows",
            int(since[since > 0].min()) + 1,
            epochs,
            rows,
        )
    counts = count_codes(last.group[last.rows], view.spec.num_groups)
    by_group = {name: n for name, n in zip(view.spec.group_names, counts.tolist(), strict=True) if n}
    return {"warmup_rows": rows, "rows_at_end": len(last), "rows_at_end_by_group": by_group}


@register_method(
    "pde",
    "a group-balanced subset first, then step by step more rows",
    paper="Deng et al. 2023 (PDE)",
    needs="label, attribute",
    check=check_groups,
    phases=lambda run: phase_on(run, pde_view(run)),
)
def pde(run: Run) -> nn.Module:
    """Train by ERM on a group-balanced subset that grows. Optimizer, momentum and schedule go on through all of it."""
    view = pde_view(run)
    run.notes["pde"] = describe_expansion(view, run.config.training.epochs)
    return fit(run, view, CrossEntropy(run.config.training.label_smoothing))
