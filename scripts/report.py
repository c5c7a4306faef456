#!/usr/bin/env python3
"""Tables on the console and one self-contained HTML page over finished runs.

python scripts/report.py runs/ --out runs/report
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from debeton.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description="Report over finished runs.", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold them")
    parser.add_argument("--out", type=Path, help="folder for index.html, figures and summary.csv, .md and .tex")
    parser.add_argument("--title", default="debeton report", help="heading of the page")
    arguments = parser.parse_args()

    from rich.console import Console

    from debeton.report import group_settings, load_runs, print_tables, write_report

    print_tables(group_settings(load_runs(arguments.runs)), Console())
    if arguments.out:
        page = write_report(arguments.runs, arguments.out, title=arguments.title)
        print(f"report written to {page}")


if __name__ == "__main__":
    sys.exit(run_command(main))
