"""The flags of `write-betons`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from debeton.data.beton.ffcv_format import WRITE_MODES
from debeton.data.sources import SOURCES, Source
from debeton.system import plugins
from debeton.system.errors import UsageError, nearest

if TYPE_CHECKING:
    from debeton.data.beton.writer import WriteOptions


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


def make_parser(
    source: Source | None, description: str, add_further: Callable[[argparse.ArgumentParser], None] | None = None
) -> Parser:
    """Return the parser of the command, with the options of the chosen data set if there is one.

    add_further: adds the flags of another use of the command.
    """
    parser = Parser(description=description)
    add = parser.add_argument
    add("--list", action="store_true", help="print the data sets, one a line, and stop")
    add("--dataset", metavar="NAME", help="which data set; with --help shows its own options")
    add("--raw", type=Path, metavar="DIR", help="folder (or archive) with the files as their owners publish them")
    add("--out", type=Path, metavar="DIR", help="folder for DATASET_SPLIT.beton and the sidecars; of --merge the beton")
    add("--splits", metavar="A,B", help="write only these splits")
    add(
        "--test-fraction",
        type=float,
        metavar="F",
        help="share of every group of train that becomes the split test, where there is none; always the same rows",
    )
    add("--download", action="store_true", help="fetch what is missing into --raw, or say how a person gets it")
    add("--mirror", metavar="URL", help="with --download: a copy of the raw folder to fetch from, not the owners")
    add("--synthetic", type=Path, metavar="DIR", help="generated images to add to the training split, with source 1")
    add("--severity", type=int, default=0, metavar="S", help="corrupt the generated images, 1 to 5 (default: 0, not)")
    add("--like", type=Path, metavar="BETON", help="write --synthetic as a beton of its own, named like this one")
    add("--merge", type=Path, nargs="+", metavar="BETON", help="copy these betons into one, without a second encode")
    add(
        "--adopt",
        type=Path,
        metavar="BETON",
        help="give a beton that you wrote with FFCV a sidecar; see --adopt X --help",
    )
    add(
        "--verify",
        type=Path,
        nargs="+",
        metavar="BETON",
        help="compare every image, table and column of these betons with what was written, and list all damage",
    )
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
    if add_further is not None:
        add_further(parser)
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


def write_options(args: argparse.Namespace) -> WriteOptions:
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
