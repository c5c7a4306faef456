"""SELF: the last layer is fine-tuned on held-out rows on which the network and a weaker one disagree.

LaBonte, Muthukumar and Kumar 2023, "Towards Last-layer Retraining for Group Robustness with Fewer Annotations" (arXiv
2309.08534): selective last-layer finetuning. Its rows need no groups; a few choose among its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import PhaseSettings, phase_settings, section, setting
from debeton.config.checkers import Float, FloatList, Int, IntList, OneOf
from debeton.data.spec import count_codes
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_every_class
from debeton.methods.parts.base_network import Base, refit_head
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.methods.parts.first_phase import PHASE as SYNTHETIC
from debeton.methods.parts.first_phase import begin
from debeton.methods.parts.gradient_head import (
    Descent,
    FeatureRows,
    HeadChoice,
    check_choice,
    chosen_by,
    constant,
    descend,
)
from debeton.methods.parts.logistic_head import FeatureSet
from debeton.methods.parts.splits import view_of
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.system.seed import derive_seed, make_rng
from debeton.train.evaluation import CLEAN, evaluate_presentations
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.remarks import CHOSE_HEAD, FITTED
from debeton.train.run import Run
from debeton.train.training import fit

PHASE, EARLY = "self", "early"


@section("self", "SELF: the last layer, fine-tuned on held-out rows on which two networks disagree")
@dataclass(frozen=True)
class SelfSettings:
    """The settings of section 'self'."""

    disagreement: str = setting(
        OneOf("early_stop", "dropout", "error", "early_stop_error"),
        "score of a row: divergence from an early network, or under dropout; loss of the network, or of the early one",
        default="early_stop",
    )
    early_epochs: int = setting(Int(1), "epochs of the early network, which is trained by itself", default=1)
    dropout: float = setting(Float(0, 1), "share of the features that is dropped, below 1", default=0.5)
    rows: tuple[int, ...] = setting(
        IntList(), "numbers of rows of highest score that validation chooses from", default=(20, 100, 500)
    )
    lr: tuple[float, ...] = setting(
        FloatList(above=0, at_least=1),
        "learning rates of the last layer that validation chooses from",
        default=(1e-4, 1e-3, 1e-2),
    )
    steps: int = setting(Int(1), "gradient steps on the last layer", default=250)
    batch_size: int = setting(Int(1), "rows of a step, each class drawn equally often", default=32)
    momentum: float = setting(Float(0, 1), "momentum of these steps", default=0.9)
    weight_decay: float = setting(Float(0), "weight decay of these steps", default=1e-4)


def divergence(logits: Tensor, weaker: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of each row, sum_c p_c log(p_c / q_c), float32 [n].

    logits: of the network, [n, C], with the probabilities p.
    weaker: of the regularised network, [n, C], with q.
    """
    p, q = logits.float().log_softmax(1), weaker.float().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def highest(score: Tensor, size: int) -> Tensor:
    """Return the positions of the rows of highest score, the first of equals: int64 [min(size, n)]."""
    return score.argsort(descending=True, stable=True)[:size]


def early_settings(run: Run) -> PhaseSettings:
    """Return the settings of the early network, whose last epoch is kept."""
    settings = run.config.section(SelfSettings)
    return replace(phase_settings(run.config), epochs=settings.early_epochs, selection="last")


def needs_early(run: Run) -> bool:
    """Return whether the score of a row needs an early network."""
    return run.config.section(SelfSettings).disagreement.startswith("early_stop")


def sizes(run: Run) -> list[int]:
    """Return the numbers of rows that are tried. UsageError where there is none, or one below 1."""
    values = list(dict.fromkeys(run.config.section(SelfSettings).rows))
    if not values or min(values) < 1:
        raise UsageError(f"self.rows is {values}; expected numbers of rows from 1 on, such as --self.rows 20,100,500")
    return values


def check_self(run: Run) -> None:
    """Raise UsageError or DataError for a base or a validation split that does not fit."""
    settings = run.config.section(SelfSettings)
    val = view_of(run, "val", "self fine-tunes the last layer on one half of the validation rows")
    check_every_class(val, run.config.training.empty_groups)
    check_choice(run, len(sizes(run)) * len(settings.lr), "self.rows and self.lr", at_least=2)
    if settings.disagreement == "dropout" and not 0 < settings.dropout < 1:
        raise UsageError(
            f"self.dropout is {settings.dropout:g}, so that the network agrees with itself or sees no feature; "
            "expected a share above 0 and below 1"
        )
    Base.of(run).check(run)


def self_phases(run: Run) -> Outline:
    """Return the outline: the early network if it is needed, the phases of head.base, and the fits."""
    settings, view = run.config.section(SelfSettings), run.views["train"]
    early = [PhaseOutline(EARLY, early_settings(run), view)] if needs_early(run) else []
    fits = f"{len(sizes(run)) * len(settings.lr)} fits of {settings.steps} steps on features"
    base = list(Base.of(run).phases(run))
    synthetic = [phase for phase in base if phase.name == SYNTHETIC]
    return [*synthetic, *early, *base[len(synthetic) :], PhaseOutline(PHASE, note=fits)]


@register_method(
    "self",
    "a base method, then its last layer fine-tuned on rows on which two networks disagree",
    paper="LaBonte et al. 2023 (SELF)",
    needs="label; label of the validation rows",
    check=check_self,
    sections=("self", "head"),
    begins_itself=True,
    class_weights=True,  # those of head.base, which is asked too
    phases=self_phases,
)
def train_self(run: Run) -> nn.Module:
    """Train head.base, and fine-tune its last layer on the validation rows of highest disagreement."""
    early = early_logits(run) if needs_early(run) else None  # first: the epoch of the base is the run's

    def fit_on(layer: nn.Module, data: Mapping[str, FeatureSet]) -> dict[str, Any]:
        return fit_layer(run, layer, data["val"], early)

    model = refit_head(run, Base.of(run), PHASE, {"val": run.views["val"]}, fit_on)
    run.val_uses.extend([FITTED, *([CHOSE_HEAD] if run.notes[PHASE]["chosen_by"] != "last" else [])])
    return model


def early_logits(run: Run) -> Tensor:
    """Return the logits of the early network for the validation rows, float32 [n, C]."""
    own, view = run if Base.of(run).checkpoint else begin(run), run.views["train"]
    network = fit(own, view, cross_entropy(own, view), phase=EARLY, settings=early_settings(run), sections=["model"])
    logits = evaluate_presentations(run, network, run.views["val"], [CLEAN], logits_of=0)[0].logits
    assert logits is not None
    return logits


def scores(run: Run, logits: Tensor, rows: FeatureRows, layer: nn.Module, early: Tensor | None) -> Tensor:
    """Return the score of each row by self.disagreement, float32 [n].

    logits: of the network, [n, C].
    rows: the features.
    layer: the network's last layer.
    early: logits of the early network, or None.
    """
    settings = run.config.section(SelfSettings)
    if settings.disagreement == "error":
        return functional.cross_entropy(logits, rows.label, reduction="none")
    if settings.disagreement == "dropout":
        generator = torch.Generator().manual_seed(derive_seed(run.config.training.seed, "self dropout") % 2**63)
        kept = torch.rand(rows.x.shape, generator=generator).to(rows.x.device) >= settings.dropout
        return divergence(logits, layer(rows.x * kept / (1 - settings.dropout)))
    assert early is not None
    if settings.disagreement == "early_stop_error":
        return functional.cross_entropy(early.to(logits.device), rows.label, reduction="none")
    return divergence(logits, early.to(logits.device))


def fit_layer(run: Run, layer: nn.Module, data: FeatureSet, early: Tensor | None) -> dict[str, Any]:
    """Fine-tune the last layer with each number of rows and rate, leave the chosen one in it, and return notes."""
    settings, selection = run.config.section(SelfSettings), chosen_by(run, at_least=2)
    first_half, second_half = data.halves(make_rng(run.config.data.seed, "self halves"))
    whole, judged = FeatureRows.of(data, run.device), FeatureRows.of(data.subset(second_half), run.device)
    candidates = torch.from_numpy(first_half).to(run.device)
    first = {name: value.clone() for name, value in layer.state_dict().items()}
    with torch.no_grad():
        score = scores(run, layer(whole.x), whole, layer, early)
    choice = HeadChoice(selection.rule, judged if selection.rule != "last" else None)
    chosen: dict[int, Tensor] = {}
    for size, lr in product(sizes(run), settings.lr):
        chosen[size] = candidates[highest(score[candidates], size)]
        layer.load_state_dict(first)
        options = Descent(lr=constant(lr), momentum=settings.momentum, weight_decay=settings.weight_decay)
        batches = draws(run, chosen[size], whole.label[chosen[size]].cpu().numpy())
        for _ in descend(layer, whole, torch.ones(len(whole.x), device=run.device), batches, options):
            pass
        choice.offer(layer, {"rows": size, "lr": lr}, settings.steps)
    layer.load_state_dict(choice.best)
    best = choice.setting
    logger.info("self: %d rows and learning rate %g, by %s", best["rows"], best["lr"], selection.text)
    counts = count_codes(data.group[chosen[best["rows"]].cpu().numpy()], data.spec.num_groups)
    return {
        "base": Base.of(run).checkpoint or Base.of(run).name,
        "fitted_on": "half of val",
        "chosen_by": selection.text,
        "lr": best["lr"],
        "rows": len(chosen[best["rows"]]),
        "rows_by_group": {name: int(n) for name, n in zip(data.spec.group_names, counts) if n},
        "tuning": choice.table,
    }


def draws(run: Run, positions: Tensor, label: np.ndarray) -> list[Tensor]:
    """Return the rows of each step, drawn with replacement, each class of the chosen rows equally often.

    positions: of the chosen rows, int64 [k].
    label: of these rows, int64 [k].
    """
    settings, rng = run.config.section(SelfSettings), make_rng(run.config.training.seed, "self draws")
    share = 1 / np.bincount(label)[label]
    drawn = rng.choice(len(label), (settings.steps, settings.batch_size), p=share / share.sum())
    return list(positions[torch.from_numpy(drawn).to(positions.device)])
