"""Betons of a data set, one per split, with their sidecars.

    debeton write-betons --list
    debeton write-betons --dataset dominoes --help
    debeton write-betons --dataset dominoes --raw DIR --check
    debeton write-betons --dataset dominoes --raw DIR --out BETONS --spurious-strength 0.95
    debeton write-betons --dataset celeba_hq --raw DIR --out BETONS --synthetic GENERATED
    debeton write-betons --like BETONS/celeba_hq_train.beton --synthetic GENERATED --out BETONS
    debeton write-betons --merge A.beton B.beton --out BOTH.beton

Exit status: 0 done, 1 something is wrong with the data, 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from debeton.data.beton.ffcv_format import WRITE_MODES
from debeton.data.left_out import describe_left_out
from debeton.data.raw.check import check_set, check_split, count_differences, missing_files
from debeton.data.raw.corruptions import corrupt_rows
from debeton.data.raw.fetch import fetch, unfinished_files_note
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.synthetic_images import append_synthetic, read_synthetic_rows, synthetic_left_out
from debeton.data.sources import SOURCES, Dataset, Request, Source
from debeton.data.spec import UNKNOWN_NAME, DatasetSpec, Rows
from debeton.data.split_names import KNOWN, refuse_unknown_splits, unknown_splits
from debeton.system import plugins
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import set_up_logging

if TYPE_CHECKING:
    from debeton.data.beton.writer import WriteOptions

MAX_SHOWN = 24  # groups that the final line spells out


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, takes no abbreviations and suggests the nearest flag."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments; UsageError names the first unknown one and the closest known one."""
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
    """Return the parser of the command, with the options of the chosen data set if there is one."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="print the data sets, one a line, and stop")
    add("--dataset", metavar="NAME", help="which data set; with --help shows its own options")
    add("--raw", type=Path, metavar="DIR", help="folder (or archive) with the files as their owners publish them")
    add("--out", type=Path, metavar="DIR", help="folder for DATASET_SPLIT.beton and the sidecars; of --merge the beton")
    add("--splits", metavar="A,B", help="write only these splits")
    add("--download", action="store_true", help="fetch what is missing into --raw, or say how a person gets it")
    add("--mirror", metavar="URL", help="with --download: a copy of the raw folder to fetch from, not the owners")
    add("--synthetic", type=Path, metavar="DIR", help="generated images to add to the training split, with source 1")
    add("--severity", type=int, default=0, metavar="S", help="corrupt the generated images, 1 to 5 (default: 0, not)")
    add("--like", type=Path, metavar="BETON", help="write --synthetic as a beton of its own, named like this one")
    add("--merge", type=Path, nargs="+", metavar="BETON", help="copy these betons into one, without a second encode")
    add("--check", action="store_true", help="say what is missing, differs in count or does not decode; write nothing")
    add("--skip-bad", action="store_true", help="leave out images that cannot be decoded instead of stopping")
    add(
        "--shuffle-seed",
        type=int,
        metavar="N",
        help="store the rows in a random sequence (default: as they are listed)",
    )
    _add_image_options(parser)
    add("--compress-probability", type=float, default=0.5, help="share stored as JPEG in proportion mode (default: .5)")
    add("--num-workers", type=int, default=0, help="encoding threads; 0, the default, is one per core")
    plugins.add_argument(parser)
    if source is not None:
        group = parser.add_argument_group(f"options of {source.name}")
        for option in source.options:
            switch = option.type is bool
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if switch else {"type": option.type}
            shown = "" if option.default in (None, "") or switch else f" (default: {option.default})"
            group.add_argument(f"--{option.name}", default=option.default, help=option.help + shown, **how)
    return parser


def _add_image_options(parser: Parser) -> None:
    """Add the flags that decide how an image is stored. Numbers are those of images.py, whose import takes long."""
    add = parser.add_argument
    add(
        "--mode",
        type=_mode,
        default="auto",
        help="auto, the default: JPEG files as they are; other images as raw pixels, without loss, 3 bytes a pixel, up "
        "to --raw-pixels, and larger ones as JPEG. jpg, raw: all images so. proportion: a random share as JPEG",
    )
    add(
        "--raw-pixels",
        type=int,
        default=65_536,
        metavar="N",
        help="pixels of the largest raw image of --mode auto (default: 65536, as 256 x 256)",
    )
    add(
        "--quality",
        type=int,
        help="of JPEGs that are made, 1 to 100 (default: 90 for a JPEG that must be changed, else 95)",
    )
    add(
        "--chroma",
        help="colours of JPEGs that are made: 4:4:4, whole; 4:2:0, half of each side (default: 4:2:0 for a JPEG that "
        "has it, else 4:4:4)",
    )
    add(
        "--max-resolution",
        type=int,
        metavar="PIXELS",
        help="shrink images whose longer side is longer than this; they are encoded anew",
    )
    add(
        "--max-pixels",
        type=int,
        default=89_478_485,
        metavar="N",
        help="refuse larger images, except JPEGs with --max-resolution, which are decoded at a coarser scale (default: "
        "89478485; each encoding thread needs up to 12 bytes a pixel of memory)",
    )


def _mode(text: str) -> str:
    if text not in WRITE_MODES:
        raise argparse.ArgumentTypeError(
            f"unknown mode '{text}'{nearest(text, WRITE_MODES)} known: {', '.join(WRITE_MODES)}"
        )
    return text


def main(argv: Sequence[str]) -> int:
    """Write, merge, check or list betons, as the words of the command say; return the exit status."""
    plugins.use_plugins(argv)
    first = Parser(add_help=False)
    first.add_argument("--dataset")
    name = first.parse_known_args(argv)[0].dataset
    source = SOURCES.get(name) if name else None
    args = make_parser(source).parse_strictly(argv)
    set_up_logging(is_main=True)
    if args.list:
        width = max(map(len, SOURCES.names()))
        print("\n".join(f"{entry.name:{width}}  {entry.summary}" for entry in SOURCES))
        return 0
    if args.num_workers < 0:
        raise UsageError(f"--num-workers {args.num_workers} is negative; 0 is one per core")
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
    if args.severity:
        if args.synthetic is None:
            raise UsageError("--severity corrupts generated images, and there are none; name them with --synthetic DIR")
        options = {**options, "severity": args.severity}
    dataset = replace(dataset, splits=choose_splits(args.splits, dataset))
    if args.check:
        return check(dataset, args)
    refuse_unknown_splits(dataset.splits, dataset.spec.name, named=args.splits is not None)
    return write(dataset, args, options)


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
    return source.load(request)


def _note(source: Source, raw: Path | None) -> str:
    """Return the end of a message: the files in the raw folder that are unfinished or still packed."""
    note = unfinished_files_note(source.archives, raw) if raw is not None else ""
    return f"; {note}" if note else ""


def generated_dataset(args: argparse.Namespace) -> Dataset:
    """Return the synthetic images as a data set of their own, with the names of the beton --like."""
    from debeton.data.beton.reading import read_sidecar

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
            split, dataset.spec, rows, expected, args.num_workers, sys.stderr.isatty(), _write_options(args)
        )
        print("\n".join(lines))
        problems += split_problems
    lines, set_problems = check_set(dataset, args.num_workers)
    print("\n".join(lines))
    return 1 if problems + set_problems else 0


def write(dataset: Dataset, args: argparse.Namespace, options: Mapping[str, Any]) -> int:
    """Write every split and print one line for each; warn on stderr where counts differ from published ones."""
    from debeton.data.beton.treatment import describe_treatments
    from debeton.data.beton.writer import write_beton  # imports torch and numba

    how = _write_options(args)
    report(dataset)
    recorded = {key: value for key, value in options.items() if value is not None and _is_plain(value)}
    spec = dataset.spec
    for split, rows in dataset.splits.items():
        path = args.out / f"{spec.name}_{split}.beton"
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
    return 0


def report(dataset: Dataset) -> None:
    """Print how the files were understood, and on stderr what is left out and which betons training will not use."""
    name = dataset.spec.name
    for note in dataset.notes:
        print(f"{name}: {note}")
    for line in describe_left_out(dataset.left_out or ()):
        print(f"{name}: {line}", file=sys.stderr)
    for split in unknown_splits(dataset.splits):
        print(
            f"warning: training does not look for {name}_{split}.beton (known splits: {KNOWN}); name it in a setting, "
            f"such as --data.test_path {name}_{split}.beton",
            file=sys.stderr,
        )


def _write_options(args: argparse.Namespace) -> WriteOptions:
    """Return the way in which the command stores images."""
    from debeton.data.beton.writer import WriteOptions  # imports torch and numba

    return WriteOptions(
        mode=args.mode,
        quality=args.quality,
        chroma=args.chroma,
        max_resolution=args.max_resolution,
        max_pixels=args.max_pixels,
        raw_pixels=args.raw_pixels,
        compress_probability=args.compress_probability,
        num_workers=args.num_workers,
        skip_bad=args.skip_bad,
        shuffle_seed=args.shuffle_seed,
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
