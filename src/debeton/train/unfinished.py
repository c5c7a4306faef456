"""Unfinished runs beside a new one: whoever repeats a command with one setting changed is told that it begins anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debeton.config import Config, load
from debeton.config.identity import run_identity
from debeton.config.section import show
from debeton.system.errors import UsageError
from debeton.system.locks import is_locked
from debeton.system.log import logger
from debeton.train.run_folder import CONFIG_NAME, next_folder, other_folders
from debeton.train.standing import Standing, standing

MOST_DIFFERENCES = 4  # of settings, beyond which a run is no repetition of another one
MOST_FOLDERS = 200  # that are read: the newest ones


@dataclass(frozen=True)
class Unfinished:
    """An unfinished run of the same experiment.

    differences: the settings that differ, by key: the value there, and the value of the new run.
    """

    folder: Path
    standing: Standing
    differences: Mapping[str, tuple[Any, Any]]

    def text(self, new: Path) -> str:
        """Return the sentence about it. new: the folder that the command begins."""
        changes = ", ".join(f"{key}: {show(old)} -> {show(now)}" for key, (old, now) in self.differences.items())
        state = "running now" if is_locked(self.folder / ".lock") else "unfinished"
        return f"{self.folder} is {state}: {self.standing.text}. This command differs in {changes}, so it begins {new}"


def nearest_unfinished(config: Config, folder: Path) -> Unfinished | None:
    """Return the unfinished run of the experiment that differs in the fewest settings, at most MOST_DIFFERENCES.

    Without training.exp_name, its runs are those of the same data set, method and seed. None where there is none.

    folder: the run's own folder.
    """
    own, found = run_identity(config.values), []
    for other in other_folders(config, folder)[:MOST_FOLDERS]:
        where = standing(other)
        if where.is_finished:
            continue
        try:
            theirs = run_identity(load([other / CONFIG_NAME]).values)
        except UsageError:
            continue  # another version of the program wrote it, or a person
        keys = [key for key in own if own[key] != theirs.get(key)]
        if len(keys) <= MOST_DIFFERENCES:
            found.append(Unfinished(other, where, {key: (theirs.get(key), own[key]) for key in keys}))
    return min(found, key=lambda one: len(one.differences), default=None)


def note_unfinished(config: Config, folder: Path | None = None) -> None:
    """Say which unfinished run a new one begins beside, and in which settings they differ.

    folder: the new run's folder; None for one that is not made yet.
    """
    folder = folder or next_folder(config)
    one = nearest_unfinished(config, folder)
    if one is not None and one.differences:
        logger.info("note: %s", one.text(folder))
