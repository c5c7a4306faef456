"""Faults of processes: sweeps that are killed or run twice; nothing is left running, nothing is done twice."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from tests.faults.sweeps import Sweeps, end_of, is_alive, until

from debeton.system.locks import holder, open_lock

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def running_sweep(folder: Path, **options) -> tuple[Sweeps, int]:
    """A sweep whose job has started, and its process."""
    sweeps = Sweeps(folder, **options)
    process = sweeps.start()
    until(lambda: len(sweeps.processes()) == 2, "the start of the job")
    return sweeps, process


def test_the_jobs_of_a_killed_sweep_save_and_end_with_all_that_they_started(tmp_path):
    sweeps, process = running_sweep(tmp_path)
    os.kill(process, signal.SIGKILL)
    assert end_of(process) == -signal.SIGKILL
    until(lambda: not any(map(is_alive, sweeps.processes())), "the end of the job")
    assert sweeps.noted("asked") == [str(signal.SIGTERM.value)]
    assert len(sweeps.noted("saved")) == 1
    until(lambda: sweeps.job_states.state(sweeps.jobs[0]).kind == "missing", "the release of the job's lock")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_sweep_lets_its_jobs_save_and_ends_with_the_status_of_the_signal(tmp_path, signum):
    sweeps, process = running_sweep(tmp_path, saving=0.3)
    os.kill(process, signum)
    assert end_of(process) == 128 + signum
    assert not any(map(is_alive, sweeps.processes()))
    passed_on = signal.SIGTERM if signum == signal.SIGHUP else signum
    assert sweeps.noted("asked") == [str(passed_on.value)]
    assert len(sweeps.noted("saved")) == 1
    assert sweeps.job_states.state(sweeps.jobs[0]).kind == "missing"  # and not failed
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    assert (
        f"{name}: no more jobs start; it is passed on to the running ones and lets them save and end, and kills "
        in (sweeps.said(process))
    )


def test_a_sweep_whose_terminal_closes_ends_its_jobs_and_itself(tmp_path):
    sweeps, terminal = Sweeps(tmp_path), list[int]()

    def with_terminal() -> int:
        process, number = pty.fork()
        terminal.append(number)
        return process

    process = sweeps.start(with_terminal)
    until(lambda: len(sweeps.processes()) == 2, "the start of the job")
    os.close(terminal[0])
    assert end_of(process) == 128 + signal.SIGHUP
    assert not any(map(is_alive, sweeps.processes()))
    assert len(sweeps.noted("saved")) == 1


def test_a_job_that_does_not_end_when_it_is_asked_is_killed_after_the_stated_time(tmp_path):
    sweeps = Sweeps(tmp_path, stubborn=True)
    process = sweeps.start(grace=0.5)
    until(lambda: len(sweeps.processes()) == 2, "the start of the job")
    os.kill(process, signal.SIGTERM)
    assert end_of(process) == 128 + signal.SIGTERM
    assert not any(map(is_alive, sweeps.processes()))
    log = sweeps.job_states.folders.log_file(sweeps.jobs[0]).read_text()
    assert log == "note: killed 0.5 s after it was asked to end; what was not saved is lost\n"


def test_a_job_ends_also_when_its_guard_is_killed(tmp_path):
    sweeps, process = running_sweep(tmp_path)
    (lock,) = sweeps.job_states.folders.logs.glob("*.lock")
    guard = int(holder(lock).split()[1])
    os.kill(guard, signal.SIGKILL)
    until(lambda: not is_alive(sweeps.processes()[0]), "the end of the job")
    assert len(sweeps.noted("saved")) == 1
    assert end_of(process) == 1
    assert sweeps.job_states.state(sweeps.jobs[0]).note == "ended with status 137 and an empty log"
    os.kill(sweeps.processes()[1], signal.SIGKILL)  # what a killed guard would have ended


def test_what_a_finished_job_leaves_running_is_ended(tmp_path):
    sweeps = Sweeps(tmp_path, seconds=0)
    assert end_of(sweeps.start()) == 0
    assert len(sweeps.processes()) == 2
    assert not any(map(is_alive, sweeps.processes()))


def test_a_new_sweep_waits_for_the_jobs_of_a_killed_one_that_still_save_and_says_so(tmp_path):
    sweeps, process = running_sweep(tmp_path, saving=1.5)
    os.kill(process, signal.SIGKILL)
    end_of(process)
    sweeps.write_program(seconds=0)
    state = sweeps.job_states.state(sweeps.jobs[0])
    assert state.kind == "running"
    again = sweeps.start()
    assert end_of(again) == 0
    name = sweeps.jobs[0].name
    assert sweeps.said(again).splitlines()[0] == f"waits   {name} runs in {state.note}"
    assert len(sweeps.noted("saved")) == len(sweeps.noted("finished")) == 1


def test_two_sweeps_at_once_share_the_jobs_and_both_end_well(tmp_path):
    sweeps = Sweeps(tmp_path, jobs=4, seconds=0.5)
    processes = [sweeps.start() for _ in range(2)]
    assert [end_of(process) for process in processes] == [0, 0]
    assert len(sweeps.noted("started")) == len(sweeps.noted("finished")) == 4
    for process in processes:
        lines = sweeps.said(process).splitlines()
        assert lines[-1] == "4 done"
        assert any(line.startswith("start ") for line in lines)


def test_a_job_that_another_sweep_was_stopped_in_runs_in_the_one_that_waited(tmp_path):
    sweeps, first = running_sweep(tmp_path, seconds=2)
    second = sweeps.start()
    until(lambda: sweeps.said(second).startswith("waits "), "the second sweep")
    os.kill(first, signal.SIGTERM)
    assert end_of(first) == 128 + signal.SIGTERM
    assert end_of(second) == 0
    assert (len(sweeps.noted("saved")), len(sweeps.noted("finished"))) == (1, 1)


def test_a_stopped_sweep_does_not_wait_for_the_betons_of_another(tmp_path):
    sweeps = Sweeps(tmp_path)
    (tmp_path / "data").mkdir()
    job = sweeps.jobs[0]
    object.__setattr__(job, "betons", ("write.py",))
    object.__setattr__(job, "data", "all")
    with open_lock(tmp_path / "data" / ".all.lock"):
        process = sweeps.start()
        until(
            lambda: f"waits   {job.name} for its betons, which are written by process" in sweeps.said(process), "a line"
        )
        os.kill(process, signal.SIGTERM)
        assert end_of(process) == 128 + signal.SIGTERM
