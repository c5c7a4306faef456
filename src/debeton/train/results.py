"""What a run leaves behind: results.jsonl line by line, results.json and results.pt at the end, and its mirrors."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from debeton.system.errors import UsageError
from debeton.system.files import naming_full_disk, write_text
from debeton.train.metrics import Metrics

PACKAGES = ("torch", "torchvision", "numpy", "numba", "ffcv")
_SCALARS = (
    "accuracy",
    "worst_group_accuracy",
    "mean_group_accuracy",
    "mean_class_accuracy",
    "adjusted_accuracy",
    "bias_aligned_accuracy",
    "bias_conflicting_accuracy",
    "loss",
)


class Sink(Protocol):
    """Somewhere that scalars are mirrored to."""

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        """Scalars of one evaluation, e.g. name 'val'."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class TensorBoardSink:
    """TensorBoard events in the run folder."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run, offline unless WANDB_MODE says otherwise."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise UsageError(
                f"--logging.wandb {project} needs the package wandb, which is not installed; "
                "install it with: .venv/bin/python -m pip install wandb"
            ) from None
        os.environ.setdefault("WANDB_MODE", "offline")
        # The folder names the run: a resumed run continues its own curve.
        self._run = wandb.init(
            project=project,
            dir=str(folder),
            config=dict(config),
            name=f"{folder.parent.name}/{folder.name}",
            id=f"{folder.parent.name}-{folder.name}",
            resume="allow",
        )

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({f"{name}/{key}": value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class ResultLog:
    """results.jsonl of a run, mirrored to sinks.

    Lines are {"phase", "epoch", "step", "split", "lr", "metrics"}, of training also "objective" where it has a state
    worth seeing (GroupDRO's q by group).
    """

    def __init__(self, path: Path, sinks: list[Sink] | None = None):
        self.path, self.sinks = path, sinks or []

    def write(
        self,
        *,
        phase: str,
        epoch: int,
        step: int,
        split: str,
        lr: float | None,
        metrics: Metrics,
        objective: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one evaluation; epoch counts finished epochs."""
        line = {"phase": phase, "epoch": epoch, "step": step, "split": split, "lr": lr, "metrics": metrics}
        if objective:
            line["objective"] = dict(objective)
        with naming_full_disk(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        values = {key: metrics[key] for key in _SCALARS if metrics.get(key) is not None}
        if lr is not None:
            values["lr"] = lr
        for sink in self.sinks:
            sink.write(f"{phase}/{split}", values, step)

    def read(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return [json.loads(text) for text in self.path.read_text().splitlines()] if self.path.exists() else []

    def rewind(self, phase: str, epoch: int) -> None:
        """Drop what a run wrote after the checkpoint it resumes from: later epochs of this phase, and broken lines."""
        if not self.path.exists():
            return
        kept = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut off in the middle of a write
            if line["phase"] != phase or line["epoch"] <= epoch:
                kept.append(text + "\n")
        write_text(self.path, "".join(kept))

    def close(self) -> None:
        """End the mirrors."""
        for sink in self.sinks:
            sink.close()


def prediction_result(metrics: Metrics, label: Tensor, predicted: Tensor) -> dict[str, Any]:
    """One entry of results.pt, as bias-transfer writes it: gts and preds int64 [N] in row order, accuracy in
    percent as float64, and class_acc left to the reader, who has both."""
    return {"gts": label, "preds": predicted, "acc": torch.tensor(100 * metrics["accuracy"], dtype=torch.float64)}


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
