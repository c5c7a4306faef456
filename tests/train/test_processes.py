"""The number of processes that train a run is recorded, and a change is refused or said."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.running import folder_of, run

from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.train import processes
from debeton.train.objective import Objective
from debeton.train.processes import check_processes, described, joined


def test_histories_join_without_repeats_in_a_row():
    assert joined((2,), (2, 1), (), (1, 2)) == (2, 1, 2)
    assert described([]) == 1
    assert described([4, 4]) == 4
    assert described([2, 1]) == [2, 1]


@pytest.fixture
def said(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(processes.logger, "warning", lambda text, *values: said.append(text % values))
    return said


def test_another_number_of_processes_is_said_where_statistics_are_shared(said):
    for earlier in ((), (1,), (2, 1)):
        check_processes(earlier, own_statistics=False)
        check_processes(earlier, own_statistics=True)
    assert said == []
    check_processes((1, 2), own_statistics=False)
    assert said == ["warning: this run has been trained by 2 processes so far, and 1 goes on; results.json lists both"]


@pytest.mark.parametrize(("now", "before", "remedy"), [(1, 2, "torchrun --nproc_per_node=2"), (2, 1, "a single")])
def test_another_number_of_processes_is_refused_where_each_has_its_own_statistics(monkeypatch, now, before, remedy):
    monkeypatch.setattr(distributed, "world_size", lambda: now)
    with pytest.raises(
        UsageError, match=rf"trained by {before} process.* continue with {remedy}.*--dist\.sync_bn true"
    ):
        check_processes((before,), own_statistics=True)


def stopped(args: list, monkeypatch: pytest.MonkeyPatch, outdir: Path, trained_by: list[int]) -> Path:
    """Stop a run in its eleventh step, and let its checkpoint say that other processes trained it."""
    backward, steps = Objective.backward, []

    def signalled(self, *arguments):
        steps.append(1)
        if len(steps) == 11:
            signal.raise_signal(signal.SIGTERM)
        return backward(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", signalled)
        assert run(args) == 128 + signal.SIGTERM
    checkpoint = folder_of(outdir) / "checkpoints/checkpoint_latest.pt"
    content = load_checkpoint(checkpoint)
    assert content["processes"] == [1]
    save_checkpoint(checkpoint, {**content, "processes": trained_by})
    return folder_of(outdir)


@pytest.mark.parametrize(("trained_by", "listed"), [([1], 1), ([2], [2, 1]), ([2, 1, 2], [2, 1, 2, 1])])
def test_results_list_the_numbers_of_processes_that_trained(toy_args, tmp_path, monkeypatch, trained_by, listed):
    folder = stopped(toy_args, monkeypatch, tmp_path / "runs", trained_by)
    assert run(toy_args) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["processes"] == listed
    assert results["sync_bn"] is True
    assert ("and 1 goes on" in (folder / "log.txt").read_text()) is (trained_by != [1])
    latest = load_checkpoint(folder / "checkpoints/checkpoint_latest.pt")
    assert latest["processes"] == list(joined(trained_by, (1,)))


def test_a_run_with_own_statistics_keeps_its_number_of_processes(toy_args, tmp_path, monkeypatch, capsys):
    args = [*toy_args, "--dist.sync_bn", "false"]
    folder = stopped(args, monkeypatch, tmp_path / "runs", [2])
    before = (folder / "results.jsonl").read_text()
    assert run(args) == 2
    assert "continue with torchrun --nproc_per_node=2" in capsys.readouterr().err
    assert (folder / "results.jsonl").read_text() == before
    frozen = [*args, "--model.bn_mode", "eval", "--training.outdir", tmp_path / "frozen"]
    stopped(frozen, monkeypatch, tmp_path / "frozen", [2])
    assert run(frozen) == 0  # statistics that stay as they are do not depend on the number


def test_a_phase_of_another_number_of_processes_counts(toy_args, tmp_path, monkeypatch, capsys):
    args = [*toy_args, "--dist.sync_bn", "false", "--training.method", "jtt", "--jtt.epochs", "1"]
    folder = stopped(args, monkeypatch, tmp_path / "runs", [1])  # eight steps are the first phase
    phases = json.loads((folder / "checkpoints/phases.json").read_text())
    assert phases["identify"]["processes"] == [1]
    phases["identify"]["processes"] = [4]
    (folder / "checkpoints/phases.json").write_text(json.dumps(phases))
    assert run(args) == 2
    assert "trained by 4 processes so far" in capsys.readouterr().err
