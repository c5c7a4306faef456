"""Diffusing DeBias: a diffusion model of the biased set amplifies its bias, and what that shows removes it.

Ciranni et al. 2025 (arXiv 2502.09564). Phases: `cdpm` (a diffusion model of the training rows), images of every class
drawn from it, `amplifier` (a classifier of these alone), then `train`: recipe I is GroupDRO in the groups (class, what
the amplifier calls bias-conflicting), recipe II weighs every row by how much harder the amplifier finds it than the
model does. Section 'ddb' takes the result of any phase from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from debeton.data.views.row_lists import by_marks, read_columns, read_marks
from debeton.data.views.view import View
from debeton.diffusion.model import model_folder
from debeton.methods.cdpm import CdpmSettings, train_diffusion
from debeton.methods.groupdro import train_groupdro
from debeton.methods.method import register_method
from debeton.methods.parts.amplifier import (
    Scores,
    as_shown,
    describe_scores,
    load_amplifier,
    score,
    select,
    train_amplifier,
)
from debeton.methods.parts.ddb_settings import DdbSettings
from debeton.methods.parts.marked_rows import Mask, describe_marks, kept
from debeton.methods.parts.relative_difficulty import RelativeDifficulty
from debeton.methods.parts.second_network import check_plain_losses
from debeton.methods.parts.synthetic_set import describe_images, draw_images, synthetic_view
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.train.run import Run
from debeton.train.training import fit

FEWEST = 8  # training rows of a class
SCORES, COLUMN = "amplifier_scores.csv", "ddb"


def check(run: Run) -> None:
    """Raise UsageError for settings that do not fit, before hours of training."""
    settings = run.config.section(DdbSettings)
    files = {"amplifier": settings.amplifier, "pseudo_labels": settings.pseudo_labels, "oracle": settings.oracle}
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise UsageError(f"ddb.{name}: there is no file {path}")
    if settings.images is not None and not Path(settings.images).is_dir():
        raise UsageError(f"ddb.images: there is no folder {settings.images}")
    if settings.cdpm is not None:
        model_folder(Path(settings.cdpm))
    if run.config.section(CdpmSettings).condition != "label":
        raise UsageError(
            "cdpm.condition is 'group', and images of groups would not be biased; Diffusing DeBias asks for classes: "
            "use --cdpm.condition label"
        )


def check_ddb2(run: Run) -> None:
    """Raise UsageError for what recipe II cannot use, before hours of training."""
    check(run)
    if run.config.section(DdbSettings).pseudo_labels is not None:
        raise UsageError("ddb.pseudo_labels are groups, and ddb2 needs losses; give ddb.amplifier, or take ddb1")
    check_plain_losses(run)


def note_given(run: Run) -> None:
    """Note which results of phases are given, and log what that means for runs of several seeds."""
    settings = run.config.section(DdbSettings)
    results = {
        "cdpm": settings.cdpm,
        "images": settings.images,
        "amplifier": settings.amplifier,
        "pseudo_labels": settings.pseudo_labels,
    }
    given = [name for name, path in results.items() if path is not None]
    run.notes["ddb"] = {"given": given}
    if given:
        logger.info(
            "ddb.%s is given: runs of other seeds that take the same one share it, and their spread leaves out "
            "what it would vary by",
            given[-1],
        )


def amplifier_of(run: Run) -> nn.Module:
    """The amplifier: of another run, or trained on the real rows, or on images given, drawn from a model given, or
    from one trained here."""
    settings = run.config.section(DdbSettings)
    if settings.amplifier is not None:
        return load_amplifier(run, Path(settings.amplifier))
    if settings.amplifier_data == "real":
        return train_amplifier(run, run.views["train"])
    folder = draw_images(run, _diffusion_model(run)) if settings.images is None else Path(settings.images)
    synthetic = synthetic_view(run, folder)
    run.notes["ddb"]["images"] = describe_images(run, synthetic)
    return train_amplifier(run, synthetic)


def _diffusion_model(run: Run) -> Path:
    if (trained := run.config.section(DdbSettings).cdpm) is not None:
        return Path(trained)
    view = run.views["train"]
    counts = np.bincount(view.label[view.rows], minlength=view.spec.num_classes)
    few = [f"{name} has {n}" for name, n in zip(view.spec.classes, counts.tolist(), strict=True) if n < FEWEST]
    if few:
        raise DataError(
            f"{view.beton.path}: too few training rows for a diffusion model of every class: {'; '.join(few[:5])}"
            f"{'; ...' if len(few) > 5 else ''}. It cannot draw what it never saw, and repeats what it saw seldom: "
            f"{FEWEST} is the least, and some hundred are reasonable. Choose other rows or classes"
        )
    train_diffusion(run, view)
    return run.folder


@dataclass(frozen=True)
class Judged:
    """The phases before the last. amplifier: as it looks at real images. scores, marked: of the training rows in order,
    marked bool [M] for those called bias-conflicting. val: what selects an epoch, as in `Run.fit`."""

    amplifier: nn.Module
    scores: Scores
    marked: Mask
    val: View | None


def judge(run: Run) -> Judged:
    """Have an amplifier, and what it makes of the training rows, which is kept in the run's folder."""
    amplifier, view = as_shown(run, amplifier_of(run)), run.views["train"]

    def find() -> dict[str, list[Any]]:
        found = score(run, amplifier, view)
        marked = select(found, run.config.section(DdbSettings).rule, view.spec.classes)
        return {
            "y": found.label.tolist(),
            "prediction": found.predicted.tolist(),
            "loss": found.loss.tolist(),
            COLUMN: marked.astype(int).tolist(),
        }

    scores, marked = kept(run.folder / SCORES, view, find, read_scores)
    found = {**describe_scores(view, scores), **describe_marks(view, marked, "conflicting_row")}
    run.notes["ddb"]["training_rows"] = found
    known = (
        ""
        if found["recall"] is None
        else (
            f": {100 * (found['precision'] or 0):.1f} % of them are, and {100 * found['recall']:.1f} % of all that are"
        )
    )
    logger.info("the amplifier calls %d of %d rows bias-conflicting%s", marked.sum(), len(view), known)
    return Judged(amplifier, scores, marked, validation(run, amplifier))


def read_scores(path: Path, view: View) -> tuple[Scores, Mask]:
    """What `judge` wrote, for the rows of the view in order."""
    table = read_columns(path, view, ("y", "prediction", "loss"))
    label, predicted = (np.array([int(value) for value in table[name]]) for name in ("y", "prediction"))
    loss = np.array([float(value) for value in table["loss"]], np.float32)
    return Scores(label, predicted, loss), read_marks(path, view, COLUMN)


def validation(run: Run, amplifier: nn.Module) -> View | None:
    """What selects an epoch: the validation rows in the groups that the amplifier sees in them, or in their own."""
    val, settings = run.views.get("val"), run.config.section(DdbSettings)
    if val is None or settings.validation == "own" or run.selection_rule == "last":
        return val
    return by_marks(val, select(score(run, amplifier, val), settings.rule, val.spec.classes))


def pseudo_groups(view: View, marked: Mask) -> View:
    """The view in groups (class, aligned or conflicting); tells of those without a row, which take no part."""
    grouped = by_marks(view, marked)
    empty = [name for name, n in grouped.counts_by_name().items() if n == 0]
    if len(empty) >= grouped.spec.num_classes and not marked.any():
        logger.warning(
            "warning: the amplifier calls no row bias-conflicting, so that ddb1 balances classes alone; it may have "
            "learnt more than the shortcut: fewer --amplifier.epochs, or --ddb.selector error_set"
        )
    elif empty:
        logger.info("%d pseudo-groups have no row and take no part: %s", len(empty), "; ".join(empty[:5]))
    return grouped


@register_method(
    "ddb1",
    "GroupDRO in the groups that an amplifier of the bias sees",
    needs="label",
    paper="Ciranni et al. 2025 (Diffusing DeBias, recipe I)",
    sections=("ddb", "cdpm", "amplifier", "groupdro"),
    check=check,
)
def ddb1(run: Run) -> nn.Module:
    """Train phases 'cdpm', 'amplifier' and 'train'; leave out each whose result is given."""
    note_given(run)
    settings, view = run.config.section(DdbSettings), run.views["train"]
    if settings.pseudo_labels is not None:
        marked = read_marks(Path(settings.pseudo_labels), view, run.config.data.pseudo_column)
        run.notes["ddb"]["training_rows"] = describe_marks(view, marked, "conflicting_row")
        return train_groupdro(run, pseudo_groups(view, marked))
    found = judge(run)
    grouped, val = pseudo_groups(view, found.marked), found.val
    del found  # the amplifier's memory is the next network's
    return train_groupdro(run, grouped, val)


@register_method(
    "ddb2",
    "rows that an amplifier of the bias finds harder than the model weigh more",
    needs="label",
    paper="Ciranni et al. 2025 (Diffusing DeBias, recipe II)",
    sections=("ddb", "cdpm", "amplifier"),
    check=check_ddb2,
)
def ddb2(run: Run) -> nn.Module:
    """Train phases 'cdpm', 'amplifier' and 'train'; leave out the first two where their results are given."""
    note_given(run)
    settings, view = run.config.section(DdbSettings), run.views["train"]
    found = judge(run)
    losses = torch.zeros(len(view.beton))
    losses[torch.from_numpy(view.rows)] = torch.from_numpy(found.scores.loss)
    hard = {"losses": losses} if settings.amplifier_view == "clean" else {"amplifier": found.amplifier}
    marked = torch.zeros(len(view.beton), dtype=torch.bool)
    marked[torch.from_numpy(view.rows[found.marked])] = True
    objective = RelativeDifficulty(
        view,
        marked=marked,
        ema=settings.ema,
        class_norm=settings.class_norm,
        **hard,  # type: ignore[arg-type]
    )
    return fit(run, view, objective, val=found.val)
