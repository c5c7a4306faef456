"""Tar shards, as the library webdataset writes them: an image and what belongs to it under one key.

A member is `KEY.SUFFIX`, and the key ends at the first dot of the file name. Members are read in place. A compressed
shard is unpacked first, to a temporary file without a name.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from debeton.data.beton.image_decoding import MAX_IMAGE_BYTES, BadImage
from debeton.data.image_names import is_image
from debeton.data.raw.image_files import MissingDataError
from debeton.data.split_names import is_split_word, known_split
from debeton.system.errors import DataError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.files import write_whole
from debeton.system.json_files import parse_json
from debeton.system.packed_files import BoundedReader, unpacked
from debeton.system.pool import in_order
from debeton.system.regular_files import open_regular, require_regular

SUFFIXES = (".tar", ".tar.gz", ".tgz")
CLS, TXT, JSON = "cls", "txt", "json"  # suffixes of members with values
CHUNK = 1 << 20
MAX_VALUES = 1 << 24  # bytes of a .cls, .txt or .json
TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, UnicodeDecodeError, ValueError)


@dataclass
class Shard:
    """One tar file.

    path: the file. name: its path below the folder that was named.
    unpacked: the open content of a compressed shard.
    """

    path: Path
    name: str
    unpacked: IO[bytes] | None = None

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the tar. Any thread may call it. BadImage for more than an image may have."""
        if size > MAX_IMAGE_BYTES:
            raise BadImage(f"has {size:,} bytes, more than the {MAX_IMAGE_BYTES:,} that are read of an image")
        if self.unpacked is not None:
            return os.pread(self.unpacked.fileno(), size, start)
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)


@dataclass
class Sample:
    """The members of one key.

    image: the place and the size of the image in the shard, in bytes; None if there is none.
    values: the single values of the members .cls, .txt and .json.
    """

    shard: Shard
    key: str
    image: tuple[int, int] | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the sample in messages."""
        return f"{self.shard.name}/{self.key}"


def find_shards(raw: Path) -> list[Shard]:
    """Return the shards of a folder, at any depth, in sorted order, or the one shard. MissingDataError without any."""
    if raw.is_file():
        return [Shard(raw, raw.name)]
    files = sorted(path for path in raw.rglob("*") if path.name.endswith(SUFFIXES) and not path.name.startswith("."))
    if not files:
        raise MissingDataError(f"{raw} holds no shard; expected {' or '.join(f'*{suffix}' for suffix in SUFFIXES)}")
    return [Shard(path, path.relative_to(raw).as_posix()) for path in files]


def read_samples(shards: Sequence[Shard], num_workers: int = 0) -> list[Sample]:
    """Return the samples of all shards in their order. DataError for a shard that is damaged or cut short."""
    with closing(in_order(_read_shard, shards, num_workers, "index")) as results:
        return [sample for samples in results for sample in samples]


def split_of_shard(name: str) -> str:
    """Return the split that the name of a shard or its folder names: of 'imagenet-train-000123.tar' it is 'train'.

    'train' if none does.
    """
    folder, _, file = name.rpartition("/")
    stem = re.sub(r"[-_.]?\d+$", "", file.partition(".")[0])
    for part in (stem, *reversed(folder.split("/"))):
        words = re.split(r"[-_]", part)
        word = next((word for word in reversed(words) if is_split_word(word)), None)
        if word is not None and word in (words[-1], part):
            return word
        if known_split(part):
            return part
    return "train"


def _read_shard(shard: Shard) -> list[Sample]:
    """Return the samples of one shard. Only its headers and its values are read."""
    require_regular(shard.path)
    try:
        if shard.path.name.endswith(".gz") or shard.path.name.endswith(".tgz"):
            shard.unpacked = _unpack_to_temporary(shard.path)
        size = os.fstat(shard.unpacked.fileno()).st_size if shard.unpacked is not None else shard.path.stat().st_size
        samples: dict[str, Sample] = {}
        suffix_of_image: dict[str, str] = {}
        for member in _members(shard):
            key, suffix = _key_and_suffix(member.name)
            if member.offset_data + member.size > size:
                raise DataError(f"{shard.path} is cut short: {member.name} ends after it; fetch it again")
            _add(samples.setdefault(key, Sample(shard, key)), suffix, member, suffix_of_image)
    except TAR_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shard.path} is no whole tar file ({error}); fetch it again") from None
    return list(samples.values())


def _unpack_to_temporary(path: Path) -> IO[bytes]:
    """Return a file without a name, in the folder for temporary files, that holds a shard unpacked."""
    place = Path(tempfile.gettempdir(), f"{path.name}, unpacked,")
    with unpacked(path) as packed:
        with naming_failed_writes(place):
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # is read as long as the shard
        while chunk := packed.read(CHUNK):
            with naming_failed_writes(place):
                write_whole(file.fileno(), chunk)
    file.seek(0)
    return file


def _members(shard: Shard) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a shard, without hidden ones."""
    with ExitStack() as opened:
        file = shard.unpacked or opened.enter_context(open_regular(shard.path))
        stream = BoundedReader(file, shard.path, os.fstat(file.fileno()).st_size)
        for member in opened.enter_context(tarfile.open(fileobj=stream, mode="r:")):
            name = member.name.removeprefix("./")
            if member.isfile() and not any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
                yield member


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def _add(sample: Sample, suffix: str, member: tarfile.TarInfo, suffix_of_image: dict[str, str]) -> None:
    """Add a member to its sample. Of several images the one with the shortest suffix counts: 'jpg' before 'seg.png'."""
    place = (member.offset_data, member.size)
    if is_image(f"x.{suffix}"):
        known = suffix_of_image.get(sample.key)
        if known == suffix:
            raise DataError(f"{sample.shard.path}: {member.name} is there twice; every sample needs a key of its own")
        if known is None or (suffix.count("."), suffix) < (known.count("."), known):
            sample.image, suffix_of_image[sample.key] = place, suffix
    elif suffix in (CLS, TXT):
        text = _value_bytes(sample, member).decode().strip()
        sample.values[suffix] = int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
    elif suffix == JSON:
        where = f"{sample.shard.path}: {member.name}"
        content = parse_json(
            _value_bytes(sample, member),
            where,
            remedy="expected an object of keys and values",
            nan_as_null=lambda key: True,
        )
        for key, value in _single(content):
            sample.values.setdefault(key, value)


def _value_bytes(sample: Sample, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a member with values. DataError if they are more than MAX_VALUES."""
    if member.size > MAX_VALUES:
        raise DataError(
            f"{sample.shard.path}: {member.name} has {member.size:,} bytes; expected values of one image, at most "
            f"{MAX_VALUES:,}"
        )
    return sample.shard.read(member.offset_data, member.size)


def _single(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the single values of an object, nested ones as 'outer.inner'."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _single(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
