"""The cores that this process may use. Standard library only, so that the doctor can import it."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use; a shared machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
