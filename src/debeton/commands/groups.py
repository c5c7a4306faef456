"""Find groups of the training rows without training on them, and print how good the groups are.

debeton groups --config-file dataset_configs/dominoes.yaml --groups.from jtt --out groups.csv

The words are those of 'debeton train'. The table has a line for each training row: path, label, attribute, group and
score. Train on it with --data.pseudo_groups groups.csv, or name the finder again: runs below the same training.outdir
share its network.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debeton.commands import train
from debeton.system.errors import UsageError
from debeton.system.project import find_preset

if TYPE_CHECKING:
    from debeton.config import Config

METHOD = ["--training.method", "groups"]


def parse(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the file of --out, and the words of the training command."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="copy the table to this CSV")
    parser.add_argument("--help", "-h", action="store_true", help="print this")
    args, rest = parser.parse_known_args(list(argv))
    if args.help:
        print(parser.format_help())
        raise SystemExit(0)
    if args.out is not None and args.out.is_dir():
        raise UsageError(f"--out {args.out} is a folder; expected the name of a CSV file")
    return args.out, [*rest, *METHOD]


def main(argv: Sequence[str]) -> int:
    """Find the groups, print their sizes, precision and recall, and return the exit status."""
    out, words = parse(argv)
    status = train.main(words)
    arguments, overrides = train.parse(words)
    if status or arguments.dry_run or arguments.list or arguments.doctor:
        return status
    from debeton.config import load
    from debeton.system.distributed import is_main

    if is_main():
        _report(load([find_preset(file) for file in arguments.config_file], overrides), out)
    return 0


def _report(config: Config, out: Path | None) -> None:
    """Print the groups of a finished run, and copy its table."""
    from debeton.system.files import write_text
    from debeton.train.result_files import read_results
    from debeton.train.run_folder import find_folder

    folder = find_folder(config)
    results = None if folder is None else read_results(folder)
    assert folder is not None  # the run has finished
    assert results is not None
    notes = results["notes"]["groups"]
    table = folder / notes["table"]
    if out is not None:
        write_text(out, table.read_text(encoding="utf-8"))
    print("\n".join(_lines(notes, table if out is None else out)))


def _lines(notes: Mapping[str, Any], table: Path) -> list[str]:
    """Return the lines about groups: their rows, precision and recall, and the command that trains on them."""
    width = max(map(len, notes["groups"]))
    lines = [f"groups from {notes['from']}:", *(f"  {name:<{width}}  {n:>8,}" for name, n in notes["groups"].items())]
    for kind, meaning in (
        ("precision", "of the rows called bias-conflicting are so"),
        ("recall", "of the bias-conflicting rows are called so"),
    ):
        value = notes[kind]
        lines.append(f"{kind}: " + ("not known" if value is None else f"{100 * value:.1f} % {meaning}"))
    kind = "" if notes["kind"] == "bias" else f" --data.pseudo_kind {notes['kind']}"
    words = f"--data.pseudo_groups {shlex.quote(str(table))} --data.pseudo_column {notes['column']}{kind}"
    return [*lines, f"table: {table}", f"train on it: {words}"]
