"""A trial of a run before it begins: a few real steps on real batches, which are timed."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import nn

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.views.view import View
from debeton.nets.models import evaluating
from debeton.system.files import temporary_folder
from debeton.train.objective import CrossEntropy, Precision
from debeton.train.outline import PhaseOutline, PhaseStart
from debeton.train.phase import PhaseRecord
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.training import features_serve, train_briefly, train_loader

FEW_ROWS = 4  # of the first step, which also tells whether a step of a whole batch takes too long to be tried
MOST_BATCHES, LONGEST_DECODING = 8, 1.0  # batches and seconds of the trial of the decoder
LONGEST_STEP = 4.0  # seconds; a longer step is tried on a part of the batch


class _Reached(Exception):
    def __init__(self, start: PhaseStart | None):
        super().__init__()
        self.start = start


class _Rehearsal(Run):
    """A run whose method is followed to the beginning of its first phase."""

    def about_to_train(self, start: PhaseStart) -> NoReturn:
        raise _Reached(start)

    def phase(self, *_: Any, **__: Any) -> PhaseRecord:
        raise _Reached(None)


def rehearse(run: Run, method: Callable[[Run], object]) -> PhaseStart | None:
    """Return how the first phase of a method begins; None if that phase takes no training steps.

    The method runs for real to that point, in a folder that is removed.
    """
    with temporary_folder("dry_run") as folder:
        values = {one.name: getattr(run, one.name) for one in dataclasses.fields(run)}
        apart = {"folder": folder, "notes": {}, "phases": {}, "val_uses": [], "remarks": []}
        try:
            method(_Rehearsal(**{**values, **apart}))
        except _Reached as reached:
            return reached.start
    return None


def begin_phase(run: Run, phase: PhaseOutline, view: View) -> PhaseStart:
    """Return how a phase of an outline begins, as far as its outline says it."""
    assert phase.settings is not None
    if phase.start is None:
        model: nn.Module = run.network()
        return PhaseStart(phase.name, view, CrossEntropy(phase.settings.label_smoothing), model, phase.settings)
    model, objective = phase.start()
    return PhaseStart(phase.name, view, objective, model, phase.settings, type(model).__name__)


@dataclass(frozen=True)
class Speed:
    """The measured times of a phase.

    step: seconds of a training step of a whole batch, with the decoding of its images.
    rows: rows of the step that was measured, in one process.
    batch: rows of a whole batch in one process.
    decode: seconds in which the batch is decoded.
    on_features: the phase trains on cached features, and its steps take almost no time.
    """

    step: float
    rows: int
    batch: int
    decode: float
    on_features: bool = False


class _FewBatches(Loader):
    """A loader of a few batches: small ones, then as much of a whole one as is quick.

    seconds: of the last step, whose rows are `rows`. The first step, which also compiles, is not counted.
    """

    def __init__(self, batch: Batch, loader: Loader, device: torch.device):
        super().__init__(loader.view, loader.batch_size, seed=loader.seed, tail=loader.tail, options=loader.options)
        self.whole, self.device = batch, device
        self.seconds, self.rows = 0.0, 0

    def epoch(self, epoch: int, start: int = 0) -> Any:
        return _Steps(self._batches())

    def _batches(self) -> Iterator[Batch]:
        few = min(FEW_ROWS, len(self.whole))
        yield first_rows(self.whole, few)
        yield from self._timed(few)
        most = math.floor(LONGEST_STEP / max(self.seconds, 1e-9) * few)
        if most > few and len(self.whole) > few:
            for _ in range(2 if self.seconds * len(self.whole) / few < LONGEST_STEP / 4 else 1):
                yield from self._timed(min(most, len(self.whole)))

    def _timed(self, rows: int) -> Iterator[Batch]:
        began = _now(self.device)
        yield first_rows(self.whole, rows)
        self.seconds, self.rows = _now(self.device) - began, rows


class _Steps:
    """The batches of an epoch, as the training loop takes them."""

    waited = 0.0

    def __init__(self, batches: Iterator[Batch]):
        self._batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs in the background."""


def first_rows(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch."""
    tensors = {name: getattr(batch, name)[:rows] for name in ("image", "row", "label", "attribute", "group", "source")}
    return replace(batch, **tensors, triggered=tuple(image[:rows] for image in batch.triggered))


def measure_training(run: Run, start: PhaseStart) -> Speed:
    """Return the times of a phase's steps, from a real batch in the real loop."""
    loader = train_loader(run, start.view, start.training)
    own_rows = math.ceil(loader.batch_size / processes())
    if features_serve(run, start):
        return Speed(0.0, 0, own_rows, 0.0, on_features=True)
    with loader.epoch(0) as batches:
        batch = first_rows(next(batches), own_rows)
    decode = decoding_seconds(loader) / processes()  # again: the first batch also compiled the decoder
    brief = _FewBatches(batch, loader, run.device)
    train_briefly(run, start, brief)
    compute = brief.seconds * len(batch) / brief.rows
    return Speed(together(compute, decode, run.device), brief.rows, len(batch), decode)


def decoding_seconds(loader: Loader) -> float:
    """Return the seconds in which a batch is decoded, as a mean over a few."""
    began, number = time.perf_counter(), 0
    with loader.epoch(1) as batches:
        for number, _ in enumerate(batches, 1):
            if number == MOST_BATCHES or time.perf_counter() - began > LONGEST_DECODING:
                break
        return (time.perf_counter() - began) / max(number, 1)


def together(compute: float, decode: float, device: torch.device) -> float:
    """Return the seconds of a step: on a CPU both share the cores, beside a GPU they overlap."""
    return max(compute, decode) if device.type == "cuda" else compute + decode


@torch.inference_mode()
def measure_evaluation(run: Run, model: nn.Module, view: View) -> float:
    """Return the seconds in which one row of a view is decoded and evaluated."""
    loader, precision = eval_loader(view, run.config, run.device), Precision(run.config.training.precision, run.device)
    with loader.epoch(0) as batches:
        batch = next(batches)
    decode = decoding_seconds(loader) / len(batch)
    with evaluating(model), precision.autocast():

        def forward(rows: int) -> float:
            began = _now(run.device)
            model(first_rows(batch, rows).image)
            return (_now(run.device) - began) / rows

        few = min(FEW_ROWS, len(batch))
        forward(few)
        compute = forward(few)
        if len(batch) > few and compute * len(batch) < LONGEST_STEP / 2:
            compute = forward(len(batch))
    return together(compute, decode, run.device) / processes()


def processes() -> int:
    """Return the number of processes that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
