#!/usr/bin/env python
"""Write a data set as betons, one per split, with their sidecars.

    python writers/write_betons.py --list
    python writers/write_betons.py --dataset dominoes --help
    python writers/write_betons.py --dataset dominoes --raw DIR --check
    python writers/write_betons.py --dataset dominoes --raw DIR --out BETONS --spurious-strength 0.95

Exit status: 0 done, 1 something is wrong with the data, 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np

from debeton.data.ffcv_format import WRITE_MODES
from debeton.data.sources import SOURCES, Dataset, Source
from debeton.data.spec import DatasetSpec, Rows
from debeton.errors import DataError, UsageError, nearest, run_command

MAX_SHOWN = 24  # groups that the final line spells out


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, takes no abbreviations and suggests the nearest flag."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments; UsageError names the first one that is not known and the closest that is."""
        args, left = self.parse_known_args(argv)
        if not left:
            return args
        flag = left[0].split("=")[0]
        if not flag.startswith("-"):
            raise UsageError(f"unexpected argument '{flag}'; every value follows a flag, see --help")
        owners = [entry.name for entry in SOURCES for option in entry.value.options if f"--{option.name}" == flag]
        if owners:
            raise UsageError(f"{flag} is an option of --dataset {' and '.join(owners)}, not of the one chosen")
        raise UsageError(f"unknown flag '{flag}'{nearest(flag, self._option_string_actions)} see --help")


def make_parser(source: Source | None) -> Parser:
    """The command line; with a data set chosen, its own options too."""
    parser = Parser(prog="write_betons.py", description=__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="print the data sets, one a line, and stop")
    add("--dataset", metavar="NAME", help="which data set; with --help shows its own options")
    add("--raw", type=Path, metavar="DIR", help="folder (or archive) with the files as their owners publish them")
    add("--out", type=Path, metavar="DIR", help="folder for DATASET_SPLIT.beton and the sidecars; made if need be")
    add("--splits", metavar="A,B", help="write only these splits")
    add("--download", action="store_true", help="fetch the files into --raw where they are missing and free to fetch")
    add("--check", action="store_true", help="read everything, count, decode every image, write nothing")
    add("--skip-bad", action="store_true", help="leave out images that cannot be decoded instead of stopping")
    add("--mode", type=_mode, default="jpg", help="how images are stored: jpg, raw or proportion (default: jpg)")
    add("--quality", type=int, default=90, help="of JPEG, 1 to 100 (default: 90)")
    add("--max-resolution", type=int, metavar="PIXELS", help="shrink images whose longer side is longer than this")
    add("--compress-probability", type=float, default=0.5, help="share stored as JPEG in proportion mode (default: .5)")
    add("--num-workers", type=int, default=0, help="encoding threads; 0, the default, is one per core")
    if source is not None:
        group = parser.add_argument_group(f"options of {source.name}")
        for option in source.options:
            switch = option.type is bool
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if switch else {"type": option.type}
            shown = "" if option.default in (None, "") or switch else f" (default: {option.default})"
            group.add_argument(f"--{option.name}", default=option.default, help=option.help + shown, **how)
    return parser


def _mode(text: str) -> str:
    if text not in WRITE_MODES:
        raise argparse.ArgumentTypeError(
            f"unknown mode '{text}'{nearest(text, WRITE_MODES)} known: {', '.join(WRITE_MODES)}"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    first = Parser(add_help=False)
    first.add_argument("--dataset")
    name = first.parse_known_args(argv)[0].dataset
    source = SOURCES.get(name) if name else None
    args = make_parser(source).parse_strictly(argv)
    if args.list:
        width = max(map(len, SOURCES.names()))
        print("\n".join(f"{entry.name:{width}}  {entry.summary}" for entry in SOURCES))
        return 0
    if source is None:
        raise UsageError(f"--dataset is missing; known: {', '.join(SOURCES.names())}")
    if args.out is None and not args.check:
        raise UsageError("--out is missing, the folder to write to; or pass --check to write nothing")
    if args.num_workers < 0:
        raise UsageError(f"--num-workers {args.num_workers} is negative; 0 is one per core")
    if args.raw is not None and not args.raw.exists() and not args.download:
        raise DataError(f"--raw {args.raw} does not exist; {source.where}")
    options = {key: getattr(args, key) for key in (option.name.replace("-", "_") for option in source.options)}
    dataset = source.load(source.request(args.raw, args.download, **options))
    splits = choose_splits(args.splits, dataset)
    return check(dataset.spec, splits, args) if args.check else write(dataset.spec, splits, args, options)


def choose_splits(text: str | None, dataset: Dataset) -> dict[str, Rows]:
    """The splits named in 'a,b', all without; UsageError names the first that does not exist."""
    wanted = list(dict.fromkeys(part.strip() for part in text.split(","))) if text is not None else list(dataset.splits)
    for name in wanted:
        if name not in dataset.splits:
            raise UsageError(
                f"{dataset.spec.name} has no split '{name}'{nearest(name, dataset.splits)} "
                f"known: {', '.join(dataset.splits)}"
            )
    return {name: dataset.splits[name] for name in wanted}


def check(spec: DatasetSpec, splits: Mapping[str, Rows], args: argparse.Namespace) -> int:
    """Print the counts of every split and decode every image; 1 when any cannot be decoded."""
    from debeton.data.writer import verify_rows  # imports torch and numba: --list and --help need neither

    problems = 0
    for split, rows in splits.items():
        group = spec.group(rows.label, rows.attribute)
        print(f"{spec.name}/{split}: {len(rows)} rows")
        print(f"  classes: {_counts(spec.classes, rows.label)}")
        if len(spec.attributes) > 1:
            print(f"  groups: {_counts(spec.group_names, group)}")
        aligned = spec.is_aligned(rows.label, rows.attribute)
        if aligned is not None:
            print(f"  bias-aligned: {int(aligned.sum())} ({aligned.mean():.2%})")
        bad = verify_rows(rows, args.num_workers, progress=sys.stderr.isatty())
        for row, what in bad:
            print(f"  row {row}: {rows.names[row]} {what}")
        print(f"  {len(bad)} of {len(rows)} images cannot be decoded" if bad else "  every image decodes")
        problems += len(bad)
    return 1 if problems else 0


def _counts(names: Sequence[str], codes: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    counts = np.bincount(codes, minlength=len(names))
    return " · ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True) if count)


def write(spec: DatasetSpec, splits: Mapping[str, Rows], args: argparse.Namespace, options: Mapping[str, Any]) -> int:
    """Write every split and print one line for each."""
    from debeton.data.writer import WriteOptions, write_beton  # imports torch and numba

    how = WriteOptions(
        mode=args.mode,
        quality=args.quality,
        max_resolution=args.max_resolution,
        compress_probability=args.compress_probability,
        num_workers=args.num_workers,
        skip_bad=args.skip_bad,
    )
    recorded = {key: value for key, value in options.items() if value is not None and _is_plain(value)}
    for split, rows in splits.items():
        path = args.out / f"{spec.name}_{split}.beton"
        sidecar = write_beton(path, rows, spec, split, how, dataset_options=recorded, progress=sys.stderr.isatty())
        counts = _shown(sidecar["group_counts"])
        skipped = f", {len(sidecar['skipped'])} skipped" if sidecar["skipped"] else ""
        print(f"{path}: {sidecar['n']} rows{skipped}, {path.stat().st_size / 1e6:.1f} MB; {counts}")
    return 0


def _shown(group_counts: Mapping[str, int]) -> str:
    """The counts by name, or their range where they would fill the screen; the sidecar has them all."""
    if len(group_counts) <= MAX_SHOWN:
        return " · ".join(f"{name} {count}" for name, count in group_counts.items())
    smallest, largest = (pick(group_counts, key=lambda name: group_counts[name]) for pick in (min, max))
    return (
        f"{len(group_counts)} groups of {group_counts[smallest]} ({smallest}) "
        f"to {group_counts[largest]} ({largest}) rows"
    )


def _is_plain(value: Any) -> bool:
    """Whether a value goes into the sidecar: JSON, and no path of this machine."""
    return not isinstance(value, Path) and isinstance(value, bool | int | float | str | list | dict)


if __name__ == "__main__":
    sys.exit(run_command(main))
