"""Finished phases: what each leaves beside its weights, and the files that hold it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.nets.checkpoint import BEST_NAME, load_checkpoint, verify_checkpoint
from debeton.system import distributed
from debeton.system.errors import DamagedFile, DataError
from debeton.system.files import replacing, write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null
from debeton.system.json_text import json_text
from debeton.system.log import logger
from debeton.train.feature_loader import FeatureStore
from debeton.train.result_files import COUNT, SELECTION


@dataclass(frozen=True)
class PhaseRecord:
    """The record of a finished phase.

    selected_epoch: the epoch whose weights are used; None for a phase without epochs.
    seconds: time that the work took, over all its interruptions.
    images: training images that were seen; 0 for a phase that takes no training step.
    data_wait: share of the seconds spent waiting for batches, in [0, 1]; None for a phase without batches.
    notes: plain values that a method wants in results.json.
    processes: the numbers of processes that did the work, in their sequence (processes.py); empty if not known.
    selection: the rule that selected the epoch (`Selection.to_json`); None for a phase without epochs.
    identity: `phase_identity`; '' for a phase that no other run can take over.
    taken_from: the run folder in which the phase was trained; '' for this run's own.
    ended_early: the reason why the phase ended before its last epoch; '' where it did not.
    epochs: number of epochs that it was trained for; 0 for a phase without epochs.
    endless_identity: `phase_identity` without the number of epochs; '' for a phase that no other run can extend.
    continues: the run folder of a shorter run, from whose last state it was trained on (`extension`); '' for none.
    features: the cached features that the phase trained on, if any. Kept in memory only.
    """

    seconds: float
    selected_epoch: int | None = None
    images: int = 0
    data_wait: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    processes: Sequence[int] = ()
    selection: Mapping[str, Any] | None = None
    ended_early: str = ""
    features: FeatureStore | None = None
    identity: str = ""
    taken_from: str = ""
    epochs: int = 0
    endless_identity: str = ""
    continues: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plain values."""
        of_results = ("selected_epoch", "seconds", "images", "data_wait", "selection", "ended_early")
        of_origin = ("identity", "taken_from", "epochs", "endless_identity", "continues")
        plain = {name: getattr(self, name) for name in (*of_results, *of_origin)}
        return {**plain, "notes": dict(self.notes), "processes": list(self.processes)}


# Older versions wrote fewer keys.
PHASES = Table(
    others=Table(
        keys={"seconds": Within(float, 0)},
        may={
            "selected_epoch": or_null(COUNT),
            "images": COUNT,
            "data_wait": or_null(float),
            "notes": dict,
            "processes": ListOf(Within(int, 1)),
            "selection": or_null(SELECTION),
            "ended_early": str,
            "identity": str,
            "taken_from": str,
            "epochs": COUNT,
            "endless_identity": str,
            "continues": str,
        },
        others=None,
    )
)


class PhaseFiles:
    """The files of a run's finished phases: phases.json, and the selected weights of each in phase_NAME.pt.

    folder: the run's folder of checkpoints.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "phases.json"

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the plain values of every finished phase, by name. DataError names what is damaged."""
        if not self.path.exists():
            return {}
        remedy = "remove the file, and the same command trains the finished phases of this run again"
        found: dict[str, dict[str, Any]] = read_json(self.path, PHASES, remedy=remedy)
        return found

    def read_if_sound(self) -> dict[str, dict[str, Any]]:
        """Return what `read` returns. Of a damaged file of another run that is nothing, and a warning says so."""
        try:
            return self.read()
        except (DataError, OSError) as error:
            logger.warning("warning: %s. Nothing is taken over from that run", error)
            return {}

    def take_over(self, name: str, model: nn.Module, device: torch.device) -> PhaseRecord | None:
        """Give the model the weights that a finished phase selected. Return None when the phase is not finished."""
        values = self.read().get(name)
        if values is None:
            return None
        model.load_state_dict(load_checkpoint(self.folder / f"phase_{name}.pt", device)["state_dict"])
        return PhaseRecord(**values)

    def lacking_lines(self, name: str, record: PhaseRecord, lines: Sequence[Mapping[str, Any]], log: Path) -> str:
        """Return a sentence if results.jsonl lacks the evaluations of a finished phase; '' if it has them.

        Its last lines were cut off, or the file is gone, and results would be made without them.

        lines: of the file.
        log: its path.
        """
        last = max((line["epoch"] for line in lines if line["phase"] == name), default=0)
        needed = max(record.selected_epoch or 0, 0 if record.ended_early else record.epochs)
        if last >= needed:
            return ""
        return (
            f"{log} lacks evaluations of phase '{name}', which is finished: it has {needed} epochs, and the last "
            f"line is of epoch {last}. Put the file back from a copy, or remove {self.path} to train the "
            "finished phases again"
        )

    def find(self, name: str, identity: str, folders: Sequence[Path]) -> Path | None:
        """Return the first of these run folders that has the finished phase of an identity; None if none has.

        A folder whose weights of the phase are damaged is passed over, with a warning.
        """
        for folder in folders:
            files = PhaseFiles(folder / self.folder.name)
            values, weights = files.read_if_sound().get(name, {}), files.folder / f"phase_{name}.pt"
            if values.get("identity") != identity or not weights.is_file():
                continue
            try:
                verify_checkpoint(weights)
            except DamagedFile as error:
                logger.warning("warning: phase '%s' is not taken from there: %s", name, error)
                continue
            return folder
        return None

    def adopt(self, name: str, folder: Path) -> None:
        """Make a finished phase of another run folder one of this run."""
        files = PhaseFiles(folder / self.folder.name)
        values = files.read()[name]
        with replacing(self.folder / f"phase_{name}.pt") as (partial,):
            link_or_copy(files.folder / f"phase_{name}.pt", partial)
        values = {**values, "taken_from": values.get("taken_from") or str(folder)}
        write_text(self.path, self._with(name, values))

    def finish(self, name: str, record: PhaseRecord) -> None:
        """Note that a phase is finished. Its weights are those that checkpoint_best.pt holds at this moment."""
        if distributed.is_main():
            text = self._with(name, record.to_json())
            with replacing(self.folder / f"phase_{name}.pt") as (partial,):
                link_or_copy(self.folder / BEST_NAME, partial)
            write_text(self.path, text)
        distributed.barrier()

    def _with(self, name: str, values: Mapping[str, Any]) -> str:
        """Return the text of phases.json with one more phase."""
        return json_text({**self.read(), name: values}, self.path, indent=1)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
