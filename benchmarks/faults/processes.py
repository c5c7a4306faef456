"""Faults of several processes: sweeps of real jobs that are killed, lose their terminal, or run twice."""

from __future__ import annotations

import functools
import os
import pty
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml

from benchmarks.faults.trial import expect, fault
from benchmarks.faults.workspace import IMAGES, SETTINGS, Ended, Workspace, image_set_words, run_words

MARK = "DEBETON_FAULTS_SWEEP"  # an environment variable that all processes of a sweep inherit
SECONDS_TO_END = 10.0  # after the end of the sweep, or of its guards
SEEDS = (0, 1)
# How a sweep ends: the processes that get a signal, the signals, and the exit status of the sweep.
ENDS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "SIGKILL": ("sweep", (signal.SIGKILL,), -signal.SIGKILL),
    "SIGTERM": ("sweep", (signal.SIGTERM,), 128 + signal.SIGTERM),
    "SIGINT": ("sweep", (signal.SIGINT,), 128 + signal.SIGINT),
    "SIGINT twice": ("sweep", (signal.SIGINT, signal.SIGINT), 128 + signal.SIGINT),
    "SIGHUP": ("sweep", (signal.SIGHUP,), 128 + signal.SIGHUP),
    "SIGKILL to the guards": ("guards", (signal.SIGKILL,), 1),
    "SIGKILL to the sweep and the guards": ("both", (signal.SIGKILL,), -signal.SIGKILL),
}


class Study:
    """A study of two real runs, which writes its betons first, in a folder of its own.

    workspace: place of the trial.
    folder: folder of the study.
    """

    def __init__(self, workspace: Workspace, folder: Path):
        self.workspace, self.folder, self._sweeps = workspace, folder, 0
        write = "writers/write_betons.py --dataset folder --name toy --raw {images} --pattern {pattern} --num-workers 2"
        content = {
            "name": "s",
            "betons": write,
            "values": {"images": str(workspace.images), "pattern": "{split}/{class}/{attribute}/*"},
            "settings": {key: value for key, value in SETTINGS.items() if key != "training.epochs"},
            "seeds": list(SEEDS),
            "variants": {"erm": {"settings": {"training.epochs": 6}}},
        }
        (folder / "s.yaml").write_text(yaml.safe_dump(content))

    def words(self, action: str = "run") -> list[str]:
        """Return the words of a sweep."""
        places = ["--runs", str(self.folder / "runs"), "--data", str(self.folder / "data")]
        return ["sweep", action, str(self.folder / "s.yaml"), *places, "--workers", str(len(SEEDS))]

    def start(self, action: str = "run", fork: Callable[[], int] = os.fork) -> tuple[int, Path]:
        """Start a sweep; return its process and the file of its output."""
        self._sweeps += 1
        log = self.folder / f"sweep{self._sweeps}.log"

        def run() -> int:
            os.environ[MARK] = str(self.folder)
            return run_words(self.words(action))

        return self.workspace.start(run, log, fork), log

    def run(self, action: str = "run") -> Ended:
        """Run a sweep to its end."""
        return end_of(*self.start(action))

    def processes(self, of: str = "") -> list[int]:
        """Return the processes that the study's sweeps have started and that run. of: a text of the command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                marked = f"{MARK}={self.folder}\0".encode() in (path / "environ").read_bytes()
                if marked and of.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def hashes(self) -> list[str]:
        """Return the hash of the selected weights of each run that has them."""
        runs = sorted((self.folder / "runs").glob("*/version_*"))
        return [self.workspace.hash_of(run) for run in runs]

    def check_nothing_left(self, how: str) -> None:
        """Raise Lost if a process of the study still runs SECONDS_TO_END from now."""
        deadline = time.monotonic() + SECONDS_TO_END
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        words = [Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")[:200] for process in left[:1]]
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        expect(not left, f"{how}: {len(left)} processes are left after {SECONDS_TO_END:g} s, the first is {words}")

    def check_resumed(self, how: str, action: str = "run") -> None:
        """Raise Lost unless the same command ends the study as if nothing had disturbed it."""
        ended = self.run(action)
        expect(ended.status == 0 and "2 done" in ended.text, f"{how}; the same command gives {ended.last}")
        self.check_whole(how)

    def check_whole(self, how: str) -> None:
        """Raise Lost unless the runs are those of an undisturbed study."""
        expected = undisturbed(self.workspace)[0]
        expect(self.hashes() == expected, f"{how}: the weights are not those of an undisturbed study")
        left = [path.name for path in self.folder.rglob("*") if path.name.endswith(".partial")]
        expect(not left, f"{how} leaves {', '.join(left)}")


@functools.cache
def undisturbed(workspace: Workspace) -> tuple[list[str], float]:
    """Return the hashes of the runs of a study that nothing disturbs, and the seconds that it takes."""
    folder = workspace.folder / "study"
    folder.mkdir()
    study, start = Study(workspace, folder), time.monotonic()
    ended = study.run()
    seconds = time.monotonic() - start
    assert ended.status == 0, ended.text
    hashes = study.hashes()
    assert len(hashes) == len(SEEDS), hashes
    return hashes, seconds


def end_of(process: int, log: Path) -> Ended:
    """Wait for the end of a process, and return how it ended."""
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


@fault("a sweep of real jobs that is killed or stopped")
def killed_sweep(workspace: Workspace, rng: np.random.Generator) -> None:
    """End a sweep or its guards by signals while it writes betons or trains; nothing goes on running."""
    end_at_random(workspace, rng, str(rng.choice(sorted(ENDS))))


def end_at_random(workspace: Workspace, rng: np.random.Generator, how: str) -> None:
    """End a sweep in one of ENDS at a random moment, and give its command again."""
    seconds = rng.uniform(0.5, undisturbed(workspace)[1])
    study, (whom, signums, status) = Study(workspace, workspace.fresh()), ENDS[how]
    what = f"{how} after {seconds:.1f} s"
    process, log = study.start()
    time.sleep(seconds)
    for number, signum in enumerate(signums):
        time.sleep(0.3 * number)
        guards = study.processes(of="guard.py")
        for victim in {"sweep": [process], "guards": guards, "both": [process, *guards]}[whom]:
            with suppress(ProcessLookupError):
                os.kill(victim, signum)
    ended = end_of(process, log)
    expect(ended.status in (0, status) and "Traceback" not in ended.text, f"{what}: {ended.last}")
    study.check_nothing_left(what)
    study.check_resumed(what, "retry" if whom == "guards" else "run")


@fault("a sweep whose terminal is closed")
def closed_terminal(workspace: Workspace, rng: np.random.Generator) -> None:
    """Close the terminal of a sweep: its jobs save and end, and it too."""
    seconds, terminal = rng.uniform(0.5, undisturbed(workspace)[1]), list[int]()
    study, what = Study(workspace, workspace.fresh()), f"a terminal closed after {seconds:.1f} s"

    def with_terminal() -> int:
        process, number = pty.fork()
        terminal.append(number)
        return process

    process, log = study.start(fork=with_terminal)
    time.sleep(seconds)
    os.close(terminal[0])
    ended = end_of(process, log)
    # Before it listens, a signal ends a sweep as it ends any other process.
    expect(ended.status in (0, 128 + signal.SIGHUP, -signal.SIGHUP), f"{what}: {ended.last}")
    study.check_nothing_left(what)
    study.check_resumed(what)


@fault("the same sweep twice at once")
def doubled_sweep(workspace: Workspace, rng: np.random.Generator) -> None:
    """Run a sweep twice: each job runs once, and both end with the whole table."""
    between = rng.uniform(0, undisturbed(workspace)[1])
    study, what = Study(workspace, workspace.fresh()), f"a second sweep after {between:.1f} s"
    first = study.start()
    time.sleep(between)
    ends = [end_of(*sweep) for sweep in (first, study.start())]
    for ended in ends:
        expect(ended.status == 0 and "2 done" in ended.text, f"{what}: {ended.last}")
    lines = [line.split() for ended in ends for line in ended.text.splitlines() if line]
    for word, number in (("start", len(SEEDS)), ("write", 1)):
        found = sum(words[0] == word for words in lines)
        expect(found == number, f"{what}: '{word}' stands {found} times in their output, and not {number}")
    study.check_whole(what)


@fault("the same generator twice at once")
def doubled_generator(workspace: Workspace, rng: np.random.Generator) -> None:
    """Make a set by two processes, and perhaps kill one: each image is listed once, a beton has all.

    The second process takes the same shard, is refused in one sentence, or finds the set complete.
    """
    from debeton.data.beton.reading import open_beton

    folder, train = workspace.fresh(), workspace.betons / "toy_train.beton"
    words = image_set_words(workspace, folder / "set")
    logs = [folder / f"generator{k}.log" for k in range(2)]
    first = workspace.start(functools.partial(run_words, words), logs[0])
    time.sleep(rng.uniform(0, 0.5))
    second = workspace.start(functools.partial(run_words, words), logs[1])
    if kills := bool(rng.integers(2)):
        time.sleep(rng.uniform(0, 1.5))
        os.kill(first, signal.SIGKILL)
    ends = [end_of(first, logs[0]), end_of(second, logs[1])]
    for ended in ends[kills:]:
        refused = ended.is_one_sentence and "is being made by process" in ended.text
        expect(ended.status == 0 or refused, f"one of two generators: {ended.last}")
    for again in (words, ["generate", "--out", str(folder / "set"), "--check"]):
        ended = workspace.command(again)
        expect(ended.status == 0, f"after two generators, {' '.join(again[-1:])}: {ended.last}")
    listed = (folder / "set" / "manifest.jsonl").read_text().splitlines()
    expect(len(listed) == len(set(listed)) == IMAGES, f"the manifest has {len(listed)} lines for {IMAGES} images")
    write = ["write-betons", "--like", str(train), "--synthetic", str(folder / "set"), "--out", str(folder / "betons")]
    ended = workspace.command(write)
    expect(ended.status == 0, f"the writer, after two generators: {ended.last}")
    (beton,) = (folder / "betons").glob("*.beton")
    expect(len(open_beton(beton)) == IMAGES, f"the beton has {len(open_beton(beton))} rows, and not {IMAGES}")
