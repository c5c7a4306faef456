#!/usr/bin/env python3
"""Tables on the console and one self-contained HTML page over finished runs; or one table and figure of a kind.

python scripts/report.py runs/ --out runs/report
python scripts/report.py bias-transfer runs/ --out runs/report
python scripts/report.py ddb runs/ --out runs/report
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from debeton.system.errors import UsageError, run_command

if TYPE_CHECKING:
    from debeton.report.kind import ReportKind


def kinds() -> dict[str, ReportKind]:
    """Reports of one table and figure, by the word that asks for them."""
    from debeton.report.amplifier import AMPLIFIER
    from debeton.report.transfer import TRANSFER

    return {"bias-transfer": TRANSFER, "ddb": AMPLIFIER}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
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
    arguments = parser.parse_args(argv)

    word, rest = str(arguments.runs[0]), arguments.runs[1:]
    if kind := kinds().get(word):
        if not rest:
            raise UsageError(f"{word} needs runs: python scripts/report.py {word} RUNS --out DIR")
        print(f"report written to {kind.write(rest, arguments.out)}" if arguments.out else kind.text(rest))
        return

    from rich.console import Console

    from debeton.report.console import print_tables
    from debeton.report.records import load_runs
    from debeton.report.runs import group_settings
    from debeton.report.write import write_report

    print_tables(group_settings(load_runs(arguments.runs)), Console())
    if arguments.out:
        shown = None
        if arguments.pictures:  # these take torch, which takes seconds to import
            from debeton.report.pictures import picture_plotter

            shown = picture_plotter()
        page = write_report(arguments.runs, arguments.out, title=arguments.title, pictures=shown)
        print(f"report written to {page}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
