"""Divergence: losses, weights or features that are no longer finite end a run, with one sentence and no result.

The loop watches the losses of its steps, and looks at the weights before an epoch is evaluated or saved. Evaluations
look at their losses, and features at their values. So no method needs a check of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.views.view import View
from debeton.nets.finite import describe_non_finite, weights_and_statistics
from debeton.system import distributed
from debeton.system.errors import DataError

if TYPE_CHECKING:
    from debeton.train.loop import TrainState

REMEDY = (
    "train with a lower learning rate (--training.lr, or that of the phase), clip gradients with "
    "--training.clip_grad, or leave --training.precision at fp32"
)
SHOWN_ROWS = 8


class NotFinite(DataError):
    """The error of a network whose losses or features on a view are not finite. Each process raises the same.

    found: what was found, without what to do about it.
    """

    def __init__(self, found: str):
        super().__init__(f"{found}; the values of the network overflow: its training diverged; {REMEDY}")
        self.found = found


def check_rows_finite(what: str, view: View, is_finite: Tensor, value: float | None = None) -> None:
    """Raise NotFinite if the values of a row are not finite.

    what: names the values, such as 'the loss'.
    is_finite: bool [M], by position in the view, equal in all processes.
    value: shown in the message: NaN or infinity.
    """
    if is_finite.all():
        return
    wrong = view.rows[torch.nonzero(~is_finite).flatten().cpu().numpy()]
    shown = "not finite" if value is None else f"{value}"
    raise NotFinite(
        f"{what} of view '{view.name}' is {shown}, on {len(wrong)} of {len(view)} rows of {view.beton.path}, "
        f"first row {int(wrong[0])}"
    )


def is_divergence(error: str) -> bool:
    """Return whether the text of an error says that training diverged."""
    return REMEDY in error


class StepWatch:
    """A watch over the steps of a phase, which notes each loss and looks at them from time to time.

    All processes look at the same steps, and all raise the same DataError if one of them has found something.

    state: everything that a step changes.
    loader: of the training rows.
    phase: names the phase in messages; '' for none.
    kept: returns the part of a message that says what is saved; '' for none.
    """

    def __init__(self, state: TrainState, loader: Loader, phase: str, kept: Callable[[], str]):
        self.state, self.loader, self.phase, self.kept = state, loader, phase, kept
        self._recent: list[tuple[Tensor, Tensor]] = []  # (loss, rows) of the steps since the last look

    def note(self, loss: Tensor, batch: Batch) -> None:
        """Note the loss of the step that was taken last. The device is not waited for."""
        # A process without rows of this batch has no loss: the mean of no values is not a number.
        self._recent.append((loss if len(batch) else torch.zeros_like(loss), batch.row))

    @contextmanager
    def of_the_step(self) -> Iterator[None]:
        """Turn the optimizer's complaint about a number that its type cannot hold into the DataError."""
        try:
            yield
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            self._raise(f"a factor of the optimizer is larger than float32 at step {self.state.step + 1}{self._epoch}")

    def check_losses(self) -> None:
        """Raise DataError with the first step whose loss is not finite, and its rows."""
        self._raise(self._wrong_loss())
        self._recent.clear()

    def check_all(self) -> None:
        """Raise DataError if a loss, weight or statistic is not finite. Call it before anything is saved."""
        self._raise(self._wrong_loss() or self._wrong_weight())
        self._recent.clear()

    def check_mean_loss(self, loss: float | None) -> None:
        """Raise DataError if the mean cross-entropy of an epoch's batches is not finite. It is known to all processes.

        loss: None where there is none.
        """
        if loss is not None and not torch.isfinite(torch.tensor(loss)):
            self._raise(f"the mean loss of the training batches is {loss} at step {self.state.step}{self._epoch}")

    @property
    def _epoch(self) -> str:
        return f" (epoch {self.state.epoch + 1})"

    def _wrong_loss(self) -> str:
        """Return the first step whose loss is not finite, and its rows; '' if there is none."""
        recent = self._recent
        losses = torch.stack([loss for loss, _ in recent]).cpu() if recent else torch.empty(0)
        bad = torch.nonzero(~torch.isfinite(losses)).flatten()
        if not len(bad):
            return ""
        first = int(bad[0])
        rows = recent[first][1].tolist()
        shown = f"{', '.join(map(str, rows[:SHOWN_ROWS]))}{', ...' if len(rows) > SHOWN_ROWS else ''}"
        step = self.state.step - len(recent) + first + 1
        where = f"on rows {shown} of {self.loader.view.beton.path}"
        return f"the loss is {float(losses[first])} at step {step}{self._epoch}, {where}"

    def _wrong_weight(self) -> str:
        """Return which weights and statistics are not finite after the last step; '' if all are."""
        found = describe_non_finite(trained_values(self.state))
        return f"after step {self.state.step}{self._epoch}, {found}" if found else ""

    def _raise(self, problem: str) -> None:
        raise_jointly(problem and diverged(self.phase, problem, self.kept()), self.state.precision.device)


def trained_values(state: TrainState) -> dict[str, Tensor]:
    """Return the weights and statistics by name: of the model, its moving average, its objective and its optimizer."""
    average = {} if state.averaged is None else weights_and_statistics(state.averaged.module)
    names = {id(p): name for part in (state.objective, state.model) for name, p in part.named_parameters()}
    moments = {
        f"{kind} of {names.get(id(p), 'a parameter')}": value
        for p, values in state.optimizer.state.items()
        for kind, value in values.items()
        if isinstance(value, Tensor) and value.shape == p.shape
    }
    return {
        **weights_and_statistics(state.model),
        **_prefixed("moving average of ", average),
        **_prefixed("objective: ", weights_and_statistics(state.objective)),
        **moments,
    }


def _prefixed(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in named.items()}


def check_phase_weights(model: nn.Module, phase: str, remedy: str) -> None:
    """Raise DataError, in all processes, if a weight or statistic of a phase's network is not finite.

    remedy: what to do, as the end of the message.
    """
    found = describe_non_finite(weights_and_statistics(model))
    distributed.raise_together(found and f"phase '{phase}': {found}; {remedy}")


def diverged(phase: str, found: str, kept: str) -> str:
    """Return the message of a phase that diverged: its name, what was found, what to do, and what is saved."""
    where = f"phase '{phase}': " if phase else ""
    return f"{where}{found}; {REMEDY}{f'; {kept}' if kept else ''}"


def raise_jointly(problem: str, device: torch.device) -> None:
    """Raise DataError in all processes if one of them has a problem.

    Without a problem, several processes exchange one number.
    """
    if distributed.max_over_processes(torch.tensor(int(bool(problem)), device=device)).item():
        distributed.raise_together(problem)
