"""Texts that a shell would run, a study that has them everywhere, and an sbatch that notes its words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

EVIL = (
    "$(touch X)",
    "`touch X`",
    "$array0 $(touch X)",
    "${array0}`touch X`",
    "'; touch X; '",
    '"; touch X; "',
    "; touch X",
    "&& touch X",
    "| touch X",
    "# touch X",
    "> X",
    "$(touch${IFS}X)",
    "a b  c",
    "*",
    "~",
    "!!",
    "\\",
    "'",
    '"',
    "$",
    "%j %% $array1",
    "{a,b}",
)


def make_sbatch(tools: Path) -> Path:
    """Make a folder with an sbatch that writes its words to words.N, and prints a number; return the folder."""
    tools.mkdir()
    script = f"""#!/bin/bash
number=$(find {shlex.quote(str(tools))} -name 'words.*' | wc -l)
printf '%s\\0' "$@" >{shlex.quote(str(tools))}/words.$number
echo $((70 + number))
"""
    (tools / "sbatch").write_text(script)
    (tools / "sbatch").chmod(0o755)
    return tools


def run_printed(commands: str, sbatch: Path) -> list[list[str]]:
    """Run printed commands in bash, in an empty folder that must stay empty; return the words that sbatch got."""
    place = sbatch.parent / "place"
    place.mkdir()
    environment = {**os.environ, "PATH": f"{sbatch}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=commands, cwd=place, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(place.iterdir()) == []
    count = len(list(sbatch.glob("words.*")))
    return [(sbatch / f"words.{k}").read_text().split("\0")[:-1] for k in range(count)]


def without_placeholders(text: str) -> str:
    """Return the text as a study's settings may have it, where a name in braces is a placeholder."""
    return re.sub(r"[{}]", "", text)


def write_study(path: Path, evil: str, **more: Any) -> Path:
    """Write a study that has `evil` in each of its texts. One variant needs another, so there are two arrays."""
    text = without_placeholders(evil)
    content = {
        "name": f"s {evil}".replace("/", "-"),
        "settings": {"data.dataset": text, "model.arch": "small_resnet", "training.device": "cpu"},
        "values": {"word": evil},
        "betons": f"write.py --x {{word}} {{mode}} {shlex.quote(text)}",
        "axes": {"mode": {evil: {"training.lr": 0.1}, "other": {"training.lr": 0.2}}},
        "variants": {evil: {}, "first": {}, "after": {"settings": {"model.checkpoint": "{run:first}"}}},
        "slurm": {"comment": evil, "partition": evil, "account": evil, "exclusive": ""},
        **more,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
