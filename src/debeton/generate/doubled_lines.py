"""Lines of an image set's manifests that list an image again, and their removal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from debeton.data.raw.synthetic_images import ACCEPTED, manifest_files
from debeton.system.errors import DataError, first_names
from debeton.system.files import write_text
from debeton.system.log import logger

Line = Mapping[str, Any]


def doubled_images(lines: Mapping[Path, list[dict[str, Any]]]) -> dict[str, list[Line]]:
    """Return the lines of each kept image that is listed more than once, by its path.

    lines: lines of each manifest.
    """
    by_path: dict[str, list[Line]] = {}
    for line in (line for of_file in lines.values() for line in of_file):
        if line["verdict"] == ACCEPTED:
            by_path.setdefault(line["path"], []).append(line)
    return {path: listed for path, listed in by_path.items() if len(listed) > 1}


def describe_doubled(doubled: Mapping[str, list[Line]]) -> str:
    """Return a sentence about images that are listed more than once; '' for none."""
    if not doubled:
        return ""
    count = sum(map(len, doubled.values())) - len(doubled)
    return (
        f"{count} lines of the manifest list an image again ({first_names(list(doubled))}); the command that made the "
        "set drops such lines"
    )


def drop_doubled(
    folder: Path, lines: Mapping[Path, list[dict[str, Any]]], is_being_filled: Callable[[Path], bool]
) -> bool:
    """Remove lines that list an image again from the manifests of a set; return whether one was removed.

    Of lines that are equal the first one stays. Of lines that differ the one of the image that is there stays.

    folder: folder of the set.
    lines: lines of each manifest.
    is_being_filled: manifest -> whether another process writes it; its lines stay.

    DataError: lines of one image differ, and none is of the image that is there.
    """
    rejected = [_text(line) for of_file in lines.values() for line in of_file if line["verdict"] != ACCEPTED]
    doubled = doubled_images(lines)
    if not doubled and len(set(rejected)) == len(rejected):
        return False
    right = {path: _line_of_image(folder, path, listed) for path, listed in doubled.items()}
    seen: set[str] = set()
    dropped = 0
    for manifest in sorted(lines, key=is_being_filled, reverse=True):  # theirs stay, so that ours are dropped
        stay = []
        for line in lines[manifest]:
            text = _text(line)
            if text in seen or (right.get(line["path"], text) != text and line["verdict"] == ACCEPTED):
                continue
            seen.add(text)
            stay.append(line)
        if len(stay) < len(lines[manifest]) and not is_being_filled(manifest):
            dropped += len(lines[manifest]) - len(stay)
            write_text(manifest, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in stay))
    if dropped:
        logger.warning("warning: dropped %d lines of %s that listed an image again", dropped, folder)
    return dropped > 0


def _line_of_image(folder: Path, path: str, listed: list[Line]) -> str:
    """Return the text of the line that stays, of the lines of one image."""
    if len({_text(line) for line in listed}) == 1:
        return _text(listed[0])
    image = folder / path
    digest = hashlib.sha256(image.read_bytes()).hexdigest() if image.is_file() else ""
    for line in listed:
        if line.get("sha256") == digest:
            return _text(line)
    names = ", ".join(file.name for file in manifest_files(folder))
    raise DataError(
        f"{image} is listed {len(listed)} times with different content ({names}), and no line is of the image that is "
        "there; remove these lines, and the same command makes the image again"
    )


def _text(line: Line) -> str:
    return json.dumps(line, sort_keys=True)
