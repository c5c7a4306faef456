"""Deep feature reweighting: the features stay, and the last layer is fitted anew on balanced groups.

Kirichenko, Izmailov and Wilson 2023, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations"
(arXiv 2204.02937). It follows their PolinaKirichenko/deep_feature_reweighting, and has the variants of From Fake to
Real (arXiv 2308.04553) and SCALE. dataset_configs/methods/ has a preset of each.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Bool, FloatList, Int, OneOf, OrNull, Text
from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.methods.method import METHODS, Method, check_method, register_method
from debeton.methods.parts.balance import check_attribute
from debeton.methods.parts.first_phase import begin, first_outline
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
from debeton.nets.checkpoint import BEST_NAME, save_checkpoint
from debeton.nets.describe import describe_inputs, describe_network
from debeton.nets.heads import install_head, normalised
from debeton.nets.models import make_model, named_head
from debeton.nets.transfer import starts_published
from debeton.nets.weight_fitting import load_run_weights
from debeton.system import distributed
from debeton.system.cores import cores_of_process
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.seed import make_rng
from debeton.train.features import cached_features, extract_features, feature_size
from debeton.train.objective import Precision
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.phase import PhaseRecord
from debeton.train.remarks import FITTED, TUNED
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
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


def check_dfr(run: Run) -> None:
    """Raise UsageError or DataError for problems that would otherwise appear after hours of training the features."""
    settings = run.config.section(DfrSettings)
    if run.config.training.class_weights is not None and (settings.checkpoint or settings.base == PRETRAINED):
        raise UsageError(
            "training.class_weights is set, and dfr trains no features here, so that no loss has them; leave them out, "
            "or weigh the classes of the head with dfr.class_weights"
        )
    views = head_views(run)
    tuned = len(head_candidates(run)) > 1
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
    with torch.device("meta"):  # raises for a head that cannot be replaced
        install_head(make_model(run.config.model.arch, 2), 2, normalise=False)
    if (checkpoint := run.config.section(DfrSettings).checkpoint) is not None:
        _load_base(run, Path(checkpoint))
    base = base_method(run)
    if base is not None:
        check_method(run, run.config.section(DfrSettings).base, base)


def dfr_phases(run: Run) -> Outline:
    """Return the outline: the phases of dfr.base, and the fit of the last layer."""
    settings, base = run.config.section(DfrSettings), base_method(run)
    refits = settings.refits if settings.balance else 1
    fits = f"{len(head_candidates(run))} values of C and class weights tried, {refits} fits averaged"
    before = [] if settings.checkpoint is not None else first_outline(run)
    return [*before, *([] if base is None else base.phases(run)), PhaseOutline(PHASE, note=fits)]


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
    model = base_model(run)
    install_head(
        model, run.views["train"].spec.num_classes, normalise=run.config.section(DfrSettings).normalise_features
    )
    record = run.phase(PHASE, model, lambda: refit(run, model))
    run.notes["dfr"] = dict(record.notes)
    _note_val(run, record.notes)
    return model


def _note_val(run: Run, notes: Mapping[str, Any]) -> None:
    """Note the uses of validation rows, and a criterion that is not the one that was asked for."""
    run.val_uses.extend([FITTED] if notes["fitted_on"] == "val" else [])
    run.val_uses.extend([TUNED] if notes["tuned_on"] in ("val", "half of val") else [])
    chosen_by = notes.get("chosen_by") or run.config.section(DfrSettings).criterion
    if chosen_by != run.config.section(DfrSettings).criterion:
        run.remarks.append(f"dfr chose C by {chosen_by}")


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


def base_method(run: Run) -> Method | None:
    """Return the method that trains the features; None where they come from elsewhere.

    Raise UsageError for a base that trains no classifier, and for the features of random weights.
    """
    settings = run.config.section(DfrSettings)
    if settings.checkpoint is not None:
        return None
    if settings.base == PRETRAINED:
        if not starts_published(run.config):
            raise UsageError(
                "dfr.base is 'pretrained', but model.pretrained is false, so that the features would be those of "
                "random weights; add --model.pretrained true"
            )
        return None
    if settings.base == PHASE:
        raise UsageError("dfr.base is 'dfr' itself; name the method that trains the features, such as erm")
    base = METHODS.get(settings.base)
    if not base.classifies:
        raise UsageError(f"dfr.base is '{settings.base}', which trains no classifier; name one that does, such as erm")
    return base


def base_model(run: Run) -> nn.Module:
    """Return the network whose features are used: from a checkpoint, trained here, or with published weights."""
    if (checkpoint := run.config.section(DfrSettings).checkpoint) is not None:
        logger.info("features of %s", checkpoint)
        return _load_base(run, Path(checkpoint))
    others = {key.split(".")[0] for key in run.config.values} - {PHASE}  # so that dfr's settings keep the base
    base, run = base_method(run), begin(replace(run, sections=tuple(sorted(others))))
    model = run.network() if base is None else base.run(run)
    assert model is not None
    return model


def _load_base(run: Run, path: Path) -> nn.Module:
    """Return the network of a checkpoint."""
    model, expected = run.fresh_network(), describe_network(run.config, run.views["train"].spec)
    load_run_weights(model, path, expected, "dfr.checkpoint", head=named_head(model)[0])
    return model


def refit(run: Run, model: nn.Module) -> PhaseRecord:
    """Fit the head in the main process and save the model as the run's best checkpoint."""
    began, views = time.perf_counter(), head_views(run)
    run.announce(PHASE, f"features of {' and '.join(dict.fromkeys(view.name for view in views.values()))} rows")
    data = {role: _features(run, model, view) for role, view in views.items()}
    scaled_by = {"train": run.views["train"], "data": views["fit"]}.get(run.config.section(DfrSettings).scaler)
    scaling = Scaling.of(None if scaled_by is None else _features(run, model, scaled_by).x, feature_size(model))
    run.leave_if_asked()  # the features are on disk
    notes: dict[str, Any] = {}
    if distributed.is_main():
        notes = _fit_head(run, model, data, scaling, head_candidates(run))
        _save(run, model)
    return PhaseRecord(seconds=time.perf_counter() - began, notes=notes)


def _features(run: Run, model: nn.Module, view: View) -> FeatureSet:
    """Return the features of a view's rows, from the cache if dfr.cache is on."""
    loader, precision = eval_loader(view, run.config, run.device), Precision(run.config.training.precision, run.device)
    if run.config.section(DfrSettings).cache:
        folder = Path(run.config.training.outdir) / "features"
        features = cached_features(model, loader, precision, folder, progress=run.progress)
    else:
        features = extract_features(model, loader, precision, progress=run.progress)
    if run.config.section(DfrSettings).normalise_features:
        features = normalised(features)
    return FeatureSet(features.numpy(), view.label[view.rows], view.group[view.rows], view.spec)


def _fit_head(
    run: Run, model: nn.Module, data: Mapping[str, FeatureSet], scaling: Scaling, candidates: list[Candidate]
) -> dict[str, Any]:
    """Choose C, refit, average, and put the result into the model. Return plain values for the notes."""
    settings, seed = run.config.section(DfrSettings), run.config.data.seed
    workers = run.config.training.num_workers or cores_of_process()
    solver = Solver(settings.penalty, settings.max_iter, seed, workers)
    scaled = {role: FeatureSet(scaling(d.x), d.label, d.group, d.spec) for role, d in data.items()}
    for role, view in head_views(run).items():
        scaled[role].check_size(view.name)
    chosen, tuning = _choose(run, scaled, candidates, solver)
    refits = settings.refits if settings.balance else 1
    jobs = []
    for i in range(refits):
        rows = scaled["fit"].balanced(make_rng(seed, "dfr refit", i)) if settings.balance else scaled["fit"]
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
    named_head(model)[1].load_state_dict(dict(zip(("weight", "bias"), folded(head, scaling))))
    rows_each, spec = len(jobs[0][0].label), data["fit"].spec
    logger.info("dfr: C %g, mean of %d fits on %d rows of '%s'", chosen.c, refits, rows_each, settings.data)
    if settings.data == "val":
        logger.info("dfr: validation rows were fitted on, so their accuracy in results.json is not of held-out rows")
    counts = count_codes(jobs[0][0].group, spec.num_groups)
    return {
        "base": settings.checkpoint or settings.base,
        "fitted_on": settings.data,
        "chosen_by": criterion_of(run, head_views(run)).text if tuning else None,
        "tuned_on": None if not tuning else "val" if settings.tune == "val" else f"half of {settings.data}",
        "refits": refits,
        "rows_of_a_refit": {name: int(n) for name, n in zip(spec.group_names, counts) if n},
        "c": chosen.c,
        "class_weights": dict(zip(spec.classes, chosen.class_weights)),
        "features_used": int((head.weight != 0).any(axis=0).sum()),
        "unconverged": head.unconverged,
        "tuning": tuning,
    }


def _choose(
    run: Run, scaled: Mapping[str, FeatureSet], candidates: list[Candidate], solver: Solver
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the grid point to refit with, and the held-out metrics of all. A single point needs no held-out rows."""
    if len(candidates) == 1:
        return candidates[0], []
    settings, seed = run.config.section(DfrSettings), run.config.data.seed
    if "tune" in scaled:
        fit_on, choose_by = scaled["fit"], scaled["tune"]
    else:
        fit_on, choose_by = scaled["fit"].halved(make_rng(seed, "dfr halves"))
    if settings.balance:
        fit_on = fit_on.balanced(make_rng(seed, "dfr tune"))
    return choose(candidates, fit_on, choose_by, criterion_of(run, head_views(run)).rule, solver)


def _save(run: Run, model: nn.Module) -> None:
    """Save the refitted model as the run's best checkpoint, which `Run.phase` keeps as this phase's."""
    spec = run.views["train"].spec
    building = {
        **describe_network(run.config, spec),
        "normalise_features": bool(run.config.section(DfrSettings).normalise_features),
    }
    content = {
        "phase": PHASE,
        "config_hash": run.config.identity_hash(),
        "model": building,
        "inputs": describe_inputs(run.config, spec, run.views),
        "data": run.data,
    }
    save_checkpoint(run.checkpoints / BEST_NAME, {**content, "state_dict": model.state_dict()})
