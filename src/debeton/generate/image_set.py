"""Folder of synthetic images that several shards may fill, and that a kill at any moment leaves usable.

- SET/generator.json: the settings that decide the images: set name, generator, prompts, filter.
- SET/CLASS/ATTRIBUTE/00000017.png: an image. ATTRIBUTE is _ where the prompt named no attribute.
- SET/manifest.jsonl: one line per image, also of rejected images.
- SET/manifest-K-of-N.jsonl: the same, of shard K of N.

Each shard has one process at a time, which holds its lock while it fills the shard (`ImageSet.filling`). An image is
written under a temporary name, renamed, and then its line is appended. After a kill there may be an image without a
line, or a temporary file; the next run of the shard makes the image again under the same name. The seed of an image is
a hash of (set, condition, number, attempt). So shards, restarts and other batch sizes give the same set.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from debeton.data.raw.synthetic_images import (
    ACCEPTED,
    MANIFEST,
    NO_ATTRIBUTE,
    folder_names,
    manifest_files,
    read_label_array,
    say_cut_line,
)
from debeton.data.spec import DatasetSpec
from debeton.generate.doubled_lines import describe_doubled, doubled_images, drop_doubled
from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError
from debeton.system.file_names import Root
from debeton.system.files import append_text, write_files, write_text
from debeton.system.json_files import read_json, read_json_lines
from debeton.system.json_shapes import Table, Within, or_null
from debeton.system.leftovers import remove_partials_of
from debeton.system.locks import LockState, file_lock, folder_lock, holder, is_locked
from debeton.system.log import logger
from debeton.system.progress import note_progress
from debeton.system.seed import derive_seed

SETTINGS = "generator.json"
LINE = Table(
    keys={
        "path": str,
        "label": str,
        "attribute": or_null(str),
        "number": Within(int, 0),
        "attempt": Within(int, 0),
        "verdict": str,
    },
    may={"prompt": or_null(str), "seed": or_null(int), "sha256": or_null(str)},
)


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count` parts of a set: every count-th image."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read text such as '2/8'; UsageError for anything else."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UsageError(f"--shard {text}: expected K/N with K from 1 to N, as in 2/8")
        return cls(int(index), int(count))

    @property
    def manifest(self) -> str:
        """Return the file name of this shard's manifest."""
        return MANIFEST if self.count == 1 else f"manifest-{self.index}-of-{self.count}.jsonl"


@dataclass(frozen=True)
class Slot:
    """Place of one image in the set.

    condition: class and attribute of the image.
    number: number of the image in its condition, from 0.
    attempt: number of the next attempt at this image, from 0.
    """

    condition: Condition
    number: int
    attempt: int = 0

    def seed(self, name: str) -> int:
        """Return the seed of this attempt in the set called `name`, 63 bits."""
        retry = (self.attempt,) if self.attempt else ()
        return derive_seed(name, self.condition, self.number, *retry)

    @property
    def path(self) -> str:
        """Return the path of the image, relative to the set's folder; names that are no folder's become one."""
        return _paths(self.condition, self.number)[0]


# Settings that name a place, and the settings beside them that name its content by a hash.
CONTENT_OF_PLACE = {"model": "revision", "images": "files"}


class ImageSet:
    """Image set in a folder, opened by one shard.

    folder: folder of the set; it is created when needed.
    settings: plain values that decide the images, for generator.json.
    shard: the part of the set that this process fills.

    UsageError: the folder was started with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: Shard = Shard()):
        self.folder, self.shard, self.settings = folder, shard, dict(settings)
        self._root = Root(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):  # of two processes that begin a set, the second compares with what the first wrote
            self._check_settings()
        self.manifest = folder / shard.manifest
        self._read()

    def _read(self) -> None:
        """Read the lines of all manifests, unless they are as they were when they were read last."""
        files = manifest_files(self.folder)
        found = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        if found != getattr(self, "_found", None):
            self._found = found
            self._by_manifest = {path: list(read_lines(path)) for path in files}
            self.lines = [line for of_file in self._by_manifest.values() for line in of_file]

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Hold this shard's lock during the block, and bring the lines up to date before it.

        A line that a kill left unfinished is cut off, and lines that list an image again are dropped.

        UsageError: another process fills the shard, or shards of another division of the set.
        """
        with ExitStack() as stack:
            with folder_lock(self.folder):  # one process at a time begins or ends
                self._refuse_other_divisions()
                path = _lock_file(self.manifest)
                lock = stack.enter_context(file_lock(path))
                if lock is LockState.BUSY:
                    raise self._busy(self.shard.index, self.shard.count, path)
                if lock is LockState.UNSUPPORTED:
                    logger.warning("%s has no locks: let one process at a time fill a shard", self.folder)
                stack.callback(self._end_filling, path)
                self._check_settings()
                self._cut_unfinished_line()
                self._read()
                if drop_doubled(self.folder, self._by_manifest, self._is_filled_by_others):
                    self._read()
            yield

    def _end_filling(self, lock: Path) -> None:
        """Remove the lock file, while this process still holds the lock."""
        with folder_lock(self.folder):
            lock.unlink(missing_ok=True)

    def _is_filled_by_others(self, manifest: Path) -> bool:
        return manifest != self.manifest and is_locked(_lock_file(manifest))

    def _refuse_other_divisions(self) -> None:
        """Raise UsageError if a process fills shards of another number, which have images of this shard too."""
        for path in self.folder.glob(".manifest*.jsonl.lock"):
            name = path.name.removeprefix(".").removesuffix(".lock")
            words = name.removesuffix(".jsonl").split("-")  # manifest, or manifest-K-of-N
            index, count = (int(words[1]), int(words[-1])) if len(words) == 4 else (1, 1)
            if count != self.shard.count and is_locked(path):
                raise self._busy(index, count, path)

    def _busy(self, index: int, count: int, lock: Path) -> UsageError:
        return UsageError(
            f"shard {index}/{count} of {self.folder} is being made by {holder(lock)}; wait for it, or let several "
            "processes share the set, each with another K of --shard K/N"
        )

    def _check_settings(self) -> None:
        """Write the settings of a new set, or compare them with those of the folder."""
        path = self.folder / SETTINGS
        if not path.exists():
            write_text(path, json.dumps(self.settings, indent=1, ensure_ascii=False))
            return
        stored = read_settings(self.folder)
        wrong = different_settings(stored, self.settings)
        if wrong:
            raise UsageError(
                f"{self.folder} was begun with other settings: {wrong[0]} is {stored.get(wrong[0])!r} there and "
                f"{self.settings.get(wrong[0])!r} here (different: {', '.join(wrong)}); use the settings of that "
                "folder, or give another --out"
            )

    def _cut_unfinished_line(self) -> None:
        """Cut off the last line of the manifest if a kill left it unfinished."""
        if not self.manifest.exists():
            return
        text = self.manifest.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            write_files({self.manifest: whole})

    def missing(self, conditions: Iterable[Condition], per_condition: int) -> list[Slot]:
        """Return the slots of this shard that have no kept image, in order, each with its next attempt.

        conditions: conditions of the set.
        per_condition: number of images of each condition, over all shards.
        """
        complete: set[tuple[Condition, int]] = set()
        attempts: dict[tuple[Condition, int], int] = {}
        for line in self.lines:
            key = (Condition(line["label"], line["attribute"]), line["number"])
            attempts[key] = max(attempts.get(key, 0), line["attempt"] + 1)
            if line["verdict"] == ACCEPTED:
                complete.add(key)
        keys = [(condition, number) for condition in conditions for number in range(per_condition)]
        shard_keys = keys[self.shard.index - 1 :: self.shard.count]
        return [Slot(*key, attempts.get(key, 0)) for key in shard_keys if key not in complete]

    def remove_leftovers(self, slots: Iterable[Slot]) -> None:
        """Remove the temporary files that killed processes left in these slots, on whatever machine they ran.

        slots: of this shard. Call this inside `filling`.
        """
        remove_partials_of(self.folder / slot.path for slot in slots)

    def write_image(self, slot: Slot, image: NDArray[np.uint8]) -> str:
        """Write a kept image, whole or not at all, and return its SHA-256. Several threads may call this.

        image: uint8 [H, W, 3].

        DataError: a link in the folder leads the image out of it.
        """
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png", compress_level=3)
        write_files({self._root.path(slot.path, str(self.folder)): buffer.getvalue()}, clear=False)
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines to this shard's manifest; they are on disk when this returns."""
        append_text(self.manifest, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self.lines += [dict(line) for line in lines]
        note_progress()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each verdict, by condition."""
        by_condition: dict[str, dict[str, int]] = {}
        for line in self.lines:
            verdicts = by_condition.setdefault(str(Condition(line["label"], line["attribute"])), {})
            verdicts[line["verdict"]] = verdicts.get(line["verdict"], 0) + 1
        return by_condition


def read_settings(folder: Path) -> dict[str, Any]:
    """Return generator.json of a set: the settings that decide its images. DataError names what is damaged."""
    remedy = "remove the file, and the command that began the set writes it anew"
    found: dict[str, Any] = read_json(
        folder / SETTINGS,
        Table(keys={"set": str}, may={"generator": str, "filter": str, "prompts": dict}),
        remedy=remedy,
    )
    return found


def different_settings(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that decide the images and differ.

    A model or a folder under another path is the same where the hash of its content is the same.
    """

    def is_same_content(key: str) -> bool:
        content = CONTENT_OF_PLACE.get(key, "")
        return stored.get(content) is not None and stored.get(content) == given.get(content)

    return [key for key in {**stored, **given} if stored.get(key) != given.get(key) and not is_same_content(key)]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a manifest that this program wrote.

    A last line cut short by a kill is skipped with a note: its image is made again. DataError names any other damaged
    line.
    """
    remedy = "remove the line, and the command that made the set makes its image again"
    for _, line in read_json_lines(path, LINE, remedy=remedy, cut=partial(say_cut_line, path)):
        yield line


def spec_from_folder(folder: Path) -> DatasetSpec:
    """Return the classes of a folder of synthetic images.

    The names come from the labels of its manifest, from its sub-folders, or from the names of its arrays.
    DataError: the folder has none of these.
    """
    if manifest_paths := manifest_files(folder):
        lines = [line for path in manifest_paths for line in read_lines(path)]
        labels = {str(line["label"]) for line in lines}
        attributes = {str(line["attribute"]) for line in lines if line.get("attribute") is not None}
        return DatasetSpec(folder.name, tuple(sorted(labels)), tuple(sorted(attributes)) or ("any",))
    arrays = [path.stem.removeprefix("class_") for path in sorted(folder.glob("*.npy"))]
    if "images" in arrays:
        label_file = folder / "labels.npy"
        count = int(read_label_array(label_file).max(initial=0)) + 1 if label_file.is_file() else 1
        return DatasetSpec(folder.name, tuple(str(k) for k in range(count)))
    names = arrays or sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "sheets")
    if not names:
        raise DataError(
            f"{folder} holds no images: no manifest, no *.npy and no folder of a class; give a folder that "
            "generate_images.py filled, or CLASS/* folders"
        )
    return DatasetSpec(folder.name, tuple(names))


def _paths(condition: Condition, number: int) -> list[str]:
    """Return the paths that an image of the set may have. The first is that of a new image."""
    below = [NO_ATTRIBUTE] if condition.attribute is None else folder_names(condition.attribute, (NO_ATTRIBUTE,))
    return [f"{above}/{name}/{number:08}.png" for above in folder_names(condition.label) for name in below]


def _lock_file(manifest: Path) -> Path:
    """Return the lock file of the shard that fills a manifest."""
    return manifest.with_name(f".{manifest.name}.lock")


def unlisted(folder: Path) -> list[Path]:
    """Return the images of a set that no manifest names, sorted: a kill or a cut manifest has left them."""
    named = {line["path"] for path in manifest_files(folder) for line in read_lines(path)}
    found = sorted(folder.glob("*/*/[0-9]*.png"))
    return [path for path in found if path.relative_to(folder).as_posix() not in named]


def verify(folder: Path) -> list[str]:
    """Check every kept image and its line, and return one sentence per image that is missing, changed or misplaced.

    A last sentence says how many lines list an image again. DataError: a line names an image outside of the folder.
    """
    problems, root = [], Root(folder)
    by_manifest = {path: list(read_lines(path)) for path in manifest_files(folder)}
    for path, lines in by_manifest.items():
        for line in lines:
            if line["verdict"] != ACCEPTED:
                continue
            image = root.path(str(line["path"]), str(path))
            if not image.is_file():
                problems.append(f"{image} is not there")
            elif hashlib.sha256(image.read_bytes()).hexdigest() != line.get("sha256"):
                problems.append(f"{image} is not the image of {path.name}")
            elif line["path"] not in _paths(condition := Condition(line["label"], line["attribute"]), line["number"]):
                problems.append(f"{image} is listed as number {line['number']} of '{condition}' in {path.name}")
    doubled = describe_doubled(doubled_images(by_manifest))
    return [*problems, *([doubled] if doubled else [])]
