"""Ctrl-C: a training step is saved, other work ends at once, and the same command ends bit-equal."""

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

from debeton.nets.checkpoint import load_checkpoint
from debeton.train import evaluation, features, stop
from debeton.train.objective import Objective
from debeton.train.standing import Standing, standing
from debeton.train.stop import Preempted, StopRequest


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Ended(BaseException):
    """The end of the process, in a test that goes on."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(stop.os, "_exit", end)


def test_ctrl_c_waits_for_the_step_and_a_second_one_ends_the_process(ends: None, capfd: pytest.CaptureFixture) -> None:
    request, before = StopRequest(), signal.getsignal(signal.SIGINT)
    with request.listening():
        with request.in_steps():
            press()
            assert request.signum == signal.SIGINT
            assert "saving after this step" in capfd.readouterr().err
            with pytest.raises(Ended) as ended:
                press()
        assert ended.value.args == (130,)
    assert "the same command resumes" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_steps_ctrl_c_ends_the_work_at_once_and_other_signals_wait() -> None:
    request = StopRequest()
    with request.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signum == signal.SIGTERM
        with pytest.raises(Preempted) as stopped:
            press()
    assert (stopped.value.signum, stopped.value.saved) == (signal.SIGINT, False)


def test_of_several_processes_the_signal_that_torchrun_repeats_counts_once(
    ends: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    request, now = StopRequest(), [10.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with request.listening(), request.in_steps():
        press()
        now[0] += 0.5
        press()
        now[0] += 2.0
        with pytest.raises(Ended):
            press()


@pytest.fixture
def whole(toy_args: list[str], tmp_path: Path) -> Path:
    """The folder of an uninterrupted run."""
    assert run([*toy_args, "--training.outdir", tmp_path / "whole"]) == 0
    return folder_of(tmp_path / "whole")


def in_call(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, number: int) -> None:
    """Press Ctrl-C at the beginning of call number `number` of a function."""
    real: Callable[..., Any] = getattr(place, name)
    calls: list[int] = []

    def pressed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            press()
        return real(*args, **kwargs)

    monkeypatch.setattr(place, name, pressed)


def equal_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_checkpoint(f / "checkpoints" / "checkpoint_latest.pt")["state_dict"] for f in (one, other))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("place", "name", "call", "said"),
    [
        (
            Objective,
            "backward",
            11,
            "with everything saved: phase 'train' has 1 epoch and 3 steps of the next; the same command resumes",
        ),
        (evaluation, "measure", 1, "at once, between two steps: phase 'train' has 1 epoch; the same command resumes"),
        (evaluation, "measure", 2, "at once, between two steps: phase 'train' has 2 epochs; the same command resumes"),
        (evaluation, "measure", 3, "in the final evaluation: training is finished; the same command evaluates again"),
    ],
)
def test_ctrl_c_says_where_the_run_stands_and_the_resumed_run_is_bit_equal(
    toy_args: list[str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Any,
    name: str,
    call: int,
    said: str,
) -> None:
    with monkeypatch.context() as patched:
        in_call(patched, place, name, call)
        assert run(toy_args) == 130
    assert f"stopped by Ctrl-C {said}" in capsys.readouterr().err
    folder = folder_of(tmp_path / "runs")
    assert not (folder / "results.json").exists()
    assert run(toy_args) == 0
    assert lines_of(folder) == lines_of(whole)
    assert equal_weights(folder, whole)
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, whole))
    assert ours["selected_epoch"] == theirs["selected_epoch"]
    assert ours["test"] == theirs["test"]


def test_a_stop_in_the_last_step_of_an_epoch_keeps_the_learning_rate_of_that_step(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*toy_args, "--training.batch_size", "512", "--training.epochs", "2", "--training.lr_scheduler", "cosine"]
    with monkeypatch.context() as patched:
        in_call(patched, Objective, "backward", 1)
        assert run(args) == 130
    assert run(args) == 0
    rates = [line["lr"] for line in lines_of(folder_of(tmp_path / "runs")) if line["split"] == "train"]
    assert rates == [pytest.approx(0.05), pytest.approx(0.025)]  # the first step's, and half-way the second's


def test_ctrl_c_while_features_are_computed_keeps_the_phases_before(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*toy_args, "--training.method", "dfr", "--dfr.c_grid", "1", "--dfr.refits", "1", "--training.epochs", "1"]
    with monkeypatch.context() as patched:
        in_call(patched, features, "extract_features", 1)
        assert run(args) == 130
    said = capsys.readouterr().err
    assert "phase 'train' (1 of 2): 1 epoch of 8 steps, 512 rows in batches of 64" in said
    assert "stopped by Ctrl-C at once, between two steps: phase 'train' is finished; the same command resumes" in said
    assert standing(folder_of(tmp_path / "runs")) == Standing(False, ("train",))
    assert run(args) == 0
    assert "phase 'train' (1 of 2) is finished; epoch 1 of it is used" in capsys.readouterr().err


def test_before_the_first_saved_step_nothing_is_left_behind(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_call(monkeypatch, Objective, "state_dict", 1)  # of the phase's identity, before its first step
    assert run(toy_args) == 130
    assert "before a step was saved; the same command begins anew" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))
