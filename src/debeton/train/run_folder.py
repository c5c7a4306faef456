"""Run folders: {outdir}/{exp_name}/version_{k}, claimed atomically, one per resolved configuration."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from debeton.config import Config, load
from debeton.nets.checkpoint import CHECKPOINT_FOLDER
from debeton.system.errors import UsageError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.file_names import path_below
from debeton.system.leftovers import make_partial_folder, remove_partials
from debeton.system.locks import LockState, file_lock
from debeton.system.log import logger
from debeton.system.plugins import RECORD, record_plugins, warn_of_changes
from debeton.train.run_data import DATA_NAME, RunData, check_folder

CONFIG_NAME = "config.yaml"
VERSION = re.compile(r"version_([0-9]+)")
EVENTS = "events.out.tfevents"  # files of TensorBoard begin so


def experiment_name(config: Config) -> str:
    """Return training.exp_name, or a name made of dataset, method, seed and a hash of the configuration.

    It may name folders in folders. UsageError for one that leads out of training.outdir.
    """
    if config.training.exp_name is not None:
        return path_below(config.training.exp_name, "training.exp_name", UsageError)
    name = f"{config.data.dataset}_{config.training.method}_seed{config.training.seed}_{config.identity_hash()}"
    return path_below(name, "data.dataset", UsageError)


def find_folder(config: Config) -> Path | None:
    """Return the run folder of this configuration; None if there is none yet."""
    numbered = {}
    for folder in (Path(config.training.outdir) / experiment_name(config)).glob("version_*"):
        if number := VERSION.fullmatch(folder.name):  # not a copy, such as version_0_old
            numbered[int(number[1])] = folder
    return next((numbered[k] for k in sorted(numbered) if _belongs_to(numbered[k], config)), None)


def other_folders(config: Config, folder: Path) -> list[Path]:
    """Return the other run folders of the same experiment, the newest first.

    They have the run's training.exp_name. Without one, they have its data set, method and seed.

    folder: the run's own folder, which is left out.
    """
    name = glob.escape(experiment_name(config))
    if config.training.exp_name is None:
        name = f"{glob.escape(experiment_name(config).removesuffix(config.identity_hash()))}*"
    found = [one for one in Path(config.training.outdir).glob(f"{name}/version_*") if one.resolve() != folder.resolve()]
    return sorted(found, key=lambda one: one.stat().st_mtime_ns, reverse=True)


def claim_folder(config: Config, data: RunData | None = None) -> Path:
    """Return this configuration's run folder: the existing one, or a new one with the next free version_k.

    The folder appears together with its config.yaml in one rename. Two jobs that start together never share one.
    DataError if the existing folder belongs to other data (`run_data.check_folder`).

    data: `describe_data` of the run; None leaves the data unchecked and unnamed.
    """
    folder = find_folder(config) or _make_folder(config, data)
    warn_of_changes(folder)
    if data is not None:
        check_folder(folder, data)
    return folder


def _make_folder(config: Config, data: RunData | None) -> Path:
    """Make a run folder with the next free version_k. Return it, or that of a process that was first."""
    parent = Path(config.training.outdir) / experiment_name(config)
    with naming_failed_writes(parent):
        parent.mkdir(parents=True, exist_ok=True)
    folders = (parent / f"version_{k}" for k in itertools.count())
    return next(
        folder
        for folder in folders
        if (not folder.exists() and _create(folder, config, data)) or _belongs_to(folder, config)
    )


def remove_if_empty(folder: Path) -> bool:
    """Remove a run folder that holds no more than its settings and its log. Return whether it was removed.

    Anything else is kept: a checkpoint, a line of results, a table of rows, images.
    """
    expected = {CONFIG_NAME, DATA_NAME, RECORD, "log.txt", ".lock", CHECKPOINT_FOLDER, "wandb"}
    others = [one for one in folder.iterdir() if one.name not in expected and not one.name.startswith(EVENTS)]
    if others or any((folder / CHECKPOINT_FOLDER).iterdir()):
        return False
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # other versions of the experiment
        folder.parent.rmdir()
    return True


def next_folder(config: Config) -> Path:
    """Return the folder that `claim_folder` would make for a configuration without one."""
    parent = Path(config.training.outdir) / experiment_name(config)
    versions = itertools.count()
    return next(folder for folder in (parent / f"version_{k}" for k in versions) if not folder.exists())


def _belongs_to(folder: Path, config: Config) -> bool:
    file = folder / CONFIG_NAME
    if not file.exists():
        return False
    try:
        return _identity_in(file, file.stat().st_mtime_ns) == config.identity_hash()
    except UsageError as error:
        # Another version of the program wrote it, or a person: it is not ours, and stays as it is.
        logger.warning("warning: %s; this run takes another folder", error)
        return False


@functools.cache
def _identity_in(file: Path, changed: int) -> str:
    """Return the identity of a configuration file, cached until the file changes: studies ask often."""
    return load([file]).identity_hash()


def _create(folder: Path, config: Config, data: RunData | None) -> bool:
    """Make `folder` with its configuration and the names of its data. Return False if another process was first."""
    with naming_failed_writes(folder):
        staging = make_partial_folder(folder.with_name(f".{folder.name}"))
        try:
            (staging / CONFIG_NAME).write_text(config.dump(), encoding="utf-8")
            if data is not None:
                (staging / DATA_NAME).write_text(json.dumps(data, indent=1))
            (staging / CHECKPOINT_FOLDER).mkdir()
            record_plugins(staging)
            return _rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # nothing where it was renamed


def _rename(staging: Path, folder: Path) -> bool:
    """Give a folder its final name. Return False if another process was first."""
    try:
        os.rename(staging, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the run folder, and remove what killed processes left in it.

    Raise UsageError if another process on this machine is running it.
    """
    with file_lock(folder / ".lock") as lock:
        if lock is LockState.BUSY:
            raise UsageError(
                f"{folder} is being run by another process; wait for it, or give this run another --training.exp_name"
            )
        if lock is LockState.HELD:
            remove_partials(folder)
        yield  # without locks `claim_folder` still keeps different configurations apart
