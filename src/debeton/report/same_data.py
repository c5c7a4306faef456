"""Runs that were trained or measured on different data under one name: kept apart, and named in a sentence.

Validation and test data must be the same for runs with the same options of the data set, seeds included. Training data
must be so if it also lay in the same folder: studies write training betons for each seed, in folders of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from debeton.report.records import RunRecord

UNKNOWN = "unknown"  # the data of runs of an older version
MEASURED = ("val", "test")  # splits to measure on, beside those that begin with 'test'
SHOWN = 6  # runs that a sentence names
ByContent = dict[str, list[RunRecord]]  # runs by the short hash of their data


def find_different_data(runs: Iterable[RunRecord]) -> list[tuple[str, ByContent]]:
    """Return (split, runs by content) where finished runs must have the same data and have not."""
    places: dict[tuple[str, ...], ByContent] = {}
    for run in runs:
        for split in _splits(run):
            places.setdefault(_place(run, split), {}).setdefault(short_hash(run, split), []).append(run)
    return [(place[0], by_content) for place, by_content in places.items() if _is_mixed(by_content)]


def data_identity(runs: Sequence[RunRecord]) -> dict[int, dict[str, str]]:
    """Return what keeps runs with different data apart: 'SPLIT data' and its short hash, by the id of the run."""
    identity: dict[int, dict[str, str]] = {}
    for split, by_content in find_different_data(runs):
        for name, members in by_content.items():
            for run in members:
                identity.setdefault(id(run), {})[f"{split} data"] = name
    return identity


def data_notes(settings: Sequence[tuple[str, Sequence[RunRecord]]]) -> list[str]:
    """Return sentences about runs that are apart because of their data, and about settings of different data.

    settings: the label and the runs of each setting.
    """
    runs = [run for _, members in settings for run in members]
    notes = [
        f"Runs on different data of one name are settings of their own. Split '{split}': {_names(by_content)}."
        for split, by_content in find_different_data(runs)
    ]
    for label, members in settings:
        for split in dict.fromkeys(split for run in members for split in _splits(run)):
            by_content: ByContent = {}
            for run in members:
                by_content.setdefault(short_hash(run, split), []).append(run)
            if _is_mixed(by_content):
                notes.append(
                    f"The runs of '{label}' have different '{split}' data in different folders: {_names(by_content)}."
                )
    return notes


def short_hash(run: RunRecord, split: str) -> str:
    """Return eight hex digits of the hash of a run's data; UNKNOWN if the run does not name it."""
    parts = _data(run).get(split)
    if not parts:
        return UNKNOWN
    content = {key: value for key, value in parts.items() if key != "file"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _data(run: RunRecord) -> Mapping[str, Mapping[str, str]]:
    return (run.results or {}).get("data") or {}


def _splits(run: RunRecord) -> list[str]:
    """Return the splits of a run that lie in a beton of their own, not held out of 'train'."""
    if not _data(run):
        return ["train", *(split for split in MEASURED if run.metrics(split))]
    return [name for name in _data(run) if name == "train" or short_hash(run, name) != short_hash(run, "train")]


def _place(run: RunRecord, split: str) -> tuple[str, ...]:
    """Return the split, and all that must be equal before two runs must have the same data."""
    results = run.results or {}
    options = json.dumps(results.get("dataset_options") or {}, sort_keys=True, default=str)
    path = str(run.config.get(f"data.{split}_path"))
    is_measured = split in MEASURED or split.startswith("test")
    folder = "" if is_measured else str(run.config.get("training.data_root"))
    return split, str(results.get("dataset")), options, path, folder


def _is_mixed(by_content: ByContent) -> bool:
    """Return whether runs are known to have different data."""
    return len(by_content.keys() - {UNKNOWN}) > 1


def _names(by_content: ByContent) -> str:
    """Return the names of the runs by their data, such as '1f0c: erm/version_0; 77ab: erm/version_1'."""
    texts = []
    for content, runs in by_content.items():
        more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
        texts.append(f"{content}: {', '.join(run.name for run in runs[:SHOWN])}{more}")
    return "; ".join(texts)
