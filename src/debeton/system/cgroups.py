"""The control groups (cgroups) of this process: their folders, of version 1 and 2. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class ControlGroup:
    """A control group that this process is in, itself or by a group below it.

    version: 1 or 2, which name their files differently.
    folder: holds the group's files.
    """

    version: int
    folder: Path

    def read(self, name: str) -> str | None:
        """Return the text of one of the group's files; None if the group has no such file."""
        try:
            return (self.folder / name).read_text().strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """Return the number in one of the group's files; None without the file, or if it holds 'max' (no limit)."""
        return whole_number(self.read(name))


def whole_number(text: str | None) -> int | None:
    """Return the whole number that a text holds; None for any other text, and for None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def control_groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> list[ControlGroup]:
    """Return the groups of this process, and all groups above them that can be seen: their limits hold for it.

    A container may show a group as the root of the mount, or name a group that cannot be seen from inside. Then
    the groups between the root of the mount and the last one that exists are returned.

    controller: 'memory' or 'cpu'.
    proc: the folder /proc.
    cgroups: the folder /sys/fs/cgroup.
    """
    found: dict[Path, ControlGroup] = {}
    mounts = _mounts(controller, proc, cgroups)
    for version, name in _names(controller, proc):
        for root, mount in mounts.get(version, []):
            folder = mount / _below(name, root)
            for level in (folder, *folder.parents):
                if level.is_dir():
                    found.setdefault(level, ControlGroup(version, level))
                if level == mount:
                    break
    return list(found.values())


def _names(controller: str, proc: Path) -> Iterator[tuple[int, str]]:
    """Yield (version, name) of this process's own groups, such as (2, '/slurm/job_7'), from /proc/self/cgroup."""
    for line in _lines(proc / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, name
        elif controller in controllers.split(","):
            yield 1, name


def _mounts(controller: str, proc: Path, cgroups: Path) -> dict[int, list[tuple[str, Path]]]:
    """Return the mounts of each version that may have the controller: (group at the root of the mount, folder)."""
    mounts: dict[int, list[tuple[str, Path]]] = {}
    for line in _lines(proc / "self" / "mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            version = 2
        elif kinds[0] == "cgroup" and controller in kinds[2].split(","):
            version = 1
        else:
            continue
        folder = Path(fields[4])
        if folder.is_relative_to(CGROUPS):
            folder = cgroups / folder.relative_to(CGROUPS)
        mounts.setdefault(version, []).append((fields[3], folder))
    # The usual places, for a system that does not list its mounts.
    return mounts or {2: [("/", cgroups), ("/", cgroups / "unified")], 1: [("/", cgroups / controller)]}


def _below(name: str, root: str) -> str:
    """Return the path of a group below the root of a mount; '' for a group that lies outside of it."""
    if root != "/" and (name == root or name.startswith(root + "/")):
        name = name[len(root) :]
    return "" if ".." in name.split("/") else name.strip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
