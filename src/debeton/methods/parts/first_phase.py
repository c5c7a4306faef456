"""The first phase of From Fake to Real: a network learns from balanced synthetic images before it sees real ones.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553). The rows of the phase are chosen in `data/views/synthetic.py`.
"""

from __future__ import annotations

from typing import Any

from fastargs import Param, Section

from debeton.config import Config
from debeton.config.checkers import Bool
from debeton.data.views.splits import evaluated
from debeton.methods.parts.own_settings import own_params, own_settings
from debeton.train.evaluation import evaluate
from debeton.train.metrics import SELECTION_RULES
from debeton.train.objective import CrossEntropy
from debeton.train.run import InitialWeights, Run
from debeton.train.training import fit

PHASE = "first"
OWN = ("epochs", "lr", "weight_decay", "optimizer")

Section("ffr", "From Fake to Real: the first phase, and what the second keeps of it").params(
    **own_params("the first phase", OWN),
    freeze_bn=Param(Bool(), "keep the batch-norm statistics of the first phase in the second", default=False),
)


def first_settings(config: Config) -> dict[str, Any]:
    """Return the settings of training that the first phase has for itself."""
    return own_settings(config.ffr, OWN)


def begin(run: Run) -> Run:
    """Return the run as its method begins it: after the first phase, if the views have rows for one.

    The phase is ERM on the view 'first'; the real validation split selects its epoch. Networks of the returned run
    begin with its weights, head included. results.json gets the phase's own accuracies as notes.first_phase.
    """
    if PHASE not in run.views:
        return run
    view = run.views[PHASE]
    objective = CrossEntropy(run.config.training.label_smoothing)
    model = fit(run, view, objective, phase=PHASE, settings=first_settings(run.config))
    run.notes["first_phase"] = {"rows": len(view), "epoch": run.phases[PHASE].selected_epoch}
    for split in evaluated(run.views):
        metrics = evaluate(run, model, split).metrics
        run.notes["first_phase"][split] = {key: metrics[key] for key in SELECTION_RULES.values()}
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return run.beginning_with(InitialWeights(weights, freeze_bn=bool(run.config.ffr.freeze_bn)))
