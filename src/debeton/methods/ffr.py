"""From Fake to Real: a network learns first from balanced synthetic images alone, then from the real ones.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553). Its second stage takes any base method: `--synthetic.mode ffr`
crosses with all, and `ffr` is short for `erm` with it. What the stages are trained on is in `data/synthetic.py`.
"""

from __future__ import annotations

from typing import Any

from fastargs import Param, Section
from torch import nn

from debeton.config import Config
from debeton.config.checkers import Bool
from debeton.data.views.splits import evaluated
from debeton.methods.method import METHODS, register_method
from debeton.methods.parts.own_settings import own_params, own_settings
from debeton.train.metrics import SELECTION_RULES
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run

OWN = ("epochs", "lr", "weight_decay", "optimizer")

Section("ffr", "From Fake to Real: the first phase, and what the second keeps of it").params(
    **own_params("the first phase", OWN),
    freeze_bn=Param(Bool(), "keep the batch-norm statistics of the first phase in the second", default=False),
)


def first_settings(config: Config) -> dict[str, Any]:
    """What the first phase has of its own among the settings of training."""
    return own_settings(config.ffr, OWN)


def first_phase(run: Run) -> None:
    """Train on the view 'first' by ERM, keep its best epoch on the real validation split, and have the method start
    there, head included. results.json gets what that network reaches by itself, under notes.first_phase.
    """
    view = run.views["first"]
    objective = CrossEntropy(run.config.training.label_smoothing)
    model = run.fit(view, objective, phase="first", settings=first_settings(run.config))
    run.notes["first_phase"] = {"rows": len(view), "epoch": run.selected_epoch}
    for split in evaluated(run.views):
        metrics = run.evaluate(model, split).metrics
        run.notes["first_phase"][split] = {key: metrics[key] for key in SELECTION_RULES.values()}
    run.start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    run.freeze_bn = bool(run.config.ffr.freeze_bn)


@register_method(
    "ffr",
    "erm on the real rows, from a network that learned from balanced synthetic ones",
    paper="Qraitem et al. 2024 (From Fake to Real)",
    needs="label, attribute (of both the real and the synthetic rows)",
    implies={"synthetic.mode": "ffr"},
)
def ffr(run: Run) -> nn.Module | None:
    """The second phase: ERM on the real rows; the first one ran before, as synthetic.mode says."""
    return METHODS.get("erm").run(run)
