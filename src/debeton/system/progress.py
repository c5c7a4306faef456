"""A sign of progress for the script that started this process, such as a SLURM job that may queue again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "DEBETON_PROGRESS"


def note_progress() -> None:
    """Touch the file that the environment variable DEBETON_PROGRESS names: a part of the work is saved.

    Without the variable, nothing is done. A file that cannot be touched is no reason to stop the work.
    """
    path = os.environ.get(VARIABLE)
    if path:
        with suppress(OSError):
            Path(path).touch()
