"""The report of `--check` on a split before anything is written: counts, missing files and broken images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from debeton.data.left_out import describe_left_out
from debeton.data.raw.shared_images import shared_images
from debeton.data.raw.source import Dataset
from debeton.data.spec import DatasetSpec, Ints, Rows, count_codes
from debeton.data.split_names import KNOWN, unknown_splits

if TYPE_CHECKING:
    from debeton.data.beton.writer import WriteOptions

MAX_SHOWN = 20  # missing files, and broken files, that are named


def describe_counts(spec: DatasetSpec, rows: Rows) -> Iterator[str]:
    """Yield lines with the number of rows by class and by group, and the share of bias-aligned rows."""
    yield f"  classes: {_counts(spec.classes, rows.label)}"
    if len(spec.attributes) > 1:
        strata = spec.stratum(rows.label, spec.group(rows.label, rows.attribute))
        yield f"  groups: {_counts(spec.stratum_names, strata)}"
    bias = spec.bias_of(rows.label, rows.attribute)
    if bias is not None and len(rows):
        aligned, known = int(bias[0].sum()), int((rows.attribute >= 0).sum())
        of_known = "" if known == len(rows) else f" of the {known} rows whose attribute is known"
        yield f"  bias-aligned: {aligned} ({aligned / known:.2%}{of_known})" if known else "  bias-aligned: unknown"


def _counts(names: Sequence[str], codes: Ints) -> str:
    """Return 'name count' of every code that occurs, joined by dots."""
    counts = np.bincount(codes, minlength=len(names))
    return " · ".join(f"{name} {count}" for name, count in zip(names, counts) if count)


def count_differences(spec: DatasetSpec, rows: Rows, expected: int | Sequence[int]) -> list[str]:
    """Return sentences that name the differences between the rows and the published counts; [] if there is none.

    Synthetic rows are not counted.

    expected: the rows of the split, or the rows of each group in group order.
    """
    real = np.ones(len(rows), bool) if rows.source is None else rows.source == 0
    total = expected if isinstance(expected, int) else sum(expected)
    num_rows = int(real.sum())
    sentences = [f"{num_rows} rows, its owners count {total}"] if num_rows != total else []
    if not isinstance(expected, int):
        counts = count_codes(spec.group(rows.label, rows.attribute)[real], spec.num_groups)
        pairs = zip(spec.group_names, counts, expected, strict=True)
        sentences += [f"{name}: {count} rows, expected {wanted}" for name, count, wanted in pairs if count != wanted]
    return sentences


def missing_files(rows: Rows) -> list[str]:
    """Return the names of the rows whose file is missing."""
    return [] if rows.absent is None else [rows.names[row] for row in rows.absent()]


def first_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield the first lines, indented, and the number of the remaining ones."""
    yield from (f"    {line}" for line in lines[:MAX_SHOWN])
    if len(lines) > MAX_SHOWN:
        yield f"    and {len(lines) - MAX_SHOWN} more"


def check_split(
    split: str,
    spec: DatasetSpec,
    rows: Rows,
    expected: int | Sequence[int] | None,
    num_workers: int,
    progress: bool,
    options: WriteOptions | None = None,
) -> tuple[list[str], int]:
    """Check one split and return (lines of the report, number of problems). Every image whose file exists is decoded.

    expected: published rows of the split, or of each group; None if nothing is published.
    num_workers: decoding threads, 0 for all cores.
    progress: whether to draw a progress bar.
    options: the way in which the images are to be stored, which bounds their size; None is the default.
    """
    from debeton.data.beton.writer import WriteOptions, verify_rows  # imports torch and numba

    lines = [f"{spec.name}/{split}: {len(rows)} rows", *describe_counts(spec, rows)]
    differing = [] if expected is None else count_differences(spec, rows, expected)
    if differing:
        lines += ["  counts differ from those published:", *first_lines(differing)]
    missing = missing_files(rows)
    if missing:
        lines += [f"  {len(missing)} of {len(rows)} files are missing:", *first_lines(missing)]
    absent = set(missing)
    problems = verify_rows(rows, num_workers, progress, options or WriteOptions())
    bad = [(row, problem) for row, problem in problems if rows.names[row] not in absent]
    if bad:
        lines += [f"  {len(bad)} of {len(rows)} images cannot be decoded:"]
        lines += first_lines([f"row {row}: {rows.names[row]} {problem}" for row, problem in bad])
    elif len(missing) < len(rows):
        lines.append(f"  all {len(rows) - len(missing)} images{' that are there' if missing else ''} decode")
    return lines, len(differing) + len(missing) + len(bad)


def check_set(dataset: Dataset, num_workers: int) -> tuple[list[str], int]:
    """Check what concerns a set as a whole, and return (lines of the report, number of problems).

    These are files that are left out, images that are in two splits, and splits that training does not look for.

    num_workers: reading threads, 0 for all cores.
    """
    entries = dataset.left_out or ()
    shared = shared_images(dataset.splits, num_workers)
    unknown = [
        f"'{split}' is no split that training looks for; known: {KNOWN}" for split in unknown_splits(dataset.splits)
    ]
    lines = [*dataset.notes, *unknown, *describe_left_out(entries), *shared]
    if len(dataset.splits) > 1 and not shared:
        lines.append("no image is in two splits, by the bytes of the files")
    return [f"{dataset.spec.name}: {lines[0]}", *(f"  {line}" for line in lines[1:])] if lines else [], (
        sum(entry.fault for entry in entries) + len(shared) + len(unknown)
    )
