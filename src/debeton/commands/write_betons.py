"""Betons of a data set, one per split, with their sidecars.

    debeton write-betons --list
    debeton write-betons --dataset dominoes --help
    debeton write-betons --dataset dominoes --raw DIR --check
    debeton write-betons --dataset dominoes --raw DIR --out BETONS --spurious-strength 0.95
    debeton write-betons --dataset celeba_hq --raw DIR --out BETONS --synthetic GENERATED
    debeton write-betons --like BETONS/celeba_hq_train.beton --synthetic GENERATED --out BETONS
    debeton write-betons --merge A.beton B.beton --out BOTH.beton
    debeton write-betons --adopt MINE_train.beton --label y --attribute place
    debeton write-betons --verify A.beton B.beton

Exit status: 0 done, 1 something is wrong with the data, 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from debeton.commands.adopt import add_adopt_flags, adopt
from debeton.commands.next_command import next_command
from debeton.commands.write_options import Parser, make_parser, write_options
from debeton.data.left_out import describe_left_out
from debeton.data.raw.check import check_set, check_split, count_differences, missing_files
from debeton.data.raw.corruptions import corrupt_rows
from debeton.data.raw.fetch import fetch, unfinished_files_note
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.synthetic_images import append_synthetic, read_synthetic_rows, synthetic_left_out
from debeton.data.sources import SOURCES, Dataset, Request, Source
from debeton.data.spec import UNKNOWN_NAME, DatasetSpec, Rows
from debeton.data.split_names import KNOWN, beton_name, refuse_unknown_splits, unknown_splits
from debeton.data.views.held_out_test import with_test_split
from debeton.system import plugins
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import set_up_logging

MAX_SHOWN = 24  # groups that the final line spells out


def main(argv: Sequence[str]) -> int:
    """Write, merge, check or list betons, as the words of the command say; return the exit status."""
    plugins.use_plugins(argv)
    first = Parser(add_help=False)
    first.add_argument("--dataset")
    first.add_argument("--adopt")
    known = first.parse_known_args(argv)[0]
    source = SOURCES.get(known.dataset) if known.dataset else None
    adopting = known.adopt is not None and source is None  # a source may have flags of the same names
    args = make_parser(source, str(__doc__), add_adopt_flags if adopting else None).parse_strictly(argv)
    set_up_logging(is_main=True)
    if args.list:
        width = max(map(len, SOURCES.names()))
        print("\n".join(f"{entry.name:{width}}  {entry.summary}" for entry in SOURCES))
        return 0
    if args.num_workers < 0:
        raise UsageError(f"--num-workers {args.num_workers} is negative; 0 is one per core")
    if args.verify is not None:
        return verify(args)
    if args.adopt is not None:
        return adopt(args)
    if args.out is None and not args.check:
        raise UsageError("--out is missing, the folder to write to; or pass --check to write nothing")
    if args.merge:
        return merge(args)
    if args.like:
        dataset, options = generated_dataset(args), {}
    elif source is None:
        raise UsageError(f"--dataset is missing; known: {', '.join(SOURCES.names())}")
    else:
        options = {key: getattr(args, key) for key in (option.name.replace("-", "_") for option in source.options)}
        dataset = load(source, args, options)
    if args.test_fraction is not None:
        if source is None:
            raise UsageError("--test-fraction takes rows of a data set's train; name the data set with --dataset")
        dataset = replace(dataset, splits=with_test_split(dataset.spec, dataset.splits, args.test_fraction))
        options = {**options, "test_fraction": args.test_fraction}
    if args.severity:
        if args.synthetic is None:
            raise UsageError("--severity corrupts generated images, and there are none; name them with --synthetic DIR")
        options = {**options, "severity": args.severity}
    dataset = replace(dataset, splits=choose_splits(args.splits, dataset))
    if args.check:
        return check(dataset, args)
    refuse_unknown_splits(dataset.splits, dataset.spec.name, named=args.splits is not None)
    write(dataset, args, options)
    following = next_command(source.name, dataset.spec, args.out) if source is not None else None
    if following is not None:
        print("\n".join(following.lines()))
    return 0


def load(source: Source, args: argparse.Namespace, options: Mapping[str, Any]) -> Dataset:
    """Return the data set that the command names, with the synthetic rows in its training split.

    With --download it is fetched first where files are missing.
    """
    request = source.request(args.raw, args.download, args.mirror, **options)
    try:
        dataset = load_raw(source, request)
        whole = not args.download or not any(missing_files(rows) for rows in dataset.splits.values())
    except DataError as error:
        if not args.download:
            raise type(error)(f"{error}{_note(source, args.raw)}") from None
        if not source.archives:
            raise type(error)(f"{source.name} has no file that may be fetched from here; by hand: {error}") from None
        whole = False
    if not whole and source.archives:
        if args.raw is None:
            raise UsageError("--download needs --raw, the folder to fetch into")
        fetch(source.archives, args.raw, mirror=args.mirror, progress=sys.stderr.isatty())
        dataset = load_raw(source, request)
    if dataset.left_out is None:
        dataset = replace(dataset, left_out=files_beside_rows(dataset.splits))
    if not args.synthetic:
        return dataset
    if "train" not in dataset.splits:
        raise UsageError(f"--synthetic adds to the split 'train', and {source.name} has {', '.join(dataset.splits)}")
    synthetic = synthetic_rows(args, dataset.spec)
    train = append_synthetic(dataset.splits["train"], synthetic)
    left = (*(dataset.left_out or ()), *synthetic_left_out(args.synthetic, synthetic))
    return replace(dataset, splits={**dataset.splits, "train": train}, left_out=left)


def load_raw(source: Source, request: Request) -> Dataset:
    """Return the data set as its source reads it; MissingDataError where the folder --raw does not exist."""
    if request.raw is not None and not request.raw.exists():
        raise MissingDataError(f"--raw {request.raw} does not exist; {source.where}")
    return source.read(request)


def _note(source: Source, raw: Path | None) -> str:
    """Return the end of a message: the files in the raw folder that are unfinished or still packed."""
    note = unfinished_files_note(source.archives, raw) if raw is not None else ""
    return f"; {note}" if note else ""


def generated_dataset(args: argparse.Namespace) -> Dataset:
    """Return the synthetic images as a data set of their own, with the names of the beton --like."""
    from debeton.data.beton.sidecar import read_sidecar

    if args.synthetic is None:
        raise UsageError("--like names a beton whose classes generated images share; --synthetic DIR names the images")
    if args.dataset:
        raise UsageError("--like takes the place of --dataset; without it --synthetic adds to the training split")
    if not args.like.exists():
        raise DataError(f"--like {args.like} does not exist; it names a beton written before")
    spec = DatasetSpec.from_dict(read_sidecar(args.like)["spec"])
    rows = synthetic_rows(args, spec)
    return Dataset(spec, {"synthetic": rows}, left_out=synthetic_left_out(args.synthetic, rows))


def synthetic_rows(args: argparse.Namespace, spec: DatasetSpec) -> Rows:
    """Return the rows of the synthetic images of --synthetic, corrupt_rows with --severity."""
    rows = read_synthetic_rows(args.synthetic, spec)
    return corrupt_rows(rows, args.severity) if args.severity else rows


def merge(args: argparse.Namespace) -> int:
    """Copy the betons of --merge into the one that --out names."""
    from debeton.data.beton.merge import merge_betons  # imports torch and numba
    from debeton.data.beton.treatment import describe_treatments

    if args.out is None or args.out.suffix != ".beton":
        raise UsageError(f"--merge needs --out FILE.beton; {args.out or 'nothing'} was given")
    sidecar = merge_betons(args.merge, args.out, "train", progress=sys.stderr.isatty())
    stored, counts = describe_treatments(sidecar["image"]["stored"]), _shown(sidecar["group_counts"])
    print(f"{args.out}: {sidecar['n']} rows, {args.out.stat().st_size / 1e6:.1f} MB; {stored}; {counts}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compare the betons of --verify with what was written; print what is found; return 1 for any damage."""
    from debeton.data.beton.verify import verify_beton

    for flag in ("dataset", "raw", "out", "merge", "adopt", "like", "synthetic", "check"):
        if getattr(args, flag):
            raise UsageError(f"--verify reads betons and writes nothing; leave --{flag} out")
    damaged = 0
    for path in args.verify:
        found = verify_beton(path, progress=sys.stderr.isatty())
        print("\n".join(found.lines()))
        damaged += not found.is_whole
    return 1 if damaged else 0


def choose_splits(text: str | None, dataset: Dataset) -> dict[str, Rows]:
    """Return the splits named in 'a,b', or all without a text; UsageError names the first unknown one."""
    wanted = list(dict.fromkeys(part.strip() for part in text.split(","))) if text is not None else list(dataset.splits)
    for name in wanted:
        if name not in dataset.splits:
            raise UsageError(
                f"{dataset.spec.name} has no split '{name}'{nearest(name, dataset.splits)} "
                f"known: {', '.join(dataset.splits)}"
            )
    return {name: dataset.splits[name] for name in wanted}


def check(dataset: Dataset, args: argparse.Namespace) -> int:
    """Print the content of every split, its missing files and its faults; return 1 if there is any fault."""
    problems = 0
    for split, rows in dataset.splits.items():
        expected = dataset.expected.get(split)
        lines, split_problems = check_split(
            split, dataset.spec, rows, expected, args.num_workers, sys.stderr.isatty(), write_options(args)
        )
        print("\n".join(lines))
        problems += split_problems
    lines, set_problems = check_set(dataset, args.num_workers)
    print("\n".join(lines))
    return 1 if problems + set_problems else 0


def write(dataset: Dataset, args: argparse.Namespace, options: Mapping[str, Any]) -> None:
    """Write every split and print one line for each; warn on stderr where counts differ from published ones."""
    from debeton.data.beton.treatment import describe_treatments
    from debeton.data.beton.writer import write_beton  # imports torch and numba

    how = write_options(args)
    report(dataset)
    recorded = {key: value for key, value in options.items() if value is not None and _is_plain(value)}
    spec = dataset.spec
    for split, rows in dataset.splits.items():
        path = args.out / beton_name(spec.name, split)
        if split in dataset.expected and (differing := count_differences(spec, rows, dataset.expected[split])):
            print(f"warning: {spec.name}/{split}: {differing[0]}; see --check", file=sys.stderr)
        sidecar = write_beton(
            path,
            rows,
            spec,
            split,
            how,
            dataset_options=recorded,
            left_out=dataset.left_out or (),
            progress=sys.stderr.isatty(),
        )
        counts = _shown(sidecar["group_counts"])
        skipped = f", {len(sidecar['skipped'])} skipped" if sidecar["skipped"] else ""
        stored = describe_treatments(sidecar["image"]["stored"])
        print(f"{path}: {sidecar['n']} rows{skipped}, {path.stat().st_size / 1e6:.1f} MB; {stored}; {counts}")


def report(dataset: Dataset) -> None:
    """Print how the files were understood, and on stderr what is left out and which betons training will not use."""
    name = dataset.spec.name
    for note in dataset.notes:
        print(f"{name}: {note}")
    for line in describe_left_out(dataset.left_out or ()):
        print(f"{name}: {line}", file=sys.stderr)
    for split in unknown_splits(dataset.splits):
        file = beton_name(name, split)
        print(
            f"warning: training does not look for {file} (known splits: {KNOWN}); name it in a setting, "
            f"such as --data.test_path {shlex.quote(file)}",
            file=sys.stderr,
        )


def _shown(group_counts: Mapping[str, int]) -> str:
    """Return the counts by name, or their range where there are more than MAX_SHOWN; the sidecar has them all."""
    if len(group_counts) <= MAX_SHOWN:
        return " · ".join(f"{name} {count}" for name, count in group_counts.items())
    unknown = sum(count for name, count in group_counts.items() if name.endswith(UNKNOWN_NAME))
    group_counts = {name: count for name, count in group_counts.items() if not name.endswith(UNKNOWN_NAME)}
    smallest, largest = (pick(group_counts, key=lambda name: group_counts[name]) for pick in (min, max))
    return (
        f"{len(group_counts)} groups of {group_counts[smallest]} ({smallest}) "
        f"to {group_counts[largest]} ({largest}) rows{f'; {UNKNOWN_NAME} in {unknown} rows' if unknown else ''}"
    )


def _is_plain(value: Any) -> bool:
    """Return True for a value that the sidecar records: JSON, and no path of this machine."""
    return not isinstance(value, Path) and isinstance(value, bool | int | float | str | list | dict)
