"""Temporary files and folders that killed processes leave behind: their names, and the signs that nobody uses them."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SUFFIX = ".partial"
SILENT = 24 * 3600.0  # seconds without a write, after which a process of another machine counts as ended
OWNER = re.compile(rf"\.(?P<host>.+)\.(?P<pid>\d+)(\.[a-z0-9_]{{8}})?{re.escape(SUFFIX)}")  # the last is mkdtemp's
LONGEST_STEM = 160  # bytes; a name has 255, a host at most 64, and a process and the rest at most 30
START_TIME = 19  # of the fields behind the name in /proc/PID/stat: ticks since the machine started (proc(5))


def partial_name(path: Path) -> Path:
    """Return the temporary name of `path` in its folder: it names the machine and the process that write it."""
    return path.with_name(f"{temporary_stem(path)}.{_process(os.getpid())}{SUFFIX}")


def temporary_stem(path: Path) -> str:
    """Return the beginning of the temporary names of `path`.

    It is the name of `path`; of a longer name than LONGEST_STEM, a part and a hash.
    """
    name = os.fsencode(path.name)
    if len(name) <= LONGEST_STEM:
        return path.name
    end = f"~{hashlib.sha256(name).hexdigest()[:16]}"
    return name[: LONGEST_STEM - len(end)].decode(errors="ignore") + end


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose process has ended."""
    stem = temporary_stem(path)
    for partial in path.parent.glob(f"{glob.escape(stem)}.*{SUFFIX}"):
        owner = OWNER.fullmatch(partial.name[len(stem) :])
        if owner and _has_ended(owner["host"], int(owner["pid"]), partial):
            _remove(partial)


def remove_partials_of(paths: Iterable[Path]) -> None:
    """Remove the temporary files of `paths`, whoever wrote them. Each folder is read once.

    paths: files that this process alone may write now, as it holds their lock.
    """
    names_in: dict[Path, set[str]] = {}
    for path in paths:
        names_in.setdefault(path.parent, set()).add(path.name)
    for folder, names in names_in.items():
        for partial in folder.glob(f"*{SUFFIX}"):
            if any(partial.name[: dot.start()] in names for dot in re.finditer(r"\.", partial.name)):
                _remove(partial)


def remove_partials(folder: Path) -> list[Path]:
    """Remove all temporary files below a folder, and return them.

    folder: a folder that this process has locked, so that no other process writes there.
    """
    found = [path for path in folder.rglob(f"*{SUFFIX}") if path.exists() or path.is_symlink()]
    for path in found:
        _remove(path)
    return found


def make_partial_folder(path: Path) -> Path:
    """Make a new folder with a temporary name of `path` beside it, and return it. Abandoned ones are removed."""
    remove_abandoned(path)
    folder = path.with_name(f"{temporary_stem(path)}.{_process(os.getpid())}.{uuid.uuid4().hex[:8]}{SUFFIX}")
    folder.mkdir()
    return folder


def _process(pid: int | str) -> str:
    """Return the name of a process in temporary file names: host and number, as numbers differ between machines."""
    return f"{socket.gethostname()}.{pid}"


def _has_ended(host: str, pid: int, partial: Path) -> bool:
    """Return whether the process that wrote a temporary file has ended.

    Of another machine, only silence tells. On this one, a process that began after the last write to the file has the
    number of an earlier one.
    """
    try:
        written = partial.stat().st_mtime
    except OSError:
        return False
    if host != socket.gethostname():
        return time.time() - written > SILENT
    began = _began(pid)
    return began is None or began > written + 2  # the times are of different clocks


def _began(pid: int) -> float | None:
    """Return when a process of this machine began, in seconds since 1970; None if there is none.

    0.0 where the system does not say when.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (PermissionError, OverflowError):
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return 0.0
    return int(boot.split()[1]) + int(fields[START_TIME]) / os.sysconf("SC_CLK_TCK")


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
