"""The commands that come after a run, with its own paths, as its last lines show them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def next_commands(folder: Path, *, classifies: bool = True, draws: bool = False) -> list[str]:
    """Return lines with the commands that read a finished run, in the form in which this program was called.

    folder: the run folder.
    classifies: the run has trained a classifier.
    draws: the run has trained a diffusion model.
    """
    run = shlex.quote(str(folder))
    lines = [f"tables and figures:  {_program('report')} {shlex.quote(str(folder.parent))} --out report"]
    if classifies:
        options = f"--checkpoint {run} --images DIR --out predictions.csv"
        lines.append(f"classify images:     {_program('predict')} {options}")
    elif draws:
        lines.append(f"draw images:         {_program('generate')} --generator cdpm --model {run} --out images")
    return lines


SCRIPTS = {"report": "scripts/report.py", "predict": "scripts/predict.py", "generate": "writers/generate_images.py"}


def _program(command: str) -> str:
    """Return the words that start a command: its script where main.py started this program, else `debeton COMMAND`."""
    own = Path(sys.argv[0])
    if own.name == "main.py" and (own.parent / SCRIPTS[command]).is_file():
        return f"python {shlex.quote(str(own.parent / SCRIPTS[command]))}"
    return f"debeton {command}"
