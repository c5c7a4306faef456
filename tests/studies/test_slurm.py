"""A study on a real Slurm of one node (slurm.sh), and the plan of its arrays without Slurm."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.running import ROOT, run

from debeton.commands import sweep
from debeton.studies.manifest import Manifest, format_ranges, load_manifest, parse_numbers, write_manifest
from debeton.studies.slurm import Array, Submission, plan_arrays, states_with_queue, submit
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import DataError, UsageError, run_command

SETUP = Path(__file__).with_name("slurm.sh")


@pytest.fixture
def slurm(monkeypatch) -> Iterator[Path]:
    """Start a Slurm of one node, which the commands of this process use, and yield its folder."""
    if shutil.which("slurmctld", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("needs Slurm (Debian's slurm-wlm)")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    started = subprocess.run(["bash", SETUP, "start", folder, str(free_ports())], capture_output=True, text=True)
    if started.returncode:
        pytest.fail(started.stderr)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    yield folder
    subprocess.run(["scancel", "--full", "--me"], check=False)
    subprocess.run(["bash", SETUP, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def free_ports() -> int:
    """Return a free port whose next port is also free."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return int(port)


def until(happens: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"{what} did not happen in {seconds:g} s"
        time.sleep(0.2)


def command(*words: Any) -> int:
    return run_command(lambda: sweep.main([str(word) for word in words]))


def release(job: str) -> None:
    """Start a requeued job now; Slurm would hold it back for two minutes.

    It starts two seconds later, because the credential for the second in which the job ended is revoked.
    """
    words = ["scontrol", "update", f"JobId={job}", "StartTime=now+2"]
    until(lambda: subprocess.run(words, capture_output=True).returncode == 0, 60, "its release")


def queue(*options: str) -> str:
    return subprocess.run(["squeue", "--noheader", *options], capture_output=True, text=True, check=True).stdout


def write_study(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"name": path.stem, **content}, sort_keys=False))
    return path


def test_an_array_gives_the_results_of_a_local_run_even_after_a_preemption(slurm, toy_betons, tmp_path, capsys):
    settings = {
        "data.dataset": "toy",
        "training.data_root": str(toy_betons),
        "model.arch": "small_resnet",
        "training.epochs": 12,
        "training.batch_size": 64,
        "training.lr": 0.01,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "none",
        "logging.tensorboard": False,
        "training.device": "cpu",
    }
    study = write_study(tmp_path / "two.yaml", seeds=[0, 1], settings=settings, variants={"erm": {}})
    runs = tmp_path / "runs"

    assert command("submit", study, "--runs", runs, "--throttle", "2") == 0
    array, collecting = capsys.readouterr().out.splitlines()
    assert "--array=0-1%2" in array
    assert "--dependency=afterany:1 " in collecting
    assert command("submit", study, "--runs", runs) == 0
    assert "nothing to submit" in capsys.readouterr().out

    begun = runs / "erm_seed0" / "version_0" / "results.jsonl"
    until(lambda: begun.exists() and len(begun.read_text().splitlines()) >= 3, 120, "the third evaluation")
    subprocess.run(["scancel", "--signal=USR1", "--batch", "1_0"], check=True)
    log = runs / ".jobs" / "slurm_1_0.log"
    until(lambda: "saved itself and queues again" in log.read_text(), 60, "the requeue")
    assert command("status", study, "--runs", runs) == 0
    assert "queued     erm_seed0  as SLURM job 1_0" in capsys.readouterr().out
    release("1_0")

    local = tmp_path / "local"  # meanwhile
    (job, *_) = load_study(study).jobs()
    assert run(JobStates([job], StudyFolders(ROOT, local, tmp_path)).arguments(job)) == 0
    until(lambda: not queue(), 240, "the end of the queue")
    assert command("status", study, "--runs", runs) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert log.read_text().count("start   erm_seed0") == 2
    assert (runs / "report" / "index.html").is_file()
    here, there = (
        json.loads((folder / "erm_seed0" / "version_0" / "results.json").read_text()) for folder in (local, runs)
    )
    assert (here["val"], here["test"]) == (there["val"], there["test"])


def test_a_run_of_two_processes_continues_after_preemption_and_ends_with_a_message_if_one_is_killed(
    slurm, toy_args, tmp_path, monkeypatch
):
    """torchrun ends the other process; no process waits for the timeout of a collective, half an hour."""
    monkeypatch.setenv("PROCESSES", "2")
    script, log = ROOT / "scripts" / "slurm" / "ddp.sbatch", tmp_path / "log"
    options = [f"--chdir={ROOT}", f"--output={log}", "--nodes=1"]
    subprocess.run(["sbatch", *options, str(script), *toy_args, "--training.epochs", "1000"], check=True)

    def lines() -> list[dict[str, Any]]:
        found = [file.read_text() for file in (tmp_path / "runs").rglob("results.jsonl")]
        return [json.loads(line) for line in "".join(found).splitlines()]

    until(lambda: len(lines()) >= 2 or not queue(), 200, "the first epoch")
    text = log.read_text()
    assert " of 2 processes" in text
    assert sum(lines()[0]["metrics"]["group_count"].values()) == 512

    urgent = ["--partition=urgent", "--exclusive", f"--output={os.devnull}", "--wrap=true"]
    subprocess.run(["sbatch", *urgent], check=True)
    until(lambda: "saved itself and queues again" in log.read_text(), 60, "the requeue")  # Slurm's grace left unused
    before = len(lines())
    release("1")
    until(lambda: len(lines()) > before or not queue(), 200, "the next epoch")
    assert "resuming phase 'train'" in log.read_text()

    ranks = subprocess.check_output(["pgrep", "-f", f"main.py.*{tmp_path}.*--training.epochs 1000"], text=True).split()
    os.kill(max(map(int, ranks)), signal.SIGKILL)
    # Slurm 24.11 queues a job of its own accord that was preempted before and now fails; 22.05 does not.
    until(lambda: not queue("--states=RUNNING,COMPLETING"), 60, "the end of the job")
    text = log.read_text()
    assert "Signal 9 (SIGKILL)" in text
    assert "main.py FAILED" in text
    assert text.count("queues again") == 1  # not because of the killed process


def test_a_job_that_is_warned_at_once_queues_again_twice_and_then_ends_with_a_message(slurm, tmp_path):
    """A run that stops without saving, as where the time limit is shorter than the warning."""
    run, log = tmp_path / "run", tmp_path / "log"
    run.write_text("#!/bin/bash\ntrap 'exit 143' TERM\necho begun\nsleep 100 & wait\n")
    run.chmod(0o755)
    words = [f"--export=ALL,PYTHON={run}", f"--chdir={ROOT}", f"--output={log}", "--array=0", "--comment=mine"]
    subprocess.run(["sbatch", *words, str(ROOT / "scripts/slurm/array.sbatch"), "MANIFEST"], check=True)
    for number in (1, 2, 3):
        until(lambda n=number: log.exists() and log.read_text().count("begun") == n, 60, "the start of a round")
        subprocess.run(["scancel", "--signal=USR1", "--batch", "1_0"], check=True)
        if number < 3:
            until(lambda n=number: log.read_text().count("queues again") == n, 60, "the requeue")
            release("1_0")
    until(lambda: not queue(), 60, "the end of the job")
    assert log.read_text().count("was stopped before it could save itself, and queues again") == 2
    assert "was stopped 3 times in a row within a minute, or before it could save itself; its time limit is" in (
        log.read_text()
    )
    assert "JobState=FAILED" in subprocess.run(["scontrol", "show", "job", "1"], capture_output=True, text=True).stdout


# --- the plan of a submission, without Slurm ----------------------------------------------------------------------


@pytest.fixture
def job_states(tmp_path) -> JobStates:
    """Return the states of 12 jobs: 3 of cdpm, 3 of ddb1 (using cdpm), 6 of ddb2 (using ddb1)."""
    variants = {
        "cdpm": {"settings": {"training.method": "cdpm", "training.selection": "last"}},
        "ddb1": {"settings": {"training.method": "ddb1", "ddb.cdpm": "{run:cdpm}"}},
        "ddb2": {
            "settings": {"training.method": "ddb2", "ddb.images": "{run:ddb1}/synthetic"},
            "axes": {"ddb.ema": [0, 0.7]},
        },
    }
    configs, limits = ["dataset_configs/dominoes.yaml"], {"minutes": 20}
    study = write_study(tmp_path / "s.yaml", configs=configs, seeds=[0, 1, 2], variants=variants, limits=limits)
    return JobStates(load_study(study).jobs(), StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))


def test_jobs_that_use_other_variants_come_in_later_arrays_of_at_most_the_allowed_size(job_states):
    arrays = plan_arrays(job_states, job_states.jobs, Submission(), largest=4)
    assert [(array.numbers, array.tasks, array.after) for array in arrays] == [
        ((0, 1, 2), 3, ()),
        ((3, 4, 5), 3, (0,)),
        ((6, 7, 8, 9), 4, (0, 1)),
        ((10, 11), 2, (0, 1)),
    ]
    (first, second, third) = plan_arrays(job_states, job_states.jobs, Submission(per_task=2), largest=4)
    assert (first.tasks, second.tasks, third.tasks) == (2, 2, 3)
    assert plan_arrays(job_states, job_states.jobs[7:8], Submission(), largest=4) == [Array((7,), 1, ())]


def test_no_job_is_submitted_twice_when_slurm_does_not_answer(job_states, tmp_path, monkeypatch, caplog):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (
        ("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1"),
        ("sbatch", "exit 9"),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    job_states.folders.logs.mkdir(parents=True)
    (job_states.folders.logs / "slurm.json").write_text(json.dumps({job_states.jobs[0].name: "7_0"}))
    with pytest.raises(DataError, match="squeue does not say which jobs are queued: slurm_load_jobs error"):
        submit(job_states, "s", job_states.jobs, Submission(), only_print=False)
    with caplog.at_level("WARNING"):
        assert [state.kind for state in states_with_queue(job_states, job_states.jobs[:1])] == ["missing"]
    assert "squeue does not say" in caplog.text
    (tools / "squeue").write_text("#!/bin/sh\necho 7_0\n")
    assert [state.kind for state in states_with_queue(job_states, job_states.jobs[:2])] == ["queued", "missing"]
    with pytest.raises(DataError, match=r"sbatch refused: .*the command was sbatch --parsable"):
        submit(job_states, "s", job_states.jobs, Submission(), only_print=False)


def test_failed_jobs_are_submitted_only_with_retry(job_states):
    job_states.record_error(job_states.jobs[0], "error: no space")
    assert plan_arrays(job_states, job_states.jobs[:2], Submission(), largest=9)[0].numbers == (1,)
    assert plan_arrays(job_states, job_states.jobs[:2], Submission(retry=True), largest=9)[0].numbers == (0, 1)


def test_the_commands_name_limits_dependencies_and_options_and_can_be_printed_only(job_states, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    submission = Submission(throttle=2, per_task=4, workers=2, options={"partition": "gpu", "gres": "gpu:1"})
    first, second, third, collecting = submit(job_states, "s", job_states.jobs, submission, only_print=True)
    assert first.startswith("array0=$(sbatch --parsable --job-name=s ")
    for command in (first, second, third):
        assert " --time=45 " in command  # two rounds of 20 minutes, and 5 for betons
        assert " --partition=gpu --gres=gpu:1 " in command
    assert " --array=0-0%2 " in first
    assert "--dependency" not in first
    assert " --dependency=afterany:$array0:$array1 " in third
    assert " --jobs 6-11 --per-task 4 --workers 2)" in third
    assert " --dependency=afterany:$array0:$array1:$array2 " in collecting
    assert " --partition=gpu " in collecting
    assert "gres" not in collecting
    manifest = load_manifest(Path(first.split(" ")[-7]))
    assert (manifest.study, list(manifest.jobs), manifest.folders) == ("s", list(job_states.jobs), job_states.folders)
    with pytest.raises(UsageError, match="there is no sbatch on this machine"):
        submit(job_states, "s", job_states.jobs, submission, only_print=False)


# --- manifests ----------------------------------------------------------------------------------------------------


def test_the_same_jobs_give_the_same_manifest_file_which_reads_back_unchanged(job_states):
    manifest = Manifest("s", tuple(job_states.jobs), job_states.folders)
    path = write_manifest(manifest)
    assert write_manifest(manifest) == path
    assert load_manifest(path) == manifest
    assert write_manifest(Manifest("s", tuple(job_states.jobs[:3]), job_states.folders)) != path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("jobs"), "lacks 'jobs'"),
        (lambda content: content.update(job=1), "unknown key 'job'; did you mean 'jobs'"),
        (lambda content: content["jobs"][1].pop("seed"), r"jobs\[1\] lacks 'seed'"),
        (lambda content: content["jobs"][1].update(sed=1), r"jobs\[1\] has the unknown key 'sed'; did you mean 'seed'"),
    ],
)
def test_a_manifest_that_was_edited_gives_a_clear_error(job_states, change, message):
    path = write_manifest(Manifest("s", tuple(job_states.jobs), job_states.folders))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_manifest(path)


def test_a_manifest_of_another_version_is_refused(job_states):
    path = write_manifest(Manifest("s", tuple(job_states.jobs), job_states.folders))
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(UsageError, match="is of version 2, and this program writes and reads version 1"):
        load_manifest(path)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_number_ranges_read_back_unchanged(numbers):
    assert parse_numbers(format_ranges(sorted(numbers)), 61) == sorted(numbers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0,x"], "--jobs 0,x: expected numbers and ranges"),
        (["--jobs", "3-1"], "--jobs 3-1: expected numbers and ranges"),
        (["--jobs", "12"], "there is no job 12; their numbers are 0 to 11"),
        (["--jobs", "0-4", "--per-task", "2", "--task", "3"], "--task 3: 5 jobs, 2 a task, make 3 tasks"),
        (["--seeds", "1"], "--seeds: manifest .* has settled it"),
    ],
)
def test_wrong_numbers_for_a_manifest_give_a_clear_error(job_states, capsys, words, message):
    path = write_manifest(Manifest("s", tuple(job_states.jobs), job_states.folders))
    assert command("status", path, *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_task_of_a_manifest_has_its_share_of_the_jobs(job_states, capsys):
    path = write_manifest(Manifest("s", tuple(job_states.jobs), job_states.folders))
    for task, names in enumerate((["ddb1_seed0", "ddb1_seed1"], ["ddb1_seed2"])):
        assert command("list", path, "--jobs", "3-5", "--per-task", "2", "--task", task) == 0
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]] == names
