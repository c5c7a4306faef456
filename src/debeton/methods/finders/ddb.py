"""The bias amplifier of Diffusing DeBias: a classifier of images that a diffusion model of the biased set draws.

Ciranni et al. 2025 (arXiv 2502.09564). Phase `cdpm` trains a diffusion model of the training rows, and images of every
class are drawn from it. Phase `amplifier` trains a classifier of these images alone. Section 'ddb' can name the result
of either phase from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from debeton.data.views.row_lists import by_marks, read_columns, read_marks
from debeton.data.views.view import View
from debeton.methods.cdpm import CdpmSettings, cdpm_phases, train_diffusion
from debeton.methods.finder import SCORE, Found, register_finder
from debeton.methods.parts.amplifier import (
    Scores,
    amplifier_outline,
    check_amplifier,
    describe_scores,
    load_amplifier,
    score_rows,
    select_conflicting,
    train_amplifier,
    with_coarse_input,
)
from debeton.methods.parts.ddb_settings import DdbSettings
from debeton.methods.parts.marked_rows import Mask, describe_marks, read_or_write_table
from debeton.methods.parts.synthetic_set import (
    check_drawing,
    check_images,
    check_oracle,
    count_images,
    describe_images,
    draw_images,
    synthetic_view,
)
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.train.outline import Outline
from debeton.train.run import Run

FEWEST = 8  # training rows of a class, for a diffusion model of them
SCORES, COLUMN = "amplifier_scores.csv", "ddb"


def check_amplification(run: Run) -> None:
    """Check what every phase needs, before hours of training.

    UsageError or DataError: settings do not fit together, a given file or folder does not fit the data set, or the
    amplifier's weights cannot be had.
    """
    settings, train = run.config.section(DdbSettings), run.views["train"]
    files = {"amplifier": settings.amplifier, "pseudo_labels": settings.pseudo_labels, "oracle": settings.oracle}
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise UsageError(f"ddb.{name}: there is no file {path}")
    if run.config.section(CdpmSettings).condition != "label":
        raise UsageError(
            "cdpm.condition is 'group', and images of groups would not be biased; Diffusing DeBias asks for classes: "
            "use --cdpm.condition label"
        )
    if settings.pseudo_labels is not None:
        read_marks(Path(settings.pseudo_labels), train, run.config.data.pseudo_column)
        return
    check_amplifier(run, None if settings.amplifier is None else Path(settings.amplifier))
    if settings.amplifier is None and settings.amplifier_data == "synthetic":
        check_image_source(run)


def check_image_source(run: Run) -> None:
    """Check that the images that train the amplifier are there, or can be drawn; and the oracle that measures them."""
    settings = run.config.section(DdbSettings)
    if settings.oracle is not None:
        check_oracle(run, Path(settings.oracle))
    if settings.images is not None:
        check_images(run, Path(settings.images))
    elif settings.cdpm is not None:
        check_drawing(run, Path(settings.cdpm))
    else:
        check_rows_of_classes(run.views["train"])
        check_drawing(run, None)


def amplification_outline(run: Run) -> Outline:
    """Return the outline of the phases whose results are not given."""
    settings, train = run.config.section(DdbSettings), run.views["train"]
    if settings.pseudo_labels or settings.amplifier:
        return []
    if settings.amplifier_data == "real":
        return [amplifier_outline(run, len(train))]
    if settings.images is not None:
        return [amplifier_outline(run, count_images(run, Path(settings.images)))]
    rows = settings.per_class * train.spec.num_classes
    before = [] if settings.cdpm is not None else cdpm_phases(run)
    return [*before, amplifier_outline(run, rows, f"{rows:,} images are drawn before it")]


@register_finder(
    "ddb",
    "rows that an amplifier of the bias finds hard",
    paper="Ciranni et al. 2025 (Diffusing DeBias)",
    needs="label",
    cost="cdpm.epochs of a diffusion model, the drawing of ddb.per_class images, amplifier.epochs on them",
    sections=("ddb", "cdpm", "amplifier"),
    check=check_amplification,
    phases=amplification_outline,
)
def ddb_groups(run: Run) -> Found:
    """Train phases 'cdpm' and 'amplifier', or leave out each whose result is given, and select rows by their losses."""
    note_given(run)
    settings, view = run.config.section(DdbSettings), run.views["train"]
    hint = "the amplifier may have learnt more than the shortcut: fewer --amplifier.epochs, or --ddb.selector error_set"
    if settings.pseudo_labels:
        path = Path(settings.pseudo_labels)
        train = by_marks(view, given_conflicting_rows(run)).without_empty_groups()
        return Found(train, _as_they_are, path, run.config.data.pseudo_column, hint)
    amplifier = amplifier_of(run, amplifier_images(run))
    _, conflicting = score_training_rows(run, amplifier)

    def of(rows: View) -> View:
        return by_amplifier(run, amplifier, rows)

    return Found(by_marks(view, conflicting).without_empty_groups(), of, run.folder / SCORES, COLUMN, hint)


def _as_they_are(rows: View) -> View:
    """Return rows in their own groups, and say so: a table of training rows says nothing of other rows."""
    logger.info("ddb.pseudo_labels says nothing of '%s', whose rows keep their own groups", rows.name)
    return rows


def by_amplifier(run: Run, amplifier: nn.Module, view: View) -> View:
    """Return the rows of a view in groups (class, bias-conflicting or not), as the amplifier says."""
    scores = score_rows(run, amplifier, view)
    return by_marks(view, select_conflicting(scores, run.config.section(DdbSettings).rule, view.spec.classes))


def note_given(run: Run) -> None:
    """Note which results of phases are given, and log how that limits a comparison of seeds."""
    settings = run.config.section(DdbSettings)
    given = [name for name in ("cdpm", "images", "amplifier", "pseudo_labels") if getattr(settings, name)]
    run.notes["ddb"] = {"given": given}
    if given:
        logger.info(
            "ddb.%s is given: runs of other seeds may share it, and their spread then leaves out how its training "
            "varies",
            given[-1],
        )


def amplifier_images(run: Run) -> View | None:
    """Return the rows that the amplifier learns from; None if the amplifier is given (ddb.amplifier).

    They are the training rows (ddb.amplifier_data real), the images of a folder (ddb.images), or images drawn from a
    diffusion model: one of another run (ddb.cdpm), or the one that phase 'cdpm' trains.
    """
    settings, train = run.config.section(DdbSettings), run.views["train"]
    if settings.amplifier is not None:
        return None
    if settings.amplifier_data == "real":
        return train
    if settings.images is not None:
        folder = Path(settings.images)
    elif settings.cdpm is not None:
        folder = draw_images(run, Path(settings.cdpm))
    else:
        train_diffusion(run, train)
        folder = draw_images(run, run.folder)
    synthetic = synthetic_view(run, folder)
    run.notes["ddb"]["images"] = describe_images(run, synthetic)
    return synthetic


def check_rows_of_classes(view: View) -> None:
    """Raise DataError where a class has fewer than FEWEST rows, too few for a diffusion model."""
    counts = np.bincount(view.label[view.rows], minlength=view.spec.num_classes)
    few = [f"{name} has {n}" for name, n in zip(view.spec.classes, counts.tolist(), strict=True) if n < FEWEST]
    if few:
        raise DataError(
            f"{view.beton.path}: too few training rows for a diffusion model of every class: {'; '.join(few[:5])}"
            f"{'; ...' if len(few) > 5 else ''}. The model cannot draw a class that it has not seen, and repeats the "
            f"rows of a small one: {FEWEST} is the least, and some hundred are reasonable. Choose other rows or classes"
        )


def amplifier_of(run: Run, images: View | None) -> nn.Module:
    """Return the amplifier that phase 'amplifier' trains on these rows, or for None the one of ddb.amplifier.

    The returned network sees its images as coarse as amplifier.match_resolution says.
    """
    path = run.config.section(DdbSettings).amplifier
    if images is None:
        assert path is not None  # `amplifier_images` returns None for this reason alone
        return with_coarse_input(run, load_amplifier(run, Path(path)))
    return with_coarse_input(run, train_amplifier(run, images))


def score_training_rows(run: Run, amplifier: nn.Module) -> tuple[Scores, Mask]:
    """Return the amplifier's scores of the training rows, and which rows it calls bias-conflicting, bool [M].

    They are read from amplifier_scores.csv of the run's folder, or computed and written there. Log and note how well
    they meet the rows that really are bias-conflicting.
    """
    view = run.views["train"]

    def compute() -> dict[str, list[Any]]:
        scores = score_rows(run, amplifier, view)
        conflicting = select_conflicting(scores, run.config.section(DdbSettings).rule, view.spec.classes)
        return {
            "y": scores.label.tolist(),
            "prediction": scores.predicted.tolist(),
            "loss": scores.loss.tolist(),
            COLUMN: conflicting.astype(int).tolist(),
            SCORE: scores.loss.tolist(),
        }

    scores, conflicting = read_or_write_table(run.folder / SCORES, view, amplifier, compute, read_scores)
    description = {**describe_scores(view, scores), **describe_marks(view, conflicting, "conflicting_row")}
    run.notes["ddb"]["training_rows"] = description
    precision, recall = description["precision"] or 0, description["recall"]
    quality = "" if recall is None else f"; precision {100 * precision:.1f} %, recall {100 * recall:.1f} %"
    logger.info("the amplifier calls %d of %d rows bias-conflicting%s", conflicting.sum(), len(view), quality)
    return scores, conflicting


def read_scores(path: Path, view: View) -> tuple[Scores, Mask]:
    """Read the table of `score_training_rows` for the rows of the view in order."""
    table = read_columns(path, view, ("y", "prediction", "loss"))
    label, predicted = (np.array([int(value) for value in table[name]]) for name in ("y", "prediction"))
    loss = np.array([float(value) for value in table["loss"]], np.float32)
    return Scores(label, predicted, loss), read_marks(path, view, COLUMN)


def given_conflicting_rows(run: Run) -> Mask:
    """Read from ddb.pseudo_labels which training rows are called bias-conflicting, bool [M], and note their quality."""
    view, path = run.views["train"], run.config.section(DdbSettings).pseudo_labels
    assert path is not None
    conflicting = read_marks(Path(path), view, run.config.data.pseudo_column)
    run.notes["ddb"]["training_rows"] = describe_marks(view, conflicting, "conflicting_row")
    return conflicting
