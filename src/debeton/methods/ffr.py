"""From Fake to Real: a network learns first from balanced synthetic images alone, then from the real ones.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553). The second stage takes any base method: `--synthetic.mode ffr`
crosses with all of them, and the method `ffr` is short for `erm` with that mode.
"""

from __future__ import annotations

from torch import nn

from debeton.methods.group_choice import finder_of
from debeton.methods.method import METHODS, register_method
from debeton.system.errors import UsageError
from debeton.train.run import Run


def check_ffr(run: Run) -> None:
    """Raise UsageError for a group finder, whose groups erm on the real rows would not look at."""
    if finder_of(run) is not None:
        raise UsageError(
            f"groups.from is '{run.config.groups.finder}', and ffr is erm on the real rows, which looks at no groups; "
            "take a method that looks at groups with --synthetic.mode ffr, or leave groups.from out"
        )


@register_method(
    "ffr",
    "erm on the real rows, from a network that learned from balanced synthetic ones",
    paper="Qraitem et al. 2024 (From Fake to Real)",
    needs="label, attribute (of both the real and the synthetic rows)",
    check=check_ffr,
    class_weights=True,
    implies={"synthetic.mode": "ffr"},
)
def ffr(run: Run) -> nn.Module | None:
    """Train the second phase: ERM on the real rows. Its network begins after the first phase, as for every method."""
    return METHODS.get("erm").run(run)
