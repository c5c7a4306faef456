"""Manifests: the numbered jobs of a study with all values filled in, for the tasks of a SLURM array."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debeton.studies.jobs import Job
from debeton.studies.published import Published
from debeton.studies.state import StudyFolders
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null

VERSION = 1
REMEDY = "submit the study again, which writes a new one"
CONTENT = Table(
    keys={
        "version": int,
        "study": str,
        "root": str,
        "runs": str,
        "data": str,
        "jobs": ListOf(
            Table(
                keys={
                    "name": str,
                    "variant": str,
                    "configs": ListOf(str),
                    "settings": dict,
                    "point": dict,
                    "setting": dict,
                    "seed": int,
                    "betons": ListOf(str),
                    "data": str,
                    "draw": or_null(Within(int, 0)),
                    "searched": ListOf(str),
                    "minutes": Within(float, 0),
                },
                may={"best_of": str},
                others=None,
            )
        ),
        "published": ListOf(Table(keys={"source": str, "metric": str, "values": Table(others=str)}, others=None)),
    },
    others=None,
)


@dataclass(frozen=True)
class Manifest:
    """Numbered jobs of a study. A file of a manifest never changes, so the numbers stay valid.

    study: name of the study.
    jobs: the jobs; job number k is jobs[k].
    folders: the project's folder and the study's folders.
    published: published numbers, shown beside the measured ones.
    """

    study: str
    jobs: tuple[Job, ...]
    folders: StudyFolders
    published: tuple[Published, ...] = ()


def write_manifest(manifest: Manifest) -> Path:
    """Write a manifest among the study's logs and return its path.

    The file name is a hash of the content, so the same jobs give the same file.
    """
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
    path = folders.logs / f"manifest_{_hash(text)}.json"
    if not path.exists():
        write_text(path, text)
    return path


def _hash(text: str) -> str:
    """Return the 12 hex digits in the name of a manifest."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_manifest(path: Path) -> Manifest:
    """Read a manifest. UsageError where there is none, or one of another version. DataError names what is damaged."""
    if not path.exists():
        raise UsageError(f"no manifest at {path}; submit the study again, which writes it")
    version = read_json(path, remedy=REMEDY).get("version")
    if version != VERSION:
        raise UsageError(
            f"manifest {path} is of version {version}, and this program writes and reads version {VERSION}; submit the "
            "study again"
        )
    content = read_json(path, CONTENT, remedy=REMEDY)
    named = re.fullmatch(r"manifest_([0-9a-f]{12})", path.stem)
    if named and _hash(path.read_text(encoding="utf-8")) != named[1]:
        raise DataError(f"{path} does not hold what its name, a hash, says; it was edited by hand: {REMEDY}")
    jobs = tuple(_job(values) for values in content["jobs"])
    folders = StudyFolders(*(Path(content[key]) for key in ("root", "runs", "data")))
    return Manifest(content["study"], jobs, folders, tuple(Published(**table) for table in content["published"]))


def _job(values: dict[str, Any]) -> Job:
    job_values: dict[str, Any] = values | {key: tuple(values[key]) for key in ("configs", "betons", "searched")}
    return Job(**job_values)


def parse_numbers(text: str, count: int) -> list[int]:
    """Return [0, 3, 4, 5] for the text '0,3-5'.

    UsageError: the text is no such list, or a number is not below `count`.
    """
    numbers: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise UsageError(f"--jobs {text}: expected numbers and ranges separated by commas, such as 0,3-5")
        numbers += range(int(low), int(high or low) + 1)
    if numbers and max(numbers) >= count:
        raise UsageError(f"--jobs {text}: there is no job {max(numbers)}; their numbers are 0 to {count - 1}")
    return numbers


def format_ranges(numbers: Sequence[int]) -> str:
    """Return '0,3-5' for [0, 3, 4, 5]: the inverse of `parse_numbers` for increasing numbers."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in pieces)
