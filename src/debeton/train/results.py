"""The files of results: results.jsonl line by line, entries of results.pt, and mirrors such as TensorBoard."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from debeton.system.digests import with_digests
from debeton.system.errors import DataError, UsageError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.files import append_text, write_text
from debeton.system.json_text import json_text
from debeton.system.log import logger
from debeton.train.metrics import Metrics
from debeton.train.result_files import read_log, say_cut

PACKAGES = ("torch", "torchvision", "numpy", "numba", "ffcv")
_SCALARS = (
    "accuracy",
    "worst_group_accuracy",
    "mean_group_accuracy",
    "mean_class_accuracy",
    "adjusted_accuracy",
    "bias_aligned_accuracy",
    "bias_conflicting_accuracy",
    "mean_aligned_group_accuracy",
    "mean_conflicting_group_accuracy",
    "loss",
)


class Sink(Protocol):
    """A mirror of the scalars in results.jsonl."""

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        """Write the scalars of one evaluation.

        name: such as 'train/val', phase and split.
        values: by metric.
        step: optimizer steps so far.
        """
        ...

    def close(self) -> None:
        """Flush and end the mirror."""
        ...


class TensorBoardSink:
    """TensorBoard events in the run folder."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._events = folder / "events.out.tfevents"
        with naming_failed_writes(self._events), _errors_left_to_callers():
            self._writer = SummaryWriter(str(folder))

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        with naming_failed_writes(self._events), _errors_left_to_callers():
            for key, value in values.items():
                self._writer.add_scalar(f"{name}/{key}", value, step)
            self._writer.flush()  # raises what the thread met

    def close(self) -> None:
        with naming_failed_writes(self._events), _errors_left_to_callers():
            self._writer.close()


@contextmanager
def _errors_left_to_callers() -> Iterator[None]:
    """Print no traceback of a disk's error in the thread that writes events: the writer raises it in its caller."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


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
    """The results.jsonl of a run, mirrored to sinks.

    A line is {"phase", "epoch", "step", "split", "lr", "metrics", "sha256"}. A line of training also has "objective",
    if the objective keeps values worth seeing, such as GroupDRO's q by group. The digest is of the line itself, and is
    left out when the line is read.
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
        """Append the line of one evaluation. epoch counts finished epochs; the others are keys of the line."""
        line = {"phase": phase, "epoch": epoch, "step": step, "split": split, "lr": lr, "metrics": metrics}
        if objective:
            line["objective"] = dict(objective)
        append_text(self.path, self._text(line))
        values = {key: metrics[key] for key in _SCALARS if metrics.get(key) is not None}
        if lr is not None:
            values["lr"] = lr
        for sink in self.sinks:
            sink.write(f"{phase}/{split}", values, step)

    def read(self) -> list[dict[str, Any]]:
        """Return the lines so far. DataError names a damaged line.

        A last line that a kill cut off is left out.
        """
        return list(read_log(self.path))

    def read_if_sound(self) -> list[dict[str, Any]] | None:
        """Return the lines so far; None, with a warning, if one is damaged. It reads the log of another run."""
        try:
            return self.read()
        except (DataError, OSError) as error:
            logger.warning("warning: %s. Nothing is taken over from that run", error)
            return None

    def rewind(self, phase: str, epoch: int) -> None:
        """Drop the lines after the checkpoint that a run resumes from: later epochs of this phase.

        A last line that a kill cut off is dropped with a note. DataError names any other damaged line, and the file
        stays as it is: the run could not make the line anew.
        """
        if not self.path.exists():
            return
        lines = list(read_log(self.path, cut=partial(say_cut, self.path)))
        kept = [line for line in lines if line["phase"] != phase or line["epoch"] <= epoch]
        write_text(self.path, "".join(map(self._text, kept)))

    def _text(self, line: Mapping[str, Any]) -> str:
        return json_text(with_digests(line), self.path) + "\n"

    def close(self) -> None:
        """Close the mirrors."""
        for sink in self.sinks:
            sink.close()


def prediction_result(metrics: Metrics, label: Tensor, predicted: Tensor) -> dict[str, Any]:
    """Return one entry of results.pt, as the bias-transfer code writes it.

    gts, preds: int64 [N], labels and predictions in the order of the rows.
    acc: accuracy in percent, float64.
    """
    return {"gts": label, "preds": predicted, "acc": torch.tensor(100 * metrics["accuracy"], dtype=torch.float64)}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}
