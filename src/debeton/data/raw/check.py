"""What `--check` says of a split before anything is written: counts, what is missing, what cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from debeton.data.spec import DatasetSpec, Ints, Rows

MAX_SHOWN = 20  # missing or broken files that are named, of each kind


def describe_counts(spec: DatasetSpec, rows: Rows) -> Iterator[str]:
    """Lines with the rows by class and group, and the bias-aligned share."""
    yield f"  classes: {_counts(spec.classes, rows.label)}"
    if len(spec.attributes) > 1:
        yield f"  groups: {_counts(spec.group_names, spec.group(rows.label, rows.attribute))}"
    aligned = spec.is_aligned(rows.label, rows.attribute)
    if aligned is not None and len(aligned):
        yield f"  bias-aligned: {int(aligned.sum())} ({aligned.mean():.2%})"


def _counts(names: Sequence[str], codes: Ints) -> str:
    counts = np.bincount(codes, minlength=len(names))
    return " · ".join(f"{name} {count}" for name, count in zip(names, counts) if count)


def differences(spec: DatasetSpec, rows: Rows, expected: int | Sequence[int]) -> list[str]:
    """Sentences on where the rows differ from the published counts, of the split or of each group; [] where nowhere.

    Synthetic rows are not counted.
    """
    real = np.ones(len(rows), bool) if rows.source is None else rows.source == 0
    total = expected if isinstance(expected, int) else sum(expected)
    found = int(real.sum())
    said = [f"{found} rows, its owners count {total}"] if found != total else []
    if not isinstance(expected, int):
        counts = np.bincount(spec.group(rows.label, rows.attribute)[real], minlength=spec.num_groups)
        pairs = zip(spec.group_names, counts, expected, strict=True)
        said += [f"{name}: {count} rows, expected {wanted}" for name, count, wanted in pairs if count != wanted]
    return said


def missing_files(rows: Rows) -> list[str]:
    """Names of the rows whose file is not there."""
    return [] if rows.absent is None else [rows.names[row] for row in rows.absent()]


def at_most(lines: Sequence[str]) -> Iterator[str]:
    """The first lines, indented, and how many more there are."""
    yield from (f"    {line}" for line in lines[:MAX_SHOWN])
    if len(lines) > MAX_SHOWN:
        yield f"    and {len(lines) - MAX_SHOWN} more"


def check_split(
    split: str, spec: DatasetSpec, rows: Rows, expected: int | Sequence[int] | None, num_workers: int, progress: bool
) -> tuple[list[str], int]:
    """(lines, number of problems) of one split; decodes every image that is there."""
    from debeton.data.beton.writer import verify_rows  # imports torch and numba

    lines = [f"{spec.name}/{split}: {len(rows)} rows", *describe_counts(spec, rows)]
    differing = [] if expected is None else differences(spec, rows, expected)
    if differing:
        lines += ["  counts differ from those published:", *at_most(differing)]
    missing = missing_files(rows)
    if missing:
        lines += [f"  {len(missing)} of {len(rows)} files are missing:", *at_most(missing)]
    absent = set(missing)
    bad = [pair for pair in verify_rows(rows, num_workers, progress) if rows.names[pair[0]] not in absent]
    if bad:
        lines += [f"  {len(bad)} of {len(rows)} images cannot be decoded:"]
        lines += at_most([f"row {row}: {rows.names[row]} {what}" for row, what in bad])
    elif len(missing) < len(rows):
        lines.append("  every image decodes" if not missing else "  every image that is there decodes")
    return lines, len(differing) + len(missing) + len(bad)
