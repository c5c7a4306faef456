"""Tables of finished runs on the console and as one HTML page; or one table and figure.

debeton report runs/ --out runs/report
debeton report runs/ --out runs/report --metrics auroc,f1,interval
debeton report bias-transfer runs/ --out runs/report
debeton report ddb runs/ --out runs/report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from debeton.system import plugins
from debeton.system.errors import UsageError

if TYPE_CHECKING:
    from debeton.report.kind import ReportKind


def kinds() -> dict[str, ReportKind]:
    """Return the kinds of reports of one table and figure, by the word that asks for them."""
    from debeton.report.amplifier import AMPLIFIER
    from debeton.report.transfer import TRANSFER

    return {"bias-transfer": TRANSFER, "ddb": AMPLIFIER}


def main(argv: Sequence[str]) -> int:
    """Print or write the report that the words of the command ask for."""
    plugins.use_plugins(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[KIND] RUNS",
        help="run folders, or folders that hold them; with a KIND: one table, "
        + "; ".join(f"{name}: {kind.summary}" for name, kind in kinds().items()),
    )
    parser.add_argument("--out", type=Path, help="folder for index.html, figures and summary.csv, .md and .tex")
    parser.add_argument("--title", default="debeton report", help="heading of the page")
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="the surest mistakes of each group and where the network looked; takes the runs' betons and checkpoints",
    )
    parser.add_argument(
        "--metrics",
        default="",
        metavar="A,B",
        help="further columns: auroc, average_precision, f1, ece, brier, mean_class_accuracy, ...; interval: the 95 %% "
        "interval of each accuracy of one seed; summary.csv has them all",
    )
    plugins.add_argument(parser)
    arguments = parser.parse_args(argv)

    kind, runs = asked_kind(arguments.runs)
    if kind is not None:
        if arguments.metrics:
            raise UsageError(f"--metrics is for the report of all runs, not for '{arguments.runs[0]}'")
        print(f"report written to {kind.write(runs, arguments.out)}" if arguments.out else kind.text(runs))
        return 0

    from rich.console import Console

    from debeton.report.columns import parse_metrics
    from debeton.report.console import print_tables
    from debeton.report.records import load_runs
    from debeton.report.runs import group_settings
    from debeton.report.write import write_report

    metrics = parse_metrics(arguments.metrics)
    print_tables(group_settings(load_runs(runs)), Console(), metrics)
    if arguments.out:
        shown = None
        if arguments.pictures:  # these take torch, which takes seconds to import
            from debeton.report.pictures import picture_plotter

            shown = picture_plotter()
        page = write_report(runs, arguments.out, title=arguments.title, pictures=shown, metrics=metrics)
        print(f"report written to {page}")
    return 0


def asked_kind(words: Sequence[str]) -> tuple[ReportKind | None, list[Path]]:
    """Return the kind of report that the first word names, if any, and the folders of runs.

    A word is a kind where runs follow it or no folder has its name; './ddb' is always the folder.
    """
    word, rest = words[0], [Path(word) for word in words[1:]]
    kind = kinds().get(word)
    is_folder = Path(word).is_dir()
    if kind is None or (is_folder and not rest):
        return None, [Path(word), *rest]
    if not rest:
        raise UsageError(f"{word} needs runs: debeton report {word} RUNS --out DIR")
    if is_folder:
        print(f"note: '{word}' is taken as the kind of report; write ./{word} for the folder", file=sys.stderr)
    return kind, rest
