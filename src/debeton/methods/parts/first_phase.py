"""The first phase of From Fake to Real: a network learns from balanced synthetic images before it sees real ones.

Qraitem, Saenko and Plummer 2024 (arXiv 2308.04553). The rows of the phase are chosen in `data/views/synthetic.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from debeton.config import Config, PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Bool
from debeton.data.views.splits import evaluated
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.train.evaluation import evaluate
from debeton.train.metrics import SELECTION_RULES
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import InitialWeights, Run
from debeton.train.training import fit

PHASE = "first"


@section("ffr", "From Fake to Real: the first phase, and the parts of its result that the second keeps")
@dataclass(frozen=True)
class FfrSettings:
    """The settings of section 'ffr'."""

    epochs: int | None = phase_setting("epochs", PHASE)
    lr: float | None = phase_setting("lr", PHASE)
    weight_decay: float | None = phase_setting("weight_decay", PHASE)
    optimizer: str | None = phase_setting("optimizer", PHASE)
    freeze_bn: bool = setting(
        Bool(), "keep the batch-norm statistics of the first phase in the second phase", default=False
    )


def first_settings(config: Config) -> PhaseSettings:
    """Return the settings of the first phase."""
    return phase_settings(config, config.section(FfrSettings))


def first_outline(run: Run) -> Outline:
    """Return the outline of the first phase; empty where the views have no rows for one."""
    return [PhaseOutline(PHASE, first_settings(run.config), run.views[PHASE])] if PHASE in run.views else []


def begin(run: Run) -> Run:
    """Return the run as its method begins it: after the first phase, if the views have rows for one.

    The phase is ERM on the view 'first'; the real validation split selects its epoch. Networks of the returned run
    begin with its weights, head included. results.json gets the phase's own accuracies as notes.first_phase.
    """
    if PHASE not in run.views:
        return run
    view = run.views[PHASE]
    objective = cross_entropy(run, view)
    model = fit(run, view, objective, phase=PHASE, settings=first_settings(run.config), sections=["model"])
    run.notes["first_phase"] = {"rows": len(view), "epoch": run.phases[PHASE].selected_epoch}
    for split in evaluated(run.views):
        metrics = evaluate(run, model, split).metrics
        run.notes["first_phase"][split] = {rule.metric: metrics[rule.metric] for rule in SELECTION_RULES.values()}
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return run.beginning_with(InitialWeights(weights, freeze_bn=run.config.section(FfrSettings).freeze_bn))
