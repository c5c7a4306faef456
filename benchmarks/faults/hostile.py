"""Faults that somebody made: tables that lie, pickles that run code, and rows for pixels.c under the sanitizers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.faults.trial import LeftOut, expect, fault
from benchmarks.faults.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
TABLES, CALLS = 40, 500  # of one trial


def run_module(*words: object, preload: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in a process of its own, which may end by a signal."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "ASAN_OPTIONS": "detect_leaks=0"}
    if preload:
        environment["LD_PRELOAD"] = preload
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@fault("a beton whose tables were made up")
def forged_tables(workspace: Workspace, rng: np.random.Generator) -> None:
    """Open and read betons whose tables lie, with their checksums made again."""
    folder = workspace.fresh()
    for path in workspace.betons.glob("toy_train*"):
        shutil.copy(path, folder)
    done = run_module("tests.faults.forged_tables", int(rng.integers(1 << 31)), TABLES, folder / "toy_train.beton")
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}")
    wrong = [line for line in done.stdout.splitlines() if line.startswith("other")]  # with checksums of images
    expect(not wrong, f"{len(wrong)} of {TABLES} tables, the first: {wrong[:1]}")


@fault("hostile pickles and checkpoints, in each reader")
def hostile_pickles(workspace: Workspace, rng: np.random.Generator) -> None:
    """Give every reader of foreign files pickles that corrupt memory or run code."""
    done = run_module("tests.faults.hostile_readers", workspace.fresh())
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"reader"')]
    wrong = [answer for answer in answers if answer["status"] != 1]
    expect(bool(answers) and not wrong, f"of {len(answers)} files, {len(wrong)} are no error: {wrong[:1]}")


@fault("random rows for pixels.c under the sanitizers")
def sanitized_pixels(workspace: Workspace, rng: np.random.Generator) -> None:
    """Call pixels.c with damaged rows; the sanitizers report every byte outside of its image."""
    from debeton.data.loader.pixels import compile_command

    with tempfile.TemporaryDirectory() as folder:
        compiler, *flags = (word for word in compile_command(Path(folder, "pixels.so")) if word != "-O3")
        asked = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True)
        preload = asked.stdout.strip()
        words = [compiler, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g", *flags]
        if not os.path.isabs(preload) or subprocess.run(words, capture_output=True).returncode:
            raise LeftOut("the compiler has no sanitizers")
        library = Path(folder, "pixels.so")
        seed = int(rng.integers(1 << 31))
        done = run_module("tests.faults.sanitized_pixels", library, seed, CALLS, preload=preload)
        expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}")
