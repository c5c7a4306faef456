"""The end of each epoch of a phase: log, evaluate, select, save. And the start: resume where the phase stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.nets.checkpoint import BEST_NAME, LATEST_NAME, load_checkpoint, save_checkpoint
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.wording import count
from debeton.train.divergence import NotFinite, diverged
from debeton.train.loop import TrainState
from debeton.train.metrics import SELECTION_RULES, TIE_BREAK, Metrics, selection_score
from debeton.train.pace import Pace
from debeton.train.processes import joined
from debeton.train.results import ResultLog
from debeton.train.run_data import check_data
from debeton.train.selection import NO_SELECTION
from debeton.train.stop import Preempted

LINE = 120  # columns
NOTEWORTHY_WAIT = 0.05  # share of the training time that waited for batches


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
    pace: the clock of the phase.
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
    pace: Pace
    eval_epochs: int = 1
    patience: int | None = None
    lr_patience: int | None = None
    save_every: int = 1
    lead: str = "accuracy"
    oracle: Callable[[nn.Module], Metrics] | None = None
    processes: tuple[int, ...] = (1,)
    check_processes: Callable[[Sequence[int]], None] = lambda earlier: None
    check: Callable[[], None] = lambda: None
    _saved: str = ""  # the state in the latest checkpoint, in words; '' for none of this phase

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

    def kept(self) -> str:
        """Return what is saved of the phase, as the end of a message."""
        if not self._saved:
            return "no epoch is finished, so there is no checkpoint of it yet"
        return f"{self._saved} is in {self.latest}"

    @property
    def _standing(self) -> str:
        steps = f" and {count(self.state.batch, 'step')} of the next" if self.state.batch else ""
        return f"the state after epoch {self.state.epoch}{steps}"

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
            self._saved = self._standing
        if distributed.is_main():
            self.log.rewind(self.name, self.state.epoch)
        return is_ours

    def save(self) -> None:
        """Write the whole state as the latest checkpoint. DataError if the data changed."""
        self.check()
        if distributed.is_main():
            save_checkpoint(self.latest, {**self._identity, **self.state.state_dict()})
        distributed.barrier()
        self._saved = self._standing

    def after_epoch(self, train: Metrics, lr: float) -> None:
        """Log the epoch; evaluate when it is due; keep the weights if they are the best so far; save.

        train: metrics of the epoch's training batches.
        lr: learning rate of the last step.
        """
        summary = self.state.objective.summary()
        self._log("train", train, lr, summary)
        train = {**train, "loss": summary.get("loss")} if train["loss"] is None else train
        self._finish_epoch(train, lr)

    def finish_pending(self) -> None:
        """Do the evaluation of the epoch after whose last step the run was stopped; nothing where there is none."""
        if self.state.pending:
            self._finish_epoch(**self.state.pending)

    def _finish_epoch(self, train: Metrics, lr: float) -> None:
        """Evaluate when it is due; keep the weights if they are the best so far; tell; save.

        DataError, and nothing is saved, if the loss of an evaluation is not finite.
        """
        state = self.state
        is_due = state.epoch % self.eval_epochs == 0 or state.epoch == self.epochs
        kept = False
        try:
            val = self.evaluate(state.evaluated) if is_due and self.evaluate is not None else None
            test = self.oracle(state.evaluated) if is_due and self.oracle is not None else None
        except NotFinite as error:
            found = f"after step {state.step} (epoch {state.epoch}), {error.found}"
            raise DataError(diverged(self.name, found, self.kept())) from None
        except Preempted as stop:
            # Several processes may not wait for each other where one of them may have left already.
            if distributed.world_size() == 1 or stop.together:
                state.pending = {"train": train, "lr": lr}
                self.save()
            raise
        state.pending = {}
        if val is not None:
            self._log("val", val)
            if self.rule != NO_SELECTION:
                kept = self._keep_if_best(val)
                self._drop_rate_if_due()
        if test is not None:
            self._log("test", test)
        pace = self.pace.after_epoch(state.epoch, state.step, state.seconds)
        wait = f"  data_wait {100 * state.data_wait:.0f} %" if state.data_wait >= NOTEWORTHY_WAIT else ""
        end = f"  {pace}{wait}{'  kept' if kept else ''}"
        for shown in (3, 2, 1):  # accuracies: as many as the line has room for
            line = epoch_line(state.epoch, self.epochs, train, val, lr, self.lead, self.rule, shown) + end
            if len(line) <= LINE:
                break
        logger.info("%s", line)
        if state.epoch % self.save_every == 0 or state.epoch == self.epochs or self.reason_to_end:
            self.save()

    def _keep_if_best(self, val: Metrics) -> bool:
        """Keep the weights if no earlier epoch is as good; return whether they are kept."""
        score = selection_score(val, self.rule)
        if not self.state.best or score > tuple(self.state.best["score"]):
            self.state.best = {"epoch": self.state.epoch, "score": list(score)}
            self._save_best()
            return True
        return False

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


def epoch_line(
    epoch: int,
    epochs: int,
    train: Metrics,
    val: Metrics | None,
    lr: float,
    lead: str,
    rule: str = "worst_group",
    shown: int = 3,
) -> str:
    """Return the log line of an epoch; accuracies in percent.

    lead: the metric shown as `acc`.
    rule: of selection, whose accuracy comes next.
    shown: number of validation metrics; those that are defined come first.
    """
    parts = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"lr {lr:.3g}"]
    if train["loss"] is not None:
        accuracy = "" if train["accuracy"] is None else f" acc {100 * train['accuracy']:.1f}"
        parts.append(f"train loss {train['loss']:.3f}{accuracy}")
    if val is not None:
        of_rule = [SELECTION_RULES[rule].metric] if rule in SELECTION_RULES else []
        keys = dict.fromkeys([lead, *of_rule, *SHORT_NAMES])
        defined = [key for key in keys if val.get(key) is not None][:shown]
        parts.append("val " + " ".join(_short(key, val[key], lead) for key in defined))
    return "  ".join(parts)


SHORT_NAMES = {
    "worst_group_accuracy": "worst",
    "mean_group_accuracy": "mean",
    "bias_conflicting_accuracy": "conflicting",
    "bias_aligned_accuracy": "aligned",
}


def _short(metric: str, value: float, lead: str) -> str:
    if metric == "loss":
        return f"loss {value:.3f}"
    name = "acc" if metric == lead else SHORT_NAMES.get(metric, metric.removesuffix("_accuracy"))
    return f"{name} {100 * value:.1f}"


def reason_of_epoch(epoch: int, epochs: int, rule: str, text: str, values: Mapping[int, Metrics]) -> str:
    """Return which epoch of a phase is kept and why: the rule, its value, and what broke a tie.

    rule, text: that selected, and its name in tables (`Selection`).
    values: validation metrics by epoch.
    """
    if rule == NO_SELECTION or epoch not in values:
        return f"epoch {epoch}, the last, is kept" if epoch == epochs else f"epoch {epoch} of {epochs} is kept"
    best, value = selection_score(values[epoch], rule), values[epoch][SELECTION_RULES[rule].metric]
    shown = f"{value:.4f}" if rule == "loss" else f"{100 * value:.1f} %"
    equal = [other for other, one in values.items() if other != epoch and selection_score(one, rule)[0] == best[0]]
    tie = ""
    if equal:
        by = TIE_BREAK if any(selection_score(values[other], rule)[1] < best[1] for other in equal) else "the earliest"
        by = "the earliest" if any(selection_score(values[other], rule) == best for other in equal) else by
        tie = f" ({len(equal)} tie{'s' if len(equal) > 1 else ''}: {by} decides)"
    return f"epoch {epoch} of {epochs} is kept: {text} on val {shown}{tie}"
