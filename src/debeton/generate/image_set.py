"""A folder of generated images that grows, shard by shard, and never holds half an image or a line too many.

SET/generator.json    what decides the images: set name, generator, prompts, filter
SET/CLASS/ATTRIBUTE/00000017.png (CLASS/_/... where the prompt named no attribute)
SET/manifest.jsonl    a line an image, also of those that were rejected; of shard K of N manifest-K-of-N.jsonl

An image is written under a temporary name and renamed, then its line is appended: what a kill leaves is an image
without a line, which the next run makes again under the same name. Every image's seed is a hash of (set, condition,
number, attempt), so shards, restarts and batches of another size make the same set.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debeton.data.raw.synthetic_images import ACCEPTED, MANIFEST, manifest_files
from debeton.data.spec import DatasetSpec
from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError
from debeton.system.files import naming_full_disk, write_files, write_text
from debeton.system.seed import derive_seed

SETTINGS = "generator.json"
NO_ATTRIBUTE = "_"


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count` of a set: every count-th image."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """'2/8'; UsageError for anything else."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UsageError(f"--shard {text}: expected K/N with K from 1 to N, as in 2/8")
        return cls(int(index), int(count))

    @property
    def manifest(self) -> str:
        return MANIFEST if self.count == 1 else f"manifest-{self.index}-of-{self.count}.jsonl"


@dataclass(frozen=True)
class Slot:
    """One place of the set: image `number` of a condition, and which attempt at it comes next."""

    condition: Condition
    number: int
    attempt: int = 0

    def seed(self, name: str) -> int:
        """The seed of this attempt in the set called `name`: 63 bits."""
        again = (self.attempt,) if self.attempt else ()
        return derive_seed(name, self.condition, self.number, *again)

    @property
    def path(self) -> str:
        """Of its image, relative to the set's folder."""
        folder = f"{self.condition.label}/{self.condition.attribute or NO_ATTRIBUTE}"
        return f"{folder}/{self.number:08}.png"


class ImageSet:
    """The set in `folder`, opened by one shard.

    settings: plain values that decide the images. UsageError where the folder was begun with others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: Shard = Shard()):
        self.folder, self.shard, self.settings = folder, shard, dict(settings)
        self._agree()
        self.manifest = folder / shard.manifest
        self._mend()
        self.lines = [line for path in manifest_files(folder) for line in read_lines(path)]

    def _agree(self) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            write_text(path, json.dumps(self.settings, indent=1, ensure_ascii=False))
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key in {**found, **self.settings} if found.get(key) != self.settings.get(key)]
        if wrong:
            raise UsageError(
                f"{self.folder} was begun with other settings: {wrong[0]} is {found.get(wrong[0])!r} there and "
                f"{self.settings.get(wrong[0])!r} here ({', '.join(wrong)}); go on with those, or name another --out"
            )

    def _mend(self) -> None:
        """Cut off a last line that a kill left unfinished."""
        if not self.manifest.exists():
            return
        text = self.manifest.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            write_files({self.manifest: whole})

    def missing(self, conditions: Iterable[Condition], per_condition: int) -> list[Slot]:
        """This shard's slots without a kept image, each with its next attempt, in order."""
        kept: set[tuple[Condition, int]] = set()
        tried: dict[tuple[Condition, int], int] = {}
        for line in self.lines:
            where = (Condition(line["label"], line["attribute"]), line["number"])
            tried[where] = max(tried.get(where, 0), line["attempt"] + 1)
            if line["verdict"] == ACCEPTED:
                kept.add(where)
        slots = [(condition, number) for condition in conditions for number in range(per_condition)]
        mine = slots[self.shard.index - 1 :: self.shard.count]
        return [Slot(*slot, tried.get(slot, 0)) for slot in mine if slot not in kept]

    def write_image(self, slot: Slot, image: NDArray[np.uint8]) -> str:
        """Write a kept image whole; returns its SHA-256. Called from several threads."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png", compress_level=3)
        write_files({self.folder / slot.path: buffer.getvalue()})
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to this shard's manifest, on disk when it returns."""
        with naming_full_disk(self.manifest), self.manifest.open("a", encoding="utf-8") as file:
            start = file.tell()
            try:
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.manifest, start)  # half a line would hide the next one
                raise
        self.lines += [dict(line) for line in lines]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images have each verdict, by condition."""
        found: dict[str, dict[str, int]] = {}
        for line in self.lines:
            verdicts = found.setdefault(str(Condition(line["label"], line["attribute"])), {})
            verdicts[line["verdict"]] = verdicts.get(line["verdict"], 0) + 1
        return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a manifest that this program wrote, without a last one that a kill left unfinished; DataError names
    one that is no such line."""
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            _ = line["label"], line["attribute"], line["number"], line["attempt"], line["verdict"], line["path"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no entry of a generated set ({error}); remove it") from None
        yield line


def names_from_folders(folder: Path) -> DatasetSpec:
    """Classes by what a folder of images says itself: its manifest's labels, its sub-folders, or its arrays' names."""
    if found := manifest_files(folder):
        lines = [line for path in found for line in read_lines(path)]
        labels = {str(line["label"]) for line in lines}
        attributes = {str(line["attribute"]) for line in lines if line.get("attribute") is not None}
        return DatasetSpec(folder.name, tuple(sorted(labels)), tuple(sorted(attributes)) or ("any",))
    arrays = [path.stem.removeprefix("class_") for path in sorted(folder.glob("*.npy"))]
    if "images" in arrays:
        beside = folder / "labels.npy"
        count = int(np.load(beside, allow_pickle=False).max()) + 1 if beside.is_file() else 1
        return DatasetSpec(folder.name, tuple(str(k) for k in range(count)))
    names = arrays or sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "sheets")
    if not names:
        raise DataError(f"{folder} holds no images: no manifest, no *.npy and no folder of a class")
    return DatasetSpec(folder.name, tuple(names))


def verify(folder: Path) -> list[str]:
    """What is wrong with a set, a sentence each: images that are missing or not those of the manifest."""
    wrong = []
    for path in manifest_files(folder):
        for line in read_lines(path):
            if line["verdict"] != ACCEPTED:
                continue
            image = folder / line["path"]
            if not image.is_file():
                wrong.append(f"{image} is not there")
            elif hashlib.sha256(image.read_bytes()).hexdigest() != line["sha256"]:
                wrong.append(f"{image} is not the image of {path.name}")
    return wrong
