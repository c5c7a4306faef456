"""SIGTERM and SIGUSR1 in an evaluation: the run ends after that batch, and the same command goes on there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.running import folder_of, lines_of, run
from torch import Tensor

from debeton.nets.checkpoint import load_checkpoint
from debeton.train import evaluation

PLUGIN = """
import os, signal
from torch import nn
from debeton.methods import register_method
from debeton.train.objective import CrossEntropy
from debeton.train.training import fit

class Signalled(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0
    def forward(self, image):
        self.calls += 1
        if self.calls == 2 and int(os.environ.get("RANK", 1)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.network(image)

@register_method("faults_signalled", "gets SIGTERM in its final evaluation", paper="none", needs="label")
def signalled(run):
    return Signalled(fit(run, run.views["train"], CrossEntropy()))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_final_evaluation_ends_it_after_that_batch_and_the_same_command_evaluates(
    toy_args: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: int,
) -> None:
    args = [*toy_args, "--training.epochs", "1", "--training.selection", "last", "--training.eval_batch_size", "16"]
    args += ["--training.eval_epochs", "5"]
    batches: list[int] = []
    meter_update = evaluation.GroupMeter.update

    def signalled(self: Any, logits: Tensor, *arguments: Any) -> Tensor:
        if torch.is_inference_mode_enabled():
            batches.append(len(logits))
            if len(batches) == 8 + 3:  # the epoch's evaluation of 128 rows comes first
                os.kill(os.getpid(), signum)
        return meter_update(self, logits, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation.GroupMeter, "update", signalled)
        assert run(args) == 128 + signum
    assert len(batches) == 8 + 3
    name = signal.Signals(signum).name
    said, folder = capsys.readouterr().err, folder_of(tmp_path / "runs")
    assert f"stopped by {name} in the final evaluation: training is finished; the same command evaluates again" in said
    assert not (folder / "results.json").exists()
    assert run(args) == 0
    assert "phase 'train' (1 of 1) is finished" in capsys.readouterr().err
    assert json.loads((folder / "results.json").read_text())["test"]["group_count"]


def test_a_signal_in_the_evaluation_of_an_epoch_keeps_the_epoch(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, calls = evaluation.measure, []

    def signalled(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "measure", signalled)
        assert run([*toy_args, "--training.eval_batch_size", "16"]) == 128 + signal.SIGTERM
    folder = folder_of(tmp_path / "runs")
    assert load_checkpoint(folder / "checkpoints" / "checkpoint_latest.pt")["pending"]["lr"] > 0
    assert [line["split"] for line in lines_of(folder)] == ["train"]
    assert run([*toy_args, "--training.eval_batch_size", "16"]) == 0
    assert [line["split"] for line in lines_of(folder)] == ["train", "val"] * 2


def test_a_signal_to_one_of_two_processes_ends_both_in_the_final_evaluation(
    toy_args: list[str], two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "faults_signalled.py").write_text(PLUGIN)
    args = [*toy_args, "--plugins", tmp_path / "faults_signalled.py", "--training.method", "faults_signalled"]
    args += ["--training.epochs", "1", "--training.selection", "last", "--training.eval_batch_size", "16"]
    said = two_processes(args, 128 + signal.SIGTERM)
    assert "stopped by SIGTERM in the final evaluation: training is finished; the same command" in said[0]
    assert not list((tmp_path / "runs").rglob("results.json"))
