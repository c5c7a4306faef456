"""A manifest: the jobs of a study, numbered and with every value filled in, as SLURM's array tasks read them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debeton.config.yaml_files import check_keys, read_mapping
from debeton.studies.jobs import Job
from debeton.studies.published import Published
from debeton.studies.state import StudyFolders
from debeton.system.errors import UsageError
from debeton.system.files import write_text

VERSION = 1
KEYS = ("version", "study", "root", "runs", "data", "jobs", "published")


@dataclass(frozen=True)
class Manifest:
    """study: its name. Job number k is jobs[k]; a manifest never changes, so neither do the numbers."""

    study: str
    jobs: tuple[Job, ...]
    folders: StudyFolders
    published: tuple[Published, ...] = ()


def write_manifest(manifest: Manifest) -> Path:
    """Write it under a name made of its content, among the study's logs; the same jobs have the same file."""
    folders = manifest.folders
    content = {
        "version": VERSION,
        "study": manifest.study,
        "root": str(folders.root),
        "runs": str(folders.runs),
        "data": str(folders.data),
        "jobs": [dataclasses.asdict(job) for job in manifest.jobs],
        "published": [dataclasses.asdict(table) for table in manifest.published],
    }
    text = json.dumps(content, indent=1)
    path = folders.logs / f"manifest_{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.exists():
        write_text(path, text)
    return path


def load_manifest(path: Path) -> Manifest:
    """Read a manifest; UsageError for one of another version, and one that is none or was edited into none."""
    content = read_mapping(path, "manifest", ", ".join(KEYS))
    version = content.get("version")
    if version != VERSION:
        raise UsageError(
            f"manifest {path} is of version {version}, and this program writes and reads version {VERSION}; submit the "
            "study again"
        )
    check_keys(content, KEYS, f"manifest {path}")
    if missing := [key for key in KEYS if key not in content]:
        raise UsageError(f"manifest {path} has no '{missing[0]}'; submit the study again")
    jobs = tuple(_job(values, f"manifest {path}, job {number}") for number, values in enumerate(content["jobs"]))
    folders = StudyFolders(*(Path(content[key]) for key in ("root", "runs", "data")))
    return Manifest(content["study"], jobs, folders, tuple(Published(**table) for table in content["published"]))


def _job(values: dict[str, Any], where: str) -> Job:
    fields = [field.name for field in dataclasses.fields(Job)]
    check_keys(values, fields, where)
    if missing := [name for name in fields if name not in values]:
        raise UsageError(f"{where} has no '{missing[0]}'; submit the study again")
    settled: dict[str, Any] = values | {key: tuple(values[key]) for key in ("configs", "betons", "searched")}
    return Job(**settled)


def parse_numbers(text: str, count: int) -> list[int]:
    """'0,3-5' -> [0, 3, 4, 5]; UsageError for anything else, and for numbers that are not below `count`."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise UsageError(f"--jobs {text}: expected numbers and ranges separated by commas, such as 0,3-5")
        found += range(int(low), int(high or low) + 1)
    if found and max(found) >= count:
        raise UsageError(f"--jobs {text}: there is no job {max(found)}; their numbers are 0 to {count - 1}")
    return found


def format_ranges(numbers: Sequence[int]) -> str:
    """[0, 3, 4, 5] -> '0,3-5', the inverse of `parse_numbers` for increasing numbers."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in pieces)
