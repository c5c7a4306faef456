"""Faults that end a run: signals at any moment, kills at chosen calls, errors of the disk, a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.faults.trial import LeftOut, expect, fault
from benchmarks.faults.workspace import IMAGES, Ended, Workspace, image_set_words

CALLS = ("replace", "fsync")  # by which files get their final names
LONGEST = 4.0  # seconds; the undisturbed run takes about as long
ROOM = 400_000  # bytes; a run of the toy set writes more
ROOM_OF_IMAGES = 700_000  # bytes; about what a set of IMAGES takes


@fault("SIGKILL at a random moment")
def kill(workspace: Workspace, rng: np.random.Generator) -> None:
    """Kill a run, and hold the run that resumes it against an undisturbed one."""
    folder = workspace.fresh()
    workspace.command(workspace.train_words(folder), after=rng.uniform(0.2, LONGEST), signum=signal.SIGKILL)
    check_resumed(workspace, folder)


@fault("SIGTERM, SIGUSR1 or SIGINT at a random moment")
def stop(workspace: Workspace, rng: np.random.Generator) -> None:
    """Stop a run by a signal that it knows: its status says which."""
    folder, signum = workspace.fresh(), int(rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]))
    words = workspace.train_words(folder)
    ended = workspace.command(words, after=rng.uniform(1.0, LONGEST), signum=signum)
    # Before the run listens, a signal ends the process as it ends any other.
    expect(ended.status in (0, 128 + signum, -signum), f"signal {signum} gave {ended.last}")
    expect("Traceback" not in ended.text, f"signal {signum} gave a traceback")
    check_resumed(workspace, folder)


@fault("SIGKILL at a rename or fsync")
def kill_at_call(workspace: Workspace, rng: np.random.Generator) -> None:
    """End a run in the middle of giving a file its final name."""
    folder, name, number = workspace.fresh(), str(rng.choice(CALLS)), int(rng.integers(1, 25))

    def prepare() -> None:
        real, calls = getattr(os, name), [0]

        def replaced(*args: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(os, name, replaced)

    workspace.command(workspace.train_words(folder), prepare)
    check_resumed(workspace, folder)


@fault("EIO, EROFS or ENOSPC at a rename or fsync")
def error_at_call(workspace: Workspace, rng: np.random.Generator) -> None:
    """Let one call of the system fail: one sentence, and the same command goes on."""
    folder, name, number = workspace.fresh(), str(rng.choice(CALLS)), int(rng.integers(1, 25))
    code = int(rng.choice([errno.EIO, errno.EROFS, errno.ENOSPC]))

    def prepare() -> None:
        real, calls = getattr(os, name), [0]

        def failing(*args: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        setattr(os, name, failing)

    ended = workspace.command(workspace.train_words(folder), prepare)
    expect(ended.status == 0 or ended.is_one_sentence, f"{os.strerror(code)} at {name} {number}: {ended.last}")
    check_resumed(workspace, folder)


@fault("a full disk")
def full_disk(workspace: Workspace, rng: np.random.Generator) -> None:
    """Train on a small disk, enlarge it, and give the same command."""
    with small_disk(workspace.fresh(), rng, ROOM) as folder:
        fill(workspace, folder, workspace.train_words(folder))
        check_resumed(workspace, folder)


@fault("a full disk under a generated set")
def full_disk_of_images(workspace: Workspace, rng: np.random.Generator) -> None:
    """Generate a set on a small disk, enlarge it, and give the same command: the set passes its check."""
    with small_disk(workspace.fresh(), rng, ROOM_OF_IMAGES) as folder:
        words = image_set_words(workspace, folder / "set")
        fill(workspace, folder, words)
        for again in (words, ["generate", "--out", str(folder / "set"), "--check"]):
            ended = workspace.command(again)
            expect(ended.status == 0, f"with room again, {' '.join(again[-1:])}: {ended.last}")
        listed = (folder / "set" / "manifest.jsonl").read_text().splitlines()
        expect(len(set(listed)) == len(listed) == IMAGES, f"the manifest has {len(listed)} lines for {IMAGES} images")


@contextmanager
def small_disk(folder: Path, rng: np.random.Generator, room: int) -> Iterator[Path]:
    """Mount a disk of at most `room` bytes at a folder, and yield the folder. LeftOut where none can be."""
    size = int(rng.integers(20, room // 1024))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True).returncode:
        raise LeftOut("no small disk can be mounted here; it needs root")
    try:
        yield folder
    finally:
        _unmount(folder)


def fill(workspace: Workspace, folder: Path, words: Sequence[str]) -> None:
    """Fill a small disk by a command, which is one sentence or finds room, and enlarge the disk."""
    ended = workspace.command(words)
    expect(ended.status == 0 or ended.is_one_sentence, f"a full disk: {ended.last}")
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)


def check_resumed(workspace: Workspace, folder: Path) -> None:
    """Raise Lost unless the same command ends as an undisturbed run does, without leftovers."""
    ended: Ended = workspace.command(workspace.train_words(folder))
    expect(ended.status == 0, f"the same command gives {ended.last}")
    runs = list(folder.glob("*/version_*"))
    expect(len(runs) == 1, f"there are {len(runs)} run folders")
    expect(workspace.hash_of(runs[0]) == workspace.weights, "the weights are not those of an undisturbed run")
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]
    expect(not left, f"left behind: {', '.join(left)}")


def _unmount(folder: Path) -> None:
    for _ in range(20):
        if not subprocess.run(["umount", folder], capture_output=True).returncode:
            return
        time.sleep(0.1)


@fault("a learning rate that diverges")
def divergence(workspace: Workspace, rng: np.random.Generator) -> None:
    """Train with a learning rate far too high: one sentence, or results whose numbers are all finite."""
    folder, rate = workspace.fresh(), 10 ** rng.uniform(1, 12)
    method = str(rng.choice(["erm", "jtt", "groupdro"]))
    settings = {"training__lr": f"{rate:.3g}", "training__method": method, "training__epochs": 1}
    ended = workspace.command(workspace.train_words(folder, **settings))
    what = f"{method} with a learning rate of {rate:.3g}"
    if not ended.is_one_sentence:
        expect(ended.status == 0, f"{what}: {ended.last}")
    for path in folder.rglob("results.json*"):
        words = [word for word in ("NaN", "Infinity") if word in path.read_text()]
        expect(not words, f"{what} wrote {words} into {path.name}")
    finished = bool(list(folder.rglob("results.json")))
    expect(finished == (ended.status == 0), f"{what}: there are results, and {ended.last}")
