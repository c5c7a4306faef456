"""The end of each epoch of a phase: log, evaluate, select, save. And the start: resume where the phase stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.nets.checkpoint import BEST_NAME, LATEST_NAME, load_checkpoint, save_checkpoint
from debeton.system import distributed
from debeton.system.log import logger
from debeton.train.loop import TrainState
from debeton.train.metrics import Metrics, selection_score
from debeton.train.processes import joined
from debeton.train.results import ResultLog
from debeton.train.run_data import check_data


@dataclass
class PhaseKeeper:
    """The keeper of a phase's checkpoints: the latest state, and the weights of the best epoch so far.

    name: of the phase.
    state: everything that a step changes.
    folder: of the checkpoints.
    log: receives a line per epoch and split.
    identity: plain values that every checkpoint carries, such as those that rebuild the model.
    evaluate: model -> validation metrics; None without validation rows.
    rule: of selection; 'last' keeps the final epoch.
    epochs: of the phase.
    eval_epochs: epochs between evaluations; the last epoch is always evaluated.
    patience: evaluations without a better epoch after which the phase ends; None: it has all its epochs.
    lr_patience: evaluations without a better epoch after which the learning rate drops; None: it does not.
    save_every: epochs between saves of the whole state; the last is always saved.
    lead: the metric that the console leads with.
    oracle: model -> test metrics; logged, and never used to select.
    processes: the numbers of processes that have trained the phase, in their sequence; the present one is the last.
    check_processes: called with those of a checkpoint before it is used; raises an error if it cannot be continued.
    check: raises DataError if the data changed; called before anything is saved.
    """

    name: str
    state: TrainState
    folder: Path
    log: ResultLog
    identity: Mapping[str, Any]
    evaluate: Callable[[nn.Module], Metrics] | None
    rule: str
    epochs: int
    eval_epochs: int = 1
    patience: int | None = None
    lr_patience: int | None = None
    save_every: int = 1
    lead: str = "accuracy"
    oracle: Callable[[nn.Module], Metrics] | None = None
    processes: tuple[int, ...] = (1,)
    check_processes: Callable[[Sequence[int]], None] = lambda earlier: None
    check: Callable[[], None] = lambda: None

    @property
    def latest(self) -> Path:
        """The checkpoint that the phase resumes from."""
        return self.folder / LATEST_NAME

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch so far."""
        return self.folder / BEST_NAME

    @property
    def _identity(self) -> dict[str, Any]:
        return {"phase": self.name, **self.identity, "processes": list(self.processes)}

    def restore(self, device: torch.device) -> bool:
        """Continue from this phase's latest checkpoint and forget later log lines. Return False if there is none.

        DataError if the checkpoint was trained on other data.
        """
        content: dict[str, Any] = load_checkpoint(self.latest, device) if self.latest.exists() else {"phase": ""}
        is_ours = content["phase"] == self.name
        if is_ours:
            check_data(content.get("data"), self.identity.get("data", {}), str(self.latest))
            earlier = content.get("processes", ())
            self.check_processes(earlier)
            self.processes = joined(earlier, self.processes)
            self.state.load_state_dict(content)
        if distributed.is_main():
            self.log.rewind(self.name, self.state.epoch)
        return is_ours

    def save(self) -> None:
        """Write the whole state as the latest checkpoint. DataError if the data changed."""
        self.check()
        if distributed.is_main():
            save_checkpoint(self.latest, {**self._identity, **self.state.state_dict()})
        distributed.barrier()

    def after_epoch(self, train: Metrics, lr: float) -> None:
        """Log the epoch; evaluate when it is due; keep the weights if they are the best so far; save.

        train: metrics of the epoch's training batches.
        lr: learning rate of the last step.
        """
        state = self.state
        summary = state.objective.summary()
        self._log("train", train, lr, summary)
        is_due = state.epoch % self.eval_epochs == 0 or state.epoch == self.epochs
        val = self.evaluate(state.evaluated) if is_due and self.evaluate is not None else None
        if val is not None:
            self._log("val", val)
            if self.rule != "last":
                self._keep_if_best(val)
                self._drop_rate_if_due()
        if is_due and self.oracle is not None:
            self._log("test", self.oracle(state.evaluated))
        train = {**train, "loss": summary.get("loss")} if train["loss"] is None else train
        line = epoch_line(state.epoch, self.epochs, train, val, lr, self.lead)
        logger.info("%s  data_wait %.1f %%", line, 100 * state.data_wait)
        if state.epoch % self.save_every == 0 or state.epoch == self.epochs or self.reason_to_end:
            self.save()

    def _keep_if_best(self, val: Metrics) -> None:
        score = selection_score(val, self.rule)
        if math.isinf(score[0]):
            logger.warning("warning: the validation loss of epoch %d is not a finite number", self.state.epoch)
        if not self.state.best or score > tuple(self.state.best["score"]):
            self.state.best = {"epoch": self.state.epoch, "score": list(score)}
            self._save_best()

    def _evaluations_since(self, epoch: int) -> int:
        """Return the evaluations after an epoch. They are counted from the epochs, so a resumed phase agrees."""
        return self.state.epoch // self.eval_epochs - epoch // self.eval_epochs

    def _drop_rate_if_due(self) -> None:
        """Note a drop of the learning rate where lr_patience evaluations were no better since the best or last drop."""
        state = self.state
        since = max(state.best["epoch"], *state.drops, 0)
        if self.lr_patience is not None and self._evaluations_since(since) >= self.lr_patience:
            state.drops = [*state.drops, state.epoch]
            logger.info("epoch %d: no better epoch than %d; the learning rate drops", state.epoch, state.best["epoch"])

    @property
    def reason_to_end(self) -> str:
        """The reason why the phase ends before its last epoch; '' where it goes on or has all its epochs."""
        state = self.state
        if self.patience is None or not state.best or self.rule == "last" or state.epoch >= self.epochs:
            return ""
        if self._evaluations_since(state.best["epoch"]) < self.patience:
            return ""
        return (
            f"epoch {state.epoch} of {self.epochs}: {self.patience} evaluations without a better {self.rule} than that "
            f"of epoch {state.best['epoch']} (training.patience)"
        )

    def _save_best(self) -> None:
        self.check()
        if distributed.is_main():
            content = {**self._identity, **self.state.best}
            save_checkpoint(self.best, {**content, "state_dict": self.state.evaluated.state_dict()})
        distributed.barrier()

    def select(self) -> int:
        """Return the selected epoch, whose weights are in checkpoint_best.pt: the last one where nothing selects."""
        if not self.state.best:
            self.state.best = {"epoch": self.state.epoch, "score": []}
            self._save_best()
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


def epoch_line(epoch: int, epochs: int, train: Metrics, val: Metrics | None, lr: float, lead: str) -> str:
    """Return the log line of an epoch; accuracies in percent.

    lead: the metric shown as `acc`.
    """
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
