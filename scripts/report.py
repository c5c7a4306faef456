#!/usr/bin/env python3
"""Tables on the console and one self-contained HTML page over finished runs; or what came along in transfer.

python scripts/report.py runs/ --out runs/report
python scripts/report.py bias-transfer runs/ --out runs/report
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from debeton.errors import run_command


def report_transfer(runs: list[Path], out: Path | None) -> None:
    """transfer.md on the console, and with its figure and other forms in `out`."""
    from debeton.errors import UsageError
    from debeton.report_runs import group_settings, load_runs
    from debeton.report_tables import to_markdown
    from debeton.report_transfer import NOTE, attack_table, attacks, write_transfer_report

    if not runs:
        raise UsageError("bias-transfer needs runs: python scripts/report.py bias-transfer RUNS --out DIR")
    if out:
        print(f"report written to {write_transfer_report(runs, out)}")
    else:
        print(f"{to_markdown(attack_table(attacks(group_settings(load_runs(runs)))))}\n{NOTE}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="[bias-transfer] RUNS",
        help="run folders, or folders that hold them; with 'bias-transfer': attack rates by target, trigger, source",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for index.html, figures and summary.csv, .md and .tex")
    parser.add_argument("--title", default="debeton report", help="heading of the page")
    arguments = parser.parse_args()

    if arguments.runs[0] == Path("bias-transfer"):
        report_transfer(arguments.runs[1:], arguments.out)
        return

    from rich.console import Console

    from debeton.report import group_settings, load_runs, print_tables, write_report

    print_tables(group_settings(load_runs(arguments.runs)), Console())
    if arguments.out:
        page = write_report(arguments.runs, arguments.out, title=arguments.title)
        print(f"report written to {page}")


if __name__ == "__main__":
    sys.exit(run_command(main))
