"""Resampling: every group is drawn equally often."""

from __future__ import annotations

from torch import nn

from debeton.data.view import View
from debeton.errors import DataError
from debeton.methods import register_method
from debeton.objective import CrossEntropy
from debeton.run import Run


def check_every_group(view: View, on_empty: str) -> None:
    """DataError that names the groups without a row, unless on_empty is 'ignore'."""
    counts = view.counts_by_name()
    empty = [name for name, count in counts.items() if count == 0]
    if empty and on_empty == "error":
        shown = "; ".join(empty[:5]) + ("; ..." if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} of {len(counts)} groups of view '{view.name}' have no row ({shown}) and cannot be "
            "balanced; choose another training split, or balance the others with --training.empty_groups ignore"
        )


@register_method(
    "resample",
    "each group drawn equally often, with replacement",
    paper="Idrissi et al. 2022 (RWG)",
    needs="label, attribute",
)
def resample(run: Run) -> nn.Module:
    """ERM on rows drawn with probability 1 / group size."""
    view = run.views["train"]
    check_every_group(view, run.config.training.empty_groups)
    return run.fit(view.resampled_by_group(), CrossEntropy(run.config.training.label_smoothing))
