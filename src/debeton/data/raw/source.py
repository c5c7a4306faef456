"""Data sets in the layouts their owners publish, one module each; importing this package registers them all.

A source is a function `load(request) -> Dataset`. Adding one is a new module here that calls
`register_source`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from debeton.data.raw.fetch import Archive
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.registry import Registry


@dataclass(frozen=True)
class Option:
    """One command-line option of a source: `--name VALUE`; bool options are switches."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    raw: the folder (or archive) with the files; None for the usual places. options: those of the source.
    download, mirror: may the sets that this one is made of be fetched, and from where instead of their owners.
    """

    raw: Path | None = None
    download: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    mirror: str | None = None


@dataclass(frozen=True)
class Dataset:
    """What a source returns.

    splits: rows by split name: 'train', 'val', 'test', further tests 'test_...'.
    expected: what its owners (or the papers that made the split) count, by split: rows in all, or rows by group.
        `--check` says where the files differ; a split that is not named is not checked.
    """

    spec: DatasetSpec
    splits: Mapping[str, Rows]
    expected: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A registered data set.

    where: how a person gets it, from whom, and the layout expected; it ends the error when files are missing.
    archives: what `--download` fetches; none where the set must be had by hand.
    """

    name: str
    load: Callable[[Request], Dataset]
    where: str
    options: tuple[Option, ...] = ()
    archives: tuple[Archive, ...] = ()

    def request(
        self, raw: Path | None = None, download: bool = False, mirror: str | None = None, **options: Any
    ) -> Request:
        """A Request with this source's defaults filled in; option names use underscores."""
        defaults = {option.name.replace("-", "_"): option.default for option in self.options}
        unknown = set(options) - set(defaults)
        if unknown:
            raise TypeError(f"source {self.name} has no option {sorted(unknown)}; it has {sorted(defaults)}")
        return Request(raw, download, {**defaults, **options}, mirror)


SOURCES: Registry[Source] = Registry("dataset")


def register_source(
    name: str, summary: str, where: str, options: tuple[Option, ...] = (), archives: tuple[Archive, ...] = ()
) -> Callable[[Callable[[Request], Dataset]], Callable[[Request], Dataset]]:
    """Decorator that registers `load(request) -> Dataset` under `name`."""

    def decorate(load: Callable[[Request], Dataset]) -> Callable[[Request], Dataset]:
        SOURCES.add(name, Source(name, load, where, options, archives), summary)
        return load

    return decorate
