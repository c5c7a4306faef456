"""A study through a real Slurm of one node, set up by slurm.sh; and the plan of its arrays, without one."""

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
from debeton.studies.manifest import Manifest, as_ranges, load_manifest, numbers_of, write_manifest
from debeton.studies.slurm import Array, Submission, plan, submit, with_queue
from debeton.studies.state import Board, Places
from debeton.studies.study import load_study
from debeton.system.errors import DataError, UsageError, run_command

SETUP = Path(__file__).with_name("slurm.sh")


@pytest.fixture
def slurm(monkeypatch) -> Iterator[Path]:
    """The folder of a running Slurm of one node, that the commands of this process talk to."""
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
    """A port that is free now, as is the next."""
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
    """Start what Slurm holds back for two minutes since it queued again; not in the second in which it ended, for which
    its credential is revoked."""
    words = ["scontrol", "update", f"JobId={job}", "StartTime=now+2"]
    until(lambda: subprocess.run(words, capture_output=True).returncode == 0, 60, "its release")


def queue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def write_study(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"name": path.stem, **content}, sort_keys=False))
    return path


def test_an_array_ends_as_the_local_run_although_a_task_was_preempted(slurm, toy_betons, tmp_path, capsys):
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
    assert run(Board([job], Places(ROOT, local, tmp_path)).arguments(job)) == 0
    until(lambda: not queue(), 240, "the end of the queue")
    assert command("status", study, "--runs", runs) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert log.read_text().count("start   erm_seed0") == 2
    assert (runs / "report" / "index.html").is_file()
    here, there = (
        json.loads((folder / "erm_seed0" / "version_0" / "results.json").read_text()) for folder in (local, runs)
    )
    assert (here["val"], here["test"]) == (there["val"], there["test"])


def test_one_run_over_processes_goes_on_after_preemption_and_ends_with_a_message_when_a_process_is_killed(
    slurm, toy_args, tmp_path, monkeypatch
):
    """torchrun ends the other process; nothing waits for the half hour that a collective may take."""
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
    until(lambda: not queue(), 60, "the end of the job")
    text = log.read_text()
    assert "Signal 9 (SIGKILL)" in text
    assert "main.py FAILED" in text
    assert text.count("queues again") == 1  # not because of the killed process


# --- what is handed in, without a Slurm -----------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path) -> Board:
    """12 jobs: 3 cdpm, 3 ddb1 of it, 6 ddb2 of these."""
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
    return Board(load_study(study).jobs(), Places(ROOT, tmp_path / "runs", tmp_path / "data"))


def test_jobs_that_take_of_others_come_in_later_arrays_each_no_larger_than_the_cluster_allows(board):
    arrays = plan(board, board.jobs, Submission(), largest=4)
    assert [(array.numbers, array.tasks, array.after) for array in arrays] == [
        ((0, 1, 2), 3, ()),
        ((3, 4, 5), 3, (0,)),
        ((6, 7, 8, 9), 4, (0, 1)),
        ((10, 11), 2, (0, 1)),
    ]
    (first, second, third) = plan(board, board.jobs, Submission(per_task=2), largest=4)
    assert (first.tasks, second.tasks, third.tasks) == (2, 2, 3)
    assert plan(board, board.jobs[7:8], Submission(), largest=4) == [Array((7,), 1, ())]


def test_where_slurm_does_not_answer_nothing_is_handed_in_twice(board, tmp_path, monkeypatch, caplog):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (
        ("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1"),
        ("sbatch", "exit 9"),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    board.places.notes.mkdir(parents=True)
    (board.places.notes / "slurm.json").write_text(json.dumps({board.jobs[0].name: "7_0"}))
    with pytest.raises(DataError, match="squeue does not say which jobs are queued: slurm_load_jobs error"):
        submit(board, "s", board.jobs, Submission(), only_print=False)
    with caplog.at_level("WARNING"):
        assert [state.kind for state in with_queue(board, board.jobs[:1])] == ["missing"]
    assert "squeue does not say" in caplog.text
    (tools / "squeue").write_text("#!/bin/sh\necho 7_0\n")
    assert [state.kind for state in with_queue(board, board.jobs[:2])] == ["queued", "missing"]
    with pytest.raises(DataError, match=r"sbatch refused: .*the command was sbatch --parsable"):
        submit(board, "s", board.jobs, Submission(), only_print=False)


def test_what_failed_is_handed_in_when_it_is_retried(board):
    board.note_failure(board.jobs[0], "error: no space")
    assert plan(board, board.jobs[:2], Submission(), largest=9)[0].numbers == (1,)
    assert plan(board, board.jobs[:2], Submission(retry=True), largest=9)[0].numbers == (0, 1)


def test_the_commands_name_limits_dependencies_and_options_and_can_be_printed_only(board, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    submission = Submission(throttle=2, per_task=4, workers=2, options={"partition": "gpu", "gres": "gpu:1"})
    first, second, third, collecting = submit(board, "s", board.jobs, submission, only_print=True)
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
    assert (manifest.study, list(manifest.jobs), manifest.places) == ("s", list(board.jobs), board.places)
    with pytest.raises(UsageError, match="there is no sbatch on this machine"):
        submit(board, "s", board.jobs, submission, only_print=False)


# --- manifests ------------------------------------------------------------------------------------------------------


def test_a_manifest_has_the_same_file_for_the_same_jobs_and_reads_as_it_was(board):
    manifest = Manifest("s", tuple(board.jobs), board.places)
    path = write_manifest(manifest)
    assert write_manifest(manifest) == path
    assert load_manifest(path) == manifest
    assert write_manifest(Manifest("s", tuple(board.jobs[:3]), board.places)) != path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(version=2), "is of version 2, and this program writes and reads version 1"),
        (lambda content: content.pop("jobs"), "has no 'jobs'"),
        (lambda content: content.update(job=1), "unknown key 'job'; did you mean 'jobs'"),
        (lambda content: content["jobs"][1].pop("seed"), "job 1 has no 'seed'"),
        (lambda content: content["jobs"][1].update(sed=1), "job 1: unknown key 'sed'; did you mean 'seed'"),
    ],
)
def test_a_manifest_that_is_another_version_or_was_edited_is_one_sentence(board, change, message):
    path = write_manifest(Manifest("s", tuple(board.jobs), board.places))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        load_manifest(path)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_numbers_are_read_as_they_are_written(numbers):
    assert numbers_of(as_ranges(sorted(numbers)), 61) == sorted(numbers)


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
def test_wrong_numbers_for_a_manifest_are_one_sentence(board, capsys, words, message):
    path = write_manifest(Manifest("s", tuple(board.jobs), board.places))
    assert command("status", path, *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_task_of_a_manifest_has_its_share_of_the_jobs(board, capsys):
    path = write_manifest(Manifest("s", tuple(board.jobs), board.places))
    for task, names in enumerate((["ddb1_seed0", "ddb1_seed1"], ["ddb1_seed2"])):
        assert command("list", path, "--jobs", "3-5", "--per-task", "2", "--task", task) == 0
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]] == names
