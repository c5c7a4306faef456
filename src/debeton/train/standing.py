"""Standing of a run, as its folder says: finished phases, and the epoch of the phase that is under way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from debeton.nets.checkpoint import CHECKPOINT_FOLDER, LATEST_NAME, load_counters
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.wording import count
from debeton.train.phase import PhaseFiles
from debeton.train.result_files import is_finished
from debeton.train.stop import Preempted, name_of

if TYPE_CHECKING:
    from debeton.train.run import Run


@dataclass(frozen=True)
class Standing:
    """The standing of a run.

    is_finished: its results are there.
    finished: names of the finished phases, in their order.
    phase: name of the phase that has begun and is not finished; '' for none.
    epoch, batch: its finished epochs, and the finished steps of the next one, by its latest checkpoint.
    """

    is_finished: bool
    finished: tuple[str, ...] = ()
    phase: str = ""
    epoch: int = 0
    batch: int = 0

    @property
    def has_begun(self) -> bool:
        """True if the folder holds a trained step or phase."""
        return bool(self.is_finished or self.finished or self.phase)

    @property
    def text(self) -> str:
        """The standing in words, such as "phase 'first' is finished, phase 'train' has 3 epochs and 7 steps"."""
        if self.is_finished:
            return "finished"
        parts = []
        if self.finished:
            several = len(self.finished) > 1
            names = ", ".join(f"'{name}'" for name in self.finished)
            parts.append(f"phase{'s' if several else ''} {names} {'are' if several else 'is'} finished")
        if self.phase:
            steps = f" and {count(self.batch, 'step')} of the next" if self.batch else ""
            parts.append(f"phase '{self.phase}' has {count(self.epoch, 'epoch')}{steps}")
        return ", ".join(parts) or "no step is saved"


def standing(folder: Path) -> Standing:
    """Return where the run in a folder stands. A damaged file counts as none."""
    if is_finished(folder):
        return Standing(True)
    checkpoints = folder / CHECKPOINT_FOLDER
    finished = tuple(PhaseFiles(checkpoints).read_if_sound())
    try:
        latest = load_counters(checkpoints / LATEST_NAME)
    except (DataError, OSError):
        latest = {}
    phase = str(latest.get("phase", ""))
    if not phase or phase in finished:
        return Standing(False, finished)
    return Standing(False, finished, phase, int(latest.get("epoch", 0)), int(latest.get("batch", 0)))


@contextmanager
def said_before_leaving(run: Run) -> Iterator[None]:
    """Say where the run stands when it is asked to stop inside the context, and pass Preempted on.

    A process that waits for one which has left after Ctrl-C gets an error from the broken connection. It leaves in the
    same way.
    """
    try:
        yield
    except Preempted as stop:
        if distributed.is_main():
            logger.warning("%s", describe_stop(run.folder, stop))
        raise
    except Exception as error:
        if run.stop.signum != signal.SIGINT or distributed.world_size() == 1:
            raise
        raise Preempted(run.stop.signum, saved=False) from error


def describe_stop(folder: Path, stop: Preempted) -> str:
    """Return the sentence about a run that was asked to stop: what is saved, and how it goes on."""
    where, name = standing(folder), name_of(stop.signum)
    if stop.during:
        return f"stopped by {name} in {stop.during}: training is finished; the same command evaluates again"
    if not where.has_begun:
        return f"stopped by {name} before a step was saved; the same command begins anew"
    how = "with everything saved" if stop.saved else "at once, between two steps"
    return f"stopped by {name} {how}: {where.text}; the same command resumes"
