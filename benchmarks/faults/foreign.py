"""Faults in texts and files of other people: names that lead elsewhere, words for a shell, images that never end."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
from pathlib import Path

import numpy as np
from tests.faults.shell_texts import EVIL, make_sbatch, run_printed, write_study
from tests.faults.strange_files import STRANGE, make_sparse, many_scans, png_of, small_jpeg

from benchmarks.faults.trial import expect, fault
from benchmarks.faults.workspace import Workspace

LONGEST = 60  # seconds for a command that reads an image
LEADING_OUT = ("../{}", "../../{}", "{tmp}/{}", "a/../../{}", "..", "../", "x/../../../{}", "linked/{}")


@fault("names that lead out of a folder")
def names(workspace: Workspace, rng: np.random.Generator) -> None:
    """Give a path where a name belongs, in a run, a study and a manifest: nothing outside the folder changes."""
    folder = workspace.fresh()
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "linked").symlink_to(folder)
    (folder / "secret.png").write_bytes(png_of(8, 8))
    name = str(rng.choice(LEADING_OUT)).format("secret.png", tmp=folder)
    kind = str(rng.choice(["run", "study", "manifest"]))
    before = _content(folder, but=inner)
    if kind == "run":
        words = workspace.train_words(inner, training__exp_name=name, training__epochs=1)
    elif kind == "study":
        (inner / "s.yaml").write_text(json.dumps({"name": name, "variants": {"erm": {}}}))
        words = ["sweep", "status", str(inner / "s.yaml")]
    else:
        line = {"path": name, "label": "left", "attribute": "dark", "number": 0, "attempt": 0, "verdict": "keep"}
        (inner / "generator.json").write_text('{"set": "toy", "generator": "folder"}')
        (inner / "manifest.jsonl").write_text(json.dumps(line) + "\n")
        like = ["--like", str(workspace.betons / "toy_train.beton"), "--synthetic", str(inner)]
        words = ["write-betons", *like, "--out", str(inner / "out")]
    ended = workspace.command(words)
    expect(ended.is_one_sentence, f"{name} as the name in a {kind}: {ended.last}")
    expect(_content(folder, but=inner) == before, f"{name} as the name in a {kind} changed what is outside")


@fault("words for a shell in a study")
def shell_words(workspace: Workspace, rng: np.random.Generator) -> None:
    """Print the commands of a study whose texts are commands, and run them: sbatch gets the texts, and nothing runs."""
    folder = workspace.fresh()
    evil = " ".join(str(rng.choice(EVIL)) for _ in range(int(rng.integers(1, 4))))
    study, tools = write_study(folder / "study.yaml", evil), make_sbatch(folder / "tools")
    words = ["sweep", "submit", str(study), "--print", "--runs", str(folder / "runs"), "--data", str(folder / "data")]
    ended = workspace.command([*words, "--slurm", f"qos={evil}"])
    expect(ended.status == 0, f"{evil!r}: {ended.last}")
    commands = "\n".join(line for line in ended.text.splitlines() if "sbatch" in line)
    got = run_printed(commands, tools)  # an AssertionError is a loss that names itself
    for option in (f"--comment={evil}", f"--qos={evil}", f"--partition={evil}"):
        expect(option in got[0], f"{option!r} is not a word of {shlex.join(got[0])}")


@fault("an image that never ends or fills the memory")
def strange_images(workspace: Workspace, rng: np.random.Generator) -> None:
    """Put a pipe, a device, a sparse file or a bomb among images: it is named, and the others count."""
    folder, run = workspace.fresh() / "images", workspace.finished
    folder.mkdir()
    (folder / "good.jpg").write_bytes(small_jpeg())
    bombs = {
        "400 scans": lambda path: path.write_bytes(many_scans(64, 400)),
        "a PNG of 60,000 pixels a side": lambda path: path.write_bytes(png_of(60_000, 60_000)),
        "a sparse file": make_sparse,
        **{make.__name__: make for make in STRANGE},
    }
    kind = str(rng.choice(sorted(bombs)))
    bombs[kind](folder / "bad.jpg")
    out = folder.parent / "out.csv"
    words = ["predict", "--checkpoint", str(run), "--images", str(folder), "--out", str(out)]
    ended = workspace.command(words, stop_in_time)
    expect("bad.jpg" in ended.text and "Traceback" not in ended.text, f"{kind}: {ended.last}")
    rows = out.read_text().count("good.jpg") if out.exists() else 0
    expect(ended.status in (0, 1) and rows == 1, f"{kind}: {rows} rows for the other image, {ended.last}")


def stop_in_time() -> None:
    """End this process by SIGALRM after LONGEST seconds."""
    signal.alarm(LONGEST)


def _content(folder: Path, but: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, but those below `but`, and '' for each folder."""
    found = (path for path in folder.rglob("*") if but not in (path, *path.parents))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in found}
