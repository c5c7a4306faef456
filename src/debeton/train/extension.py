"""Extension of a finished phase by more epochs: a run continues from the last state of a shorter one.

The longer run is a version of its own, and the files of the shorter one stay as they are. Its phase must be the same in
all but the number of epochs, and its learning rates must not depend on that number. The result is then equal to the bit
to that of a run of the full length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from debeton.config import PhaseSettings
from debeton.nets.checkpoint import LATEST_NAME, load_checkpoint, load_counters, save_checkpoint, verify_checkpoint
from debeton.system import distributed
from debeton.system.errors import DamagedFile, DataError
from debeton.system.files import replacing
from debeton.system.log import logger
from debeton.system.wording import count
from debeton.train.phase import PhaseFiles, link_or_copy
from debeton.train.result_files import LOG_NAME
from debeton.train.results import ResultLog
from debeton.train.run_folder import other_folders

if TYPE_CHECKING:
    from debeton.train.keeper import PhaseKeeper
    from debeton.train.run import Run

MOST_STEPS = 100_000  # whose rates are compared; of more steps, so many are


@dataclass(frozen=True)
class Shorter:
    """A finished phase of another run that is the same in all but the number of epochs.

    folder: of that run.
    epochs: of its phase.
    """

    folder: Path
    epochs: int


def continue_shorter(
    run: Run,
    keeper: PhaseKeeper,
    training: PhaseSettings,
    identity: str,
    rates: Callable[[int], Callable[[int], float]],
    steps_per_epoch: int,
) -> str:
    """Take over the last state of the longest shorter run, and return its folder. The phase then resumes from it.

    Say why not, where there is such a run and its state cannot be used. '' where nothing is taken over.

    keeper: of the phase, which has not begun.
    training: settings of the phase.
    identity: `phase_identity` without the number of epochs.
    rates: number of epochs -> (step -> learning rate).
    """
    source = ""
    if distributed.is_main() and not _has_begun(keeper):
        shorter = next(iter(find_shorter(run, keeper.name, training, identity)), None)
        reason = "" if shorter is None else reason_against(shorter, training, rates, steps_per_epoch, keeper)
        if shorter is not None and reason:
            logger.info(
                "%s has %s of phase '%s'; this run starts it anew, because %s",
                shorter.folder,
                count(shorter.epochs, "epoch"),
                keeper.name,
                reason,
            )
        elif shorter is not None and _take_over(run, keeper, shorter):
            source = str(shorter.folder)
    return distributed.from_main(source)


def find_shorter(run: Run, phase: str, training: PhaseSettings, identity: str) -> Iterator[Shorter]:
    """Yield the finished phases that could be extended, those with the most epochs first.

    One whose files are damaged is left out, with a warning.
    """
    found = []
    for folder in other_folders(run.config, run.folder) if identity else ():
        files = PhaseFiles(folder / run.checkpoints.name)
        values = files.read_if_sound().get(phase, {})
        epochs = values.get("epochs", 0)
        if values.get("endless_identity") != identity or not 0 < epochs < training.epochs:
            continue
        try:
            latest = load_counters(files.folder / LATEST_NAME)
        except (DataError, OSError):
            continue
        is_last_state = (latest.get("phase"), latest.get("epoch"), latest.get("batch")) == (phase, epochs, 0)
        if is_last_state and (files.folder / f"phase_{phase}.pt").is_file():
            found.append(Shorter(folder, epochs))
    for one in sorted(found, key=lambda one: one.epochs, reverse=True):
        if _is_whole(one.folder / run.checkpoints.name, phase):
            yield one


def _is_whole(checkpoints: Path, phase: str) -> bool:
    """Return whether the last state and the weights of a phase hold what was written; if not, warn."""
    try:
        for name in (LATEST_NAME, f"phase_{phase}.pt"):
            verify_checkpoint(checkpoints / name)
    except DamagedFile as error:
        logger.warning("warning: phase '%s' is not continued from there: %s", phase, error)
        return False
    return True


def reason_against(
    shorter: Shorter,
    training: PhaseSettings,
    rates: Callable[[int], Callable[[int], float]],
    steps_per_epoch: int,
    keeper: PhaseKeeper,
) -> str:
    """Return why a run of the full length would not have the shorter one's state; '' if it would."""
    step = first_other_rate(rates(shorter.epochs), rates(training.epochs), shorter.epochs * steps_per_epoch)
    if step is not None:
        then, now = rates(shorter.epochs)(step), rates(training.epochs)(step)
        return (
            f"the rates of training.lr_scheduler {training.lr_scheduler} depend on the number of epochs (step "
            f"{step + 1}: {then:.3g} of {shorter.epochs} epochs, {now:.3g} of {training.epochs}); those of constant, "
            "steplr and multisteplr do not"
        )
    measures = keeper.evaluate is not None or keeper.oracle is not None
    if measures and shorter.epochs % training.eval_epochs:
        return (
            f"epoch {shorter.epochs} was evaluated there as the last one, which training.eval_epochs "
            f"{training.eval_epochs} would not do here"
        )
    return ""


def first_other_rate(one: Callable[[int], float], other: Callable[[int], float], steps: int) -> int | None:
    """Return the first of `steps` steps at which two schedules differ; None if there is none."""
    compared = range(steps) if steps <= MOST_STEPS else np.linspace(0, steps - 1, MOST_STEPS).astype(int).tolist()
    return next((step for step in compared if one(step) != other(step)), None)


def _has_begun(keeper: PhaseKeeper) -> bool:
    try:
        return load_counters(keeper.latest).get("phase") == keeper.name
    except (DataError, OSError):
        return False


def _take_over(run: Run, keeper: PhaseKeeper, shorter: Shorter) -> bool:
    """Make the shorter run's last state and best epoch, and its lines of the log, those of this run's phase.

    Return False, and take nothing over, if its log is damaged.
    """
    lines = ResultLog(shorter.folder / LOG_NAME).read_if_sound()
    if lines is None:
        return False
    theirs = shorter.folder / run.checkpoints.name
    best: dict[str, Any] = load_checkpoint(theirs / f"phase_{keeper.name}.pt")
    if best.get("score"):  # without a score it is the last epoch, and the longer run keeps a later one
        save_checkpoint(keeper.best, {**best, **keeper.identity})
    run.log.rewind(keeper.name, 0)
    for line in lines:
        if line["phase"] == keeper.name and line["epoch"] <= shorter.epochs:
            run.log.write(**line)
    # Last: from here on the phase has begun.
    with replacing(keeper.latest) as (partial,):
        link_or_copy(theirs / LATEST_NAME, partial)
    logger.info("phase '%s' continues from epoch %d of %s", keeper.name, shorter.epochs, shorter.folder)
    return True
