"""Deep feature reweighting: the features stay, and the last layer is fitted anew on balanced groups.

Kirichenko, Izmailov and Wilson 2023, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations"
(arXiv 2204.02937). It follows their PolinaKirichenko/deep_feature_reweighting, and has the variants of From Fake to
Real (arXiv 2308.04553) and SCALE. dataset_configs/methods/ has a preset of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Bool, FloatList, Int, OneOf, OrNull, Text
from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.methods.group_choice import finder_of
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_attribute
from debeton.methods.parts.base_network import Base, refit_head
from debeton.methods.parts.logistic_head import (
    Candidate,
    FeatureSet,
    Scaling,
    Solver,
    average,
    choose,
    fit_logistic,
    folded,
    grid,
)
from debeton.methods.parts.splits import view_of
from debeton.system.cores import cores_of_process
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.seed import make_rng
from debeton.train.metrics import selection_score
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.remarks import FITTED, TUNED
from debeton.train.run import Run
from debeton.train.run_views import groups_nowhere, no_pairs
from debeton.train.selection import Selection, check_rows

PHASE = "dfr"
PRETRAINED = "pretrained"


@section("dfr", "deep feature reweighting: the last layer, fitted anew on balanced groups")
@dataclass(frozen=True)
class DfrSettings:
    """The settings of section 'dfr'."""

    base: str = setting(
        Text(), "method that trains the features first; pretrained: published weights, no training", default="erm"
    )
    checkpoint: str | None = setting(
        OrNull(Text()),
        "run folder, checkpoint or weight file whose features are used instead; null: none",
        default=None,
    )
    data: str = setting(OneOf("val", "train", "target"), "split that the last layer is fitted on", default="val")
    tune: str = setting(
        OneOf("half", "val"), "rows that choose C: a random half of that split, or the validation split", default="half"
    )
    c_grid: tuple[float, ...] = setting(
        FloatList(above=0, at_least=1),
        "values of C, the inverse strength of the penalty",
        default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
    )
    class_weights: tuple[float, ...] | None = setting(
        OrNull(FloatList(above=0, at_least=1), []),
        "weights that are tried on each class in turn; null: all classes weigh 1",
        default=None,
    )
    criterion: str = setting(
        OneOf("worst_group", "mean_group", "minority"),
        "accuracy that chooses C; ties go by mean_group",
        default="worst_group",
    )
    penalty: str = setting(OneOf("l1", "l2"), "penalty on the last layer", default="l1")
    balance: bool = setting(Bool(), "fit on equally many rows of each group, drawn anew for each refit", default=True)
    refits: int = setting(
        Int(1), "number of refits whose weights are averaged; without balance there is one", default=20
    )
    scaler: str = setting(
        OneOf("train", "data", "none"),
        "features that give the mean and deviation for standardising: training rows, dfr.data, or none",
        default="train",
    )
    normalise_features: bool = setting(
        Bool(), "divide each feature vector by its length (From Fake to Real)", default=False
    )
    max_iter: int = setting(Int(1), "largest number of iterations of liblinear", default=10000)
    cache: bool = setting(Bool(), "keep features in {outdir}/features for later runs", default=True)


def check_dfr(run: Run, draws: int = 1) -> None:
    """Raise UsageError or DataError for problems that would otherwise appear after hours of training the features.

    draws: number of ways to draw the rows of a fit that are tried (`Draw`).
    """
    _check_groups_choice(run)
    views = head_views(run)
    tuned = len(head_candidates(run)) * draws > 1
    chooses = views.get("tune", views["fit"])
    if tuned and not chooses.knows_attribute.any():
        raise UsageError(
            f"dfr.criterion is '{run.config.section(DfrSettings).criterion}', but the attribute of no row of "
            f"'{chooses.name}' ({chooses.beton.path}) is known, so it cannot choose C; use another split, or give "
            "dfr.c_grid one value"
        )
    _check_groups(run, views["fit"], halved="tune" not in views and tuned)
    if tuned:
        criterion_of(run, views)
    dfr_base(run).check(run)


def dfr_base(run: Run) -> Base:
    """Return the source of the features that section 'dfr' names."""
    settings = run.config.section(DfrSettings)
    return Base(PHASE, settings.base, settings.checkpoint, settings.cache, settings.normalise_features)


def _check_groups_choice(run: Run) -> None:
    """Raise UsageError where the groups of section 'groups' are not those that the last layer is fitted on."""
    settings, choice, base = run.config.section(DfrSettings), run.config.groups, dfr_base(run).method(run)
    on_val = "val" in (settings.data, settings.tune)
    if on_val and choice.val == "none":
        key = "data" if settings.data == "val" else "tune"
        raise UsageError(
            f"groups.val is 'none', and dfr.{key} 'val' needs the groups of the validation rows; fit on the training "
            "rows with --dfr.data train --dfr.tune half, or leave groups.val out"
        )
    finds = finder_of(run) is not None and not (base is not None and base.takes_groups)
    if finds and settings.data != "train" and choice.val != "inferred":
        raise UsageError(
            f"groups.from is '{choice.finder}', and dfr.data is '{settings.data}', whose rows keep their own groups, "
            "so that the finder would change nothing; fit on the training rows with --dfr.data train, infer the groups "
            "of the validation rows with --groups.val inferred, or leave groups.from out"
        )


def dfr_phases(run: Run) -> Outline:
    """Return the outline: the phases of dfr.base, and the fit of the last layer."""
    return head_phases(run, PHASE, f"{len(head_candidates(run))} values of C and class weights")


def head_phases(run: Run, phase: str, tried: str) -> Outline:
    """Return the phases of dfr.base, and a phase that fits the last layer.

    tried: number and name of the settings that are compared, for people.
    """
    settings = run.config.section(DfrSettings)
    note = f"{tried} tried, {settings.refits if settings.balance else 1} fits averaged"
    return [*dfr_base(run).phases(run), PhaseOutline(phase, note=note)]


@register_method(
    "dfr",
    "a base method, then its last layer fitted anew on balanced groups",
    paper="Kirichenko et al. 2023 (DFR)",
    needs="label, attribute of the validation or target split",
    check=check_dfr,
    begins_itself=True,
    class_weights=True,  # those of dfr.base, which is asked too
    phases=dfr_phases,
)
def dfr(run: Run) -> nn.Module:
    """Train dfr.base, then replace its last layer by the mean of logistic regressions on group-balanced subsets."""
    return train_head(run, PHASE, head_views(run), lambda scaled: [Draw({}, partial(balanced_rows, run))])


@dataclass(frozen=True)
class Draw:
    """A way to draw the rows of a fit.

    setting: plain values that tell it from others, for the notes.
    rows: returns the rows of one fit from the rows to fit on and a random generator.
    """

    setting: Mapping[str, float]
    rows: Callable[[FeatureSet, np.random.Generator], FeatureSet]


def balanced_rows(run: Run, rows: FeatureSet, rng: np.random.Generator) -> FeatureSet:
    """Return as many rows of each group as the smallest has; with dfr.balance false, all rows."""
    return rows.balanced(rng) if run.config.section(DfrSettings).balance else rows


MakeDraws = Callable[[Mapping[str, FeatureSet]], Sequence[Draw]]


def train_head(run: Run, phase: str, views: Mapping[str, View], make_draws: MakeDraws) -> nn.Module:
    """Return the base network of section 'dfr' with the last layer that the section describes.

    phase: name of the phase that fits it.
    views: those of `head_views`, and further ones whose features `make_draws` needs, by role.
    make_draws: returns the draws that are compared, from the scaled features by role.
    """
    scaled_by = {"train": run.views["train"], "data": views["fit"]}.get(run.config.section(DfrSettings).scaler)
    roles = views if scaled_by is None else {**views, "scaler": scaled_by}

    def fit(layer: nn.Module, features: Mapping[str, FeatureSet]) -> dict[str, Any]:
        return _fit_head(run, phase, layer, features, make_draws)

    model = refit_head(run, dfr_base(run), phase, roles, fit)
    _note_val(run, phase, run.notes[phase])
    return model


def _note_val(run: Run, phase: str, notes: Mapping[str, Any]) -> None:
    """Note the uses of validation rows, and a criterion that is not the one that was asked for."""
    run.val_uses.extend([FITTED] if notes["fitted_on"] == "val" else [])
    run.val_uses.extend([TUNED] if notes["tuned_on"] in ("val", "half of val") else [])
    chosen_by = notes.get("chosen_by") or run.config.section(DfrSettings).criterion
    if chosen_by != run.config.section(DfrSettings).criterion:
        run.remarks.append(f"{phase} chose C by {chosen_by}")


def head_candidates(run: Run) -> list[Candidate]:
    """Return the grid of C and class weights."""
    settings = run.config.section(DfrSettings)
    return grid(settings.c_grid, settings.class_weights or (), head_views(run)["fit"].spec.num_classes)


def head_views(run: Run) -> dict[str, View]:
    """Return the view to fit the head on ('fit') and, if it is another, the one that chooses C ('tune')."""
    settings = run.config.section(DfrSettings)
    if settings.data == "val" and settings.tune == "val":
        raise UsageError(
            "dfr.tune and dfr.data are both 'val': C would be chosen on the rows that were fitted; use "
            "--dfr.tune half, or fit on another split with --dfr.data"
        )
    splits = {"fit": settings.data, **({"tune": "val"} if settings.tune == "val" else {})}
    keys = {"fit": "data", "tune": "tune"}
    views = {role: view_of(run, split, f"dfr.{keys[role]} is '{split}'") for role, split in splits.items()}
    if settings.criterion == "minority" and not views["fit"].spec.aligned:
        raise UsageError(f"dfr.criterion is 'minority', but {no_pairs(views['fit'])}, or choose by worst_group")
    return views


def criterion_of(run: Run, views: Mapping[str, View]) -> Selection:
    """Return the accuracy that chooses C on the rows for it. UsageError where a group of dfr.criterion has no row."""
    settings = run.config.section(DfrSettings)
    return check_rows(
        views.get("tune", views["fit"]),
        settings.criterion,
        "dfr.criterion",
        empty_groups=run.config.training.empty_groups,
        at_least=1 if "tune" in views else 2,  # of two halves of a group, the second chooses
        nowhere=groups_nowhere(run.views),
    )


def _check_groups(run: Run, view: View, *, halved: bool) -> None:
    """Raise DataError with the names of classes without a row, and of groups too small to be balanced (and halved)."""
    if run.config.section(DfrSettings).balance:
        check_attribute(view)
    labels = np.bincount(view.label[view.rows], minlength=view.spec.num_classes)
    if not labels.all():
        missing = [name for name, n in zip(view.spec.classes, labels) if not n]
        raise DataError(
            f"no row of {', '.join(missing[:5])} in view '{view.name}' of {view.beton.path}; the last layer needs rows "
            "of every class; choose another split with --dfr.data"
        )
    need, counts = (2 if halved else 1), view.counts_by_name()
    if view.spec.by_attribute:  # domains of other splits have no row here
        counts = {name: n for name, n in counts.items() if n}
    short = [f"{name}: {n}" for name, n in counts.items() if n < need]
    if short and run.config.section(DfrSettings).balance and run.config.training.empty_groups == "error":
        raise DataError(
            f"{len(short)} of {len(counts)} groups of view '{view.name}' have fewer rows than the {need} that "
            f"{'halves of ' if halved else ''}balanced groups need ({'; '.join(short[:5])}"
            f"{'; ...' if len(short) > 5 else ''}); fit on another split with --dfr.data, or balance the others with "
            "--training.empty_groups ignore"
        )


def _check_classes_of_refit(rows: FeatureSet) -> None:
    """Raise DataError where balanced rows lack a class, as rows balanced by domain may."""
    lacking = [name for k, name in enumerate(rows.spec.classes) if not (rows.label == k).any()]
    if lacking:
        raise DataError(
            f"the {len(rows.label)} rows that dfr balanced over {len(np.unique(rows.group))} groups have none of "
            f"{', '.join(lacking[:5])}; group by label and attribute with --data.group_by label_attribute, or fit on "
            "all rows with --dfr.balance false"
        )


def _fit_head(
    run: Run, phase: str, layer: nn.Module, features: Mapping[str, FeatureSet], make_draws: MakeDraws
) -> dict[str, Any]:
    """Choose C, refit, average, and put the result into the last layer. Return plain values for the notes."""
    settings, seed = run.config.section(DfrSettings), run.config.data.seed
    workers = run.config.training.num_workers or cores_of_process()
    solver = Solver(settings.penalty, settings.max_iter, seed, workers)
    data = {role: rows for role, rows in features.items() if role != "scaler"}
    scaling = Scaling.of(features["scaler"].x if "scaler" in features else None, data["fit"].x.shape[1])
    scaled = {role: FeatureSet(scaling(d.x), d.label, d.group, d.spec) for role, d in data.items()}
    for role, view in head_views(run).items():
        scaled[role].check_size(view.name)
    draw, chosen, tuning = _choose(run, scaled, make_draws(scaled), solver)
    refits = settings.refits if settings.balance else 1
    jobs = []
    for i in range(refits):
        rows = draw.rows(scaled["fit"], make_rng(seed, "dfr refit", i))
        _check_classes_of_refit(rows)
        jobs.append((rows, chosen, f"refit {i}"))
    head = average(fit_logistic(jobs, solver))
    if head.unconverged:
        logger.warning(
            "warning: %d of %d fits ended at dfr.max_iter %d",
            head.unconverged,
            refits * len(head.bias),
            settings.max_iter,
        )
    layer.load_state_dict(dict(zip(("weight", "bias"), folded(head, scaling))))
    rows_each, spec = len(jobs[0][0].label), data["fit"].spec
    logger.info("%s: C %g, mean of %d fits on %d rows of '%s'", phase, chosen.c, refits, rows_each, settings.data)
    if settings.data == "val":
        logger.info("%s: validation rows were fitted, so their accuracy in results.json is not of held-out rows", phase)
    counts = count_codes(jobs[0][0].group, spec.num_groups)
    return {
        "base": settings.checkpoint or settings.base,
        "fitted_on": settings.data,
        "chosen_by": criterion_of(run, head_views(run)).text if tuning else None,
        "tuned_on": None if not tuning else "val" if settings.tune == "val" else f"half of {settings.data}",
        "refits": refits,
        "rows_of_a_refit": {name: int(n) for name, n in zip(spec.group_names, counts) if n},
        **draw.setting,
        "c": chosen.c,
        "class_weights": dict(zip(spec.classes, chosen.class_weights)),
        "features_used": int((head.weight != 0).any(axis=0).sum()),
        "unconverged": head.unconverged,
        "tuning": tuning,
    }


def _choose(
    run: Run, scaled: Mapping[str, FeatureSet], draws: Sequence[Draw], solver: Solver
) -> tuple[Draw, Candidate, list[dict[str, Any]]]:
    """Return the draw and grid point to refit with, and the held-out metrics of all.

    A single point needs no held-out rows. The first of equals is taken.
    """
    candidates = head_candidates(run)
    if len(candidates) * len(draws) == 1:
        return draws[0], candidates[0], []
    seed, rule = run.config.data.seed, criterion_of(run, head_views(run)).rule
    if "tune" in scaled:
        fit_on, choose_by = scaled["fit"], scaled["tune"]
    else:
        fit_on, choose_by = scaled["fit"].halved(make_rng(seed, "dfr halves"))
    found = []
    for draw in draws:
        rows = draw.rows(fit_on, make_rng(seed, "dfr tune"))
        candidate, table = choose(candidates, rows, choose_by, rule, solver)
        score = max(selection_score(line, rule) for line in table)
        found.append((score, draw, candidate, [{**draw.setting, **line} for line in table]))
    _, draw, candidate, _ = max(found, key=lambda one: one[0])
    return draw, candidate, [line for *_, table in found for line in table]
