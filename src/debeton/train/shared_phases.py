"""Phases that runs of several experiments share: which run folder has finished the phase of an identity.

The first network of jtt and eiil, or the first phase of From Fake to Real under each of its methods, is the same
training. The first run that finishes it notes its folder below `{training.outdir}/phases`, and later runs take it over.
"""

from __future__ import annotations

import os
from pathlib import Path

from debeton.system.files import write_text

FOLDER = "phases"


def note_shared_phase(outdir: Path, identity: str, folder: Path) -> None:
    """Note that a run folder has the finished phase of an identity; a later note replaces an earlier one.

    folder: the run folder. The note has its path below outdir, so that outdir may be moved.
    """
    write_text(outdir / FOLDER / f"{identity}.txt", os.path.relpath(folder, outdir) + "\n")


def shared_phase(outdir: Path, identity: str) -> list[Path]:
    """Return the run folder that has the finished phase of an identity; empty where none is noted.

    The folder is only said to have it: whoever takes the phase over compares its identity, and checks its weights.
    """
    try:
        text = (outdir / FOLDER / f"{identity}.txt").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    folder = outdir / text
    return [folder] if text and folder.is_dir() else []
