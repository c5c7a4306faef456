"""What happens after each epoch of a phase: log, evaluate, select, save; and how a phase is picked up again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.system import distributed
from debeton.system.files import replacing, write_text
from debeton.system.log import logger
from debeton.train.loop import TrainState
from debeton.train.metrics import Metrics, selection_score
from debeton.train.results import ResultLog


@dataclass
class PhaseKeeper:
    """Keeps a phase's checkpoints: the latest state, and the weights of the best epoch so far.

    name: of the phase. folder: of the checkpoints. identity: plain values that every checkpoint carries, such as
    what rebuilds the model. evaluate: model -> validation metrics, or None where there is no validation split.
    rule: of selection, 'last' for the final epoch. epochs: of the phase. eval_epochs: epochs between evaluations.
    save_every: epochs between saves of the whole state; the last is always saved.
    lead: the metric that the console leads with. oracle: model -> test metrics, logged and never looked at here.
    """

    name: str
    state: TrainState
    folder: Path
    log: ResultLog
    identity: Mapping[str, Any]
    evaluate: Callable[[nn.Module], Metrics | None]
    rule: str
    epochs: int
    eval_epochs: int = 1
    save_every: int = 1
    lead: str = "accuracy"
    oracle: Callable[[nn.Module], Metrics] | None = None

    @property
    def latest(self) -> Path:
        return self.folder / "checkpoint_latest.pt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoint_best.pt"

    def restore(self, device: torch.device) -> bool:
        """Continue from the latest checkpoint of this phase, and say whether there is one; forget later results."""
        content = load_checkpoint(self.latest, device) if self.latest.exists() else {"phase": ""}
        found = content["phase"] == self.name
        if found:
            self.state.load_state_dict(content)
        if distributed.is_main():
            self.log.rewind(self.name, self.state.epoch)
        return found

    def save(self) -> None:
        """Write the whole state as the latest checkpoint."""
        if distributed.is_main():
            save_checkpoint(self.latest, {"phase": self.name, **self.identity, **self.state.state_dict()})
        distributed.barrier()

    def after_epoch(self, train: Metrics, lr: float) -> None:
        """Log the epoch; evaluate when it is due; keep the weights when they are the best so far; save."""
        state = self.state
        summary = state.objective.summary()
        self._log("train", train, lr, summary)
        due = state.epoch % self.eval_epochs == 0 or state.epoch == self.epochs
        val = self.evaluate(state.evaluated) if due else None
        if val is not None:
            self._log("val", val)
            if self.rule != "last":
                self._select(val)
        if due and self.oracle is not None:
            self._log("test", self.oracle(state.evaluated))
        train = {**train, "loss": summary.get("loss")} if train["loss"] is None else train
        line = epoch_line(state.epoch, self.epochs, train, val, lr, self.lead)
        logger.info("%s  data_wait %.1f %%", line, 100 * state.data_wait)
        if state.epoch % self.save_every == 0 or state.epoch == self.epochs:
            self.save()

    def _select(self, val: Metrics) -> None:
        score = selection_score(val, self.rule)
        if not self.state.best or score > tuple(self.state.best["score"]):
            self.state.best = {"epoch": self.state.epoch, "score": list(score)}
            self._save_best()

    def _save_best(self) -> None:
        if distributed.is_main():
            content = {"phase": self.name, **self.identity, **self.state.best}
            save_checkpoint(self.best, {**content, "state_dict": self.state.evaluated.state_dict()})
        distributed.barrier()

    def select(self, device: torch.device) -> int:
        """Give the model the weights of the selected epoch, the last one where nothing selects; returns that epoch."""
        if not self.state.best:
            self.state.best = {"epoch": self.state.epoch, "score": []}
            self._save_best()
        self.state.model.load_state_dict(load_checkpoint(self.best, device)["state_dict"])
        return int(self.state.best["epoch"])

    def _log(
        self, split: str, metrics: Metrics, lr: float | None = None, summary: Mapping[str, Any] | None = None
    ) -> None:
        if distributed.is_main():
            state = self.state
            self.log.write(
                phase=self.name,
                epoch=state.epoch,
                step=state.step,
                split=split,
                lr=lr,
                metrics=metrics,
                objective=summary,
            )


class PhaseRecords:
    """Which phases of a run are finished: phases.json, and the selected weights of each in phase_NAME.pt."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "phases.json"

    def read(self) -> dict[str, dict[str, Any]]:
        """What each finished phase left: 'selected_epoch', 'seconds', 'images', 'data_wait'."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def take_over(self, name: str, model: nn.Module, device: torch.device) -> dict[str, Any] | None:
        """Give the model the weights that a finished phase selected; None when it is not finished."""
        record = self.read().get(name)
        if record is not None:
            model.load_state_dict(load_checkpoint(self.folder / f"phase_{name}.pt", device)["state_dict"])
        return record

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Note that a phase is finished, its selected weights being those of checkpoint_best.pt."""
        if distributed.is_main():
            with replacing(self.folder / f"phase_{name}.pt") as (partial,):
                link_or_copy(self.folder / "checkpoint_best.pt", partial)
            write_text(self.path, json.dumps({**self.read(), name: dict(record)}, indent=1))
        distributed.barrier()


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of the same file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def epoch_line(epoch: int, epochs: int, train: Metrics, val: Metrics | None, lr: float, lead: str) -> str:
    """One line about an epoch, in percent."""
    parts = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"lr {lr:.3g}"]
    if train["loss"] is not None:
        accuracy = "" if train["accuracy"] is None else f" acc {100 * train['accuracy']:.1f}"
        parts.append(f"train loss {train['loss']:.3f}{accuracy}")
    if val is not None:
        shown = {
            "acc": lead,
            "worst": "worst_group_accuracy",
            "mean": "mean_group_accuracy",
            "aligned": "bias_aligned_accuracy",
            "conflicting": "bias_conflicting_accuracy",
        }
        values = [f"{name} {100 * val[key]:.1f}" for name, key in shown.items() if val[key] is not None]
        parts.append("val " + " ".join(values))
    return "  ".join(parts)
