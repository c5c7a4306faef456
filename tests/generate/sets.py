"""Helpers for tests of image sets: run the command in this process, and read images and manifest lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from debeton.commands import generate
from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.system.errors import run_command


def command(*words) -> int:
    return run_command(lambda: generate.main([str(word) for word in words]))


def images_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


def kept_of(folder: Path) -> dict[str, tuple]:
    texts = [path.read_text().rpartition("\n")[0] for path in folder.glob("manifest*.jsonl")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    kept = [line for line in lines if line["verdict"] == ACCEPTED]
    assert len({line["path"] for line in kept}) == len(kept)  # no image twice
    return {line["path"]: (line["seed"], line["prompt"], line["sha256"]) for line in kept}
