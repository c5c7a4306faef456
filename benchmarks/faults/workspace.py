"""The place of the trials: small betons, a finished run to compare with, and commands in forked processes."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGES = 4 * 40  # of a generated set
CRASHED = 99  # status of a command that ends with an error that is no sentence
SETTINGS = {
    "data.dataset": "toy",
    "model.arch": "small_resnet",
    "training.epochs": 2,
    "training.batch_size": 64,
    "training.lr": 0.05,
    "training.decoder_train": "simple",
    "training.decoder_val": "simple",
    "logging.tensorboard": "false",
    "training.device": "cpu",
    "training.num_workers": 1,
}


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    status: its exit status, or minus the signal that ended it.
    text: everything that it printed.
    """

    status: int
    text: str

    @property
    def is_one_sentence(self) -> bool:
        """True if the command ended with an error of one line, by wrong use or for the rest."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return self.status in (1, 2) and len(lines) == 1 and "Traceback" not in self.text

    @property
    def last(self) -> str:
        """The status and the last line, for messages."""
        lines = self.text.strip().splitlines()
        return f"status {self.status}, {lines[-1][:300] if lines else 'nothing printed'}"


class Workspace:
    """A folder for trials. Commands run in forked processes, so that no trial imports torch again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._trials = 0

    def fresh(self) -> Path:
        """Return an empty folder for one trial; that of the trial before is removed."""
        shutil.rmtree(self.folder / f"trial{self._trials}", ignore_errors=True)
        self._trials += 1
        path = self.folder / f"trial{self._trials}"
        path.mkdir(parents=True)
        return path

    @functools.cached_property
    def betons(self) -> Path:
        """A folder with toy_{train,val,test}.beton of raw images, and toy_jpeg_train.beton of JPEGs."""
        folder = self.folder / "betons"
        self._do(functools.partial(_write_betons, folder))
        return folder

    @functools.cached_property
    def images(self) -> Path:
        """A folder with the images of the toy set, SPLIT/CLASS/ATTRIBUTE/*.png, before betons are written."""
        folder = self.folder / "images"
        self._do(functools.partial(_write_images, folder))
        return folder

    def train_words(self, outdir: Path, **settings: object) -> list[str]:
        """Return the words of a training command of some seconds. settings: further ones, '__' for '.'."""
        named = {name.replace("__", "."): value for name, value in settings.items()}
        values = {**SETTINGS, "training.data_root": self.betons, "training.outdir": outdir, **named}
        return ["train", *(word for key, value in values.items() for word in (f"--{key}", str(value)))]

    @functools.cached_property
    def finished(self) -> Path:
        """The folder of a run that nothing disturbed."""
        outdir = self.folder / "finished"
        ended = self.command(self.train_words(outdir))
        assert ended.status == 0, ended.text
        return next(outdir.glob("*/version_0"))

    @functools.cached_property
    def weights(self) -> str:
        """The hash of the selected weights of the undisturbed run."""
        return self.hash_of(self.finished)

    def hash_of(self, run: Path) -> str:
        """Return the hash of a run's selected weights."""
        out = self.folder / "hash.txt"
        self._do(functools.partial(_write_hash, run, out))
        return out.read_text()

    def copy_of_finished(self, folder: Path) -> Path:
        """Return a copy of the undisturbed run, to be damaged."""
        return Path(shutil.copytree(self.finished, folder / "runs" / "toy" / "version_0"))

    def command(
        self, words: Sequence[str], prepare: Callable[[], None] = lambda: None, *, after: float = 0, signum: int = 0
    ) -> Ended:
        """Run a command of `debeton` in a forked process, and return how it ended.

        words: after `debeton`.
        prepare: called in the process before the command.
        after, signum: a signal, and the seconds after which it is sent; 0 for none.
        """

        def run() -> int:
            prepare()
            return run_words(words)

        return self.call(run, self.folder / "command.log", after=after, signum=signum)

    def _do(self, work: Callable[[], object]) -> None:
        ended = self.call(work, self.folder / "own.log")
        assert ended.status == 0, ended.text

    def call(self, work: Callable[[], object], log: Path, *, after: float = 0, signum: int = 0) -> Ended:
        """Call a function in a forked process. Arguments are those of `command`."""
        child = self.start(work, log)
        if signum:
            deadline = time.monotonic() + after
            while time.monotonic() < deadline:
                if os.waitpid(child, os.WNOHANG) != (0, 0):
                    return Ended(0, log.read_text(errors="replace"))  # it ended before the signal
                time.sleep(0.01)
            os.kill(child, signum)
        _, status = os.waitpid(child, 0)
        return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))

    def start(self, work: Callable[[], object], log: Path, fork: Callable[[], int] = os.fork) -> int:
        """Start a function in a forked process with its output in `log`, and return the process.

        fork: makes the process; os.fork, or one that gives it a terminal.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        child = fork()
        if not child:
            _run_and_leave(work, log)
        return child


def image_set_words(workspace: Workspace, folder: Path) -> list[str]:
    """Return the words that generate a set of IMAGES images like the toy set's, without a diffusion model."""
    train = str(workspace.betons / "toy_train.beton")
    words = ["generate", "--like", train, "--generator", "halves", "--fit-on", train, "--out", str(folder)]
    return [*words, "--per-cell", str(IMAGES // 4), "--filter", "none", "--batch-size", "8"]


def run_words(words: Sequence[str]) -> int:
    """Run a command of `debeton` in this process, and return its exit status. words: after `debeton`."""
    from debeton.commands import dispatch
    from debeton.system.errors import run_command

    return run_command(lambda: dispatch.main(list(words)))


def _run_and_leave(work: Callable[[], object], log: Path) -> None:
    """Run a function with its output in a file, and end this process with its status."""
    status = CRASHED
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        found = work()
        status = found if isinstance(found, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _write_betons(folder: Path) -> None:
    from tests.toy import TOY_SPEC, toy_rows

    from debeton.data.beton.writer import WriteOptions, write_beton

    for seed, (split, n, share) in enumerate((("train", 512, 0.9), ("val", 128, 0.5), ("test", 256, 0.5))):
        write_beton(folder / f"toy_{split}.beton", toy_rows(n, share, seed), TOY_SPEC, split, WriteOptions(mode="raw"))
    rows = toy_rows(128, 0.9, 3, size=32)
    write_beton(folder / "toy_jpeg_train.beton", rows, TOY_SPEC, "train", WriteOptions(mode="jpg"))


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from tests.toy import TOY_SPEC, toy_rows

    for seed, (split, n) in enumerate((("train", 256), ("val", 64), ("test", 64))):
        rows = toy_rows(n, 0.7, seed)
        for row, (label, attribute) in enumerate(zip(rows.label, rows.attribute)):
            path = folder / split / TOY_SPEC.classes[label] / TOY_SPEC.attributes[attribute] / f"{row:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(rows.image(row))).save(path)


def _write_hash(run: Path, out: Path) -> None:
    from debeton.nets.checkpoint import BEST_CHECKPOINT, load_checkpoint

    digest = hashlib.sha256()
    for name, value in load_checkpoint(run / BEST_CHECKPOINT)["state_dict"].items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    out.write_text(digest.hexdigest())
