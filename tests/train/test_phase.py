"""Phases of a run: a stopped run of several phases continues, and takes over the finished ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from debeton.config import load, phase_settings
from debeton.data.loader.producer import Producer
from debeton.data.views.row_lists import by_marks
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import DataError
from debeton.train.evaluation import evaluate, evaluate_view
from debeton.train.finish import timing_of
from debeton.train.objective import CrossEntropy, StepOutput
from debeton.train.results import ResultLog
from debeton.train.run import Run, open_run
from debeton.train.run_loaders import eval_loader
from debeton.train.stop import Preempted
from debeton.train.training import fit


class Stopping(CrossEntropy):
    """Asks for a stop at its n-th step, as SLURM does."""

    def __init__(self, run: Run, after: int):
        super().__init__()
        self.run, self.left = [run], after

    def forward(self, model, batch) -> StepOutput:
        self.left -= 1
        if self.left == 0:
            self.run[0].stop.signum = 15
        return super().forward(model, batch)


@pytest.fixture
def opened(toy_args: list[str]) -> Iterator[Callable[[], Run]]:
    """opened(): the run of toy_args; a run opened before is closed."""
    with ExitStack() as stack:

        def open_() -> Run:
            stack.pop_all().close()
            run = stack.enter_context(open_run(load([], [*toy_args, "--training.selection", "last"])))
            assert run is not None
            return run

        yield open_


def two_phases(run: Run, stop_after: int = 0) -> torch.nn.Module:
    train = run.views["train"]
    settings = replace(phase_settings(run.config), epochs=1, lr=0.01)
    first = fit(run, train, CrossEntropy(), phase="first", settings=settings)
    objective = Stopping(run, stop_after) if stop_after else CrossEntropy()
    return fit(run, train, objective, phase="second", model=first)


def lines(run: Run) -> list[tuple[str, int]]:
    records = [json.loads(line) for line in run.log.path.read_text().splitlines()]
    return [(r["phase"], r["epoch"]) for r in records if r["split"] == "train"]


def test_a_stopped_second_phase_resumes_and_the_first_is_not_repeated(opened, tmp_path, toy_args):
    whole = two_phases(opened())
    toy_args[toy_args.index("--training.outdir") + 1] = str(tmp_path / "stopped")
    with pytest.raises(Preempted):
        two_phases(opened(), stop_after=11)  # 8 steps an epoch: in the second epoch of the second phase
    run = opened()
    kept = run.folder / "checkpoints" / "phase_first.pt"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    resumed = two_phases(run)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert lines(run) == [("first", 1), ("second", 1), ("second", 2)]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert set(timing_of(run)["phases"]) == {"first", "second"}
    assert timing_of(run)["train_seconds"] == pytest.approx(sum(timing_of(run)["phases"].values()))


def test_a_phase_has_its_own_settings(opened):
    run = opened()
    settings = replace(phase_settings(run.config), epochs=1, lr=0.0)
    fit(run, run.views["train"], CrossEntropy(), phase="first", settings=settings)
    assert lines(run) == [("first", 1)]


def test_a_loss_that_is_not_finite_names_the_step_and_its_rows(opened):
    class Breaking(CrossEntropy):
        step = 0

        def forward(self, model, batch) -> StepOutput:
            self.step += 1
            self.rows = batch.row.tolist() if self.step == 6 else getattr(self, "rows", None)
            output = super().forward(model, batch)
            return StepOutput(output.loss * (float("nan") if self.step >= 6 else 1.0), output.logits)

    run, objective = opened(), Breaking()
    with pytest.raises(DataError) as error:
        fit(run, run.views["train"], objective)
    shown = ", ".join(map(str, objective.rows[:8]))
    said = str(error.value)
    assert f"the loss is nan at step 6 (epoch 1), on rows {shown}, ... of {run.views['train'].beton.path}" in said
    assert "no epoch is finished" in said

    run = opened()
    objective = Breaking()
    objective.step = -8  # 8 steps an epoch
    with pytest.raises(DataError) as error:
        fit(run, run.views["train"], objective)
    kept = run.folder / "checkpoints" / "checkpoint_latest.pt"
    shown = ", ".join(map(str, objective.rows[:8]))
    assert f"the loss is nan at step 14 (epoch 2), on rows {shown}, ..." in str(error.value)
    assert str(error.value).endswith(f"the state after epoch 1 is in {kept}")
    assert load_checkpoint(kept)["epoch"] == 1


def test_the_state_of_an_objective_is_kept_beside_its_epochs(tmp_path: Path):
    log = ResultLog(tmp_path / "results.jsonl")
    values = {"phase": "train", "epoch": 1, "step": 3, "split": "train", "lr": 0.1, "metrics": {}}
    log.write(**values, objective={"q": {"a": 0.5}})
    log.write(**values, objective={})
    text = log.path.read_text().splitlines()
    assert '"objective": {"q": {"a": 0.5}}' in text[0]
    assert "objective" not in text[1]


def test_waiting_for_batches_is_measured_and_kept_across_a_stop(opened, monkeypatch):
    batch_tensors = Producer.batch_tensors

    def slowly(self, *arguments):
        time.sleep(0.2)
        return batch_tensors(self, *arguments)

    monkeypatch.setattr(Producer, "batch_tensors", slowly)
    with pytest.raises(Preempted):
        two_phases(opened(), stop_after=11)
    run = opened()
    two_phases(run)
    wait = timing_of(run)["data_wait"]
    assert set(wait) == {"first", "second"}
    # Nothing is ready at the start of its two epochs, and when the second goes on after the stop.
    assert 0.55 < wait["second"] * timing_of(run)["phases"]["second"] < timing_of(run)["phases"]["second"]


def test_groups_that_the_training_rows_do_not_have_are_not_weighted_by_them(opened):
    run = opened()
    model, val = run.network(), run.views["val"]
    own = evaluate_view(run, model, val).metrics
    assert own["adjusted_accuracy"] is not None
    pseudo = by_marks(val, np.arange(len(val)) % 3 == 0)  # four groups, as many as the set has
    thirds = val.regrouped(np.arange(len(val.beton)) % 3, ("a", "b", "c"), [(0,)] * 2)
    for view in (pseudo, thirds):
        found = evaluate_view(run, model, view).metrics
        assert found["adjusted_accuracy"] is None
        assert found["accuracy"] == own["accuracy"]
        assert len(found["group_accuracy"]) == view.spec.num_groups


def test_the_batches_of_an_evaluation_are_those_of_training_unless_told_otherwise(opened, toy_args):
    run = opened()
    val, model = run.views["val"], run.network()
    assert eval_loader(val, run.config, run.device).batch_size == run.config.training.batch_size == 64
    found = evaluate(run, model, "val")
    toy_args += ["--training.eval_batch_size", "100"]
    run = opened()
    assert eval_loader(val, run.config, run.device).batch_size == 100
    assert torch.allclose(evaluate(run, model, "val").loss, found.loss, atol=1e-5)
