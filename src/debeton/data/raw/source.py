"""The interface of a data set, and the registry of all of them.

A source is a function `load(request) -> Dataset`. A new source is a new module in data/sources that calls
`register_source`. No other file names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from debeton.data.left_out import LeftOut
from debeton.data.raw.fetch import Archive, check_fetched
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.registry import Registry


@dataclass(frozen=True)
class Option:
    """A command-line option of a source: `--name VALUE`. Options of type bool are switches."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str


@dataclass(frozen=True)
class Request:
    """The request of the user.

    raw: the folder or archive with the files; None for the usual places.
    download: whether the sets that this one is made of may be fetched.
    options: values of the source's own options.
    mirror: an address to fetch from, instead of those of the owners.
    """

    raw: Path | None = None
    download: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    mirror: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The result of a source.

    spec: names and conventions of the data set.
    splits: rows by split name: 'train', 'val', 'test', further tests 'test_...'.
    expected: published counts by split: rows in all, or rows by group. They come from the owners, or from the papers
        that made the split. `--check` names the differences. A split that is not in it is not checked.
    left_out: what the source leaves out of the files that it read; None if it does not say. Then the other files in
        the folders of its images are counted.
    notes: sentences on how the files were understood, for the person who writes the set.
    """

    spec: DatasetSpec
    splits: Mapping[str, Rows]
    expected: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A registered data set.

    name: as on the command line.
    load: the function that reads it.
    where: how and from whom a person gets it, and the expected layout. It ends the error for missing files.
    options: its command-line options.
    archives: the files that `--download` fetches; none if the set must be fetched by hand.
    """

    name: str
    load: Callable[[Request], Dataset]
    where: str
    options: tuple[Option, ...] = ()
    archives: tuple[Archive, ...] = ()

    def request(
        self, raw: Path | None = None, download: bool = False, mirror: str | None = None, **options: Any
    ) -> Request:
        """Return a Request with the source's defaults filled in. Option names use underscores."""
        defaults = {option.name.replace("-", "_"): option.default for option in self.options}
        unknown = set(options) - set(defaults)
        if unknown:
            raise TypeError(f"source {self.name} has no option {sorted(unknown)}; it has {sorted(defaults)}")
        return Request(raw, download, {**defaults, **options}, mirror)

    def read(self, request: Request) -> Dataset:
        """Return the data set as `load` reads it, after its fetched files were compared with their hashes."""
        if request.raw is not None:
            check_fetched(self.archives, request.raw)
        return self.load(request)


SOURCES: Registry[Source] = Registry("dataset")


def register_source(
    name: str, summary: str, where: str, options: tuple[Option, ...] = (), archives: tuple[Archive, ...] = ()
) -> Callable[[Callable[[Request], Dataset]], Callable[[Request], Dataset]]:
    """Return a decorator that registers `load(request) -> Dataset`.

    name: as on the command line.
    summary: one line for `--list`.
    where: how a person gets the set.
    options: its command-line options.
    archives: the files that `--download` fetches.
    """

    def decorate(load: Callable[[Request], Dataset]) -> Callable[[Request], Dataset]:
        SOURCES.add(name, Source(name, load, where, options, archives), summary)
        return load

    return decorate
