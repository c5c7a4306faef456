"""Probes: how well source (real or synthetic) and attribute can be read from features of trained networks.

debeton probe runs/ffr_dominoes --out probes.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from debeton.system import plugins
from debeton.system.errors import DataError, UsageError


def main(argv: Sequence[str]) -> int:
    """Probe the runs that the words of the command name, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold them")
    parser.add_argument("--per-group", type=int, default=200, help="rows of a group at most; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="probe runs that were probed before, too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV")
    plugins.add_argument(parser)
    arguments = parser.parse_args(argv)
    plugins.use_plugins(argv)
    if arguments.per_group < 2:
        raise UsageError(f"--per-group {arguments.per_group} leaves nothing to hold out; use 2 or more")

    import pandas as pd

    from debeton.report.runs import make_stat
    from debeton.report.write import group_settings, load_runs, to_markdown
    from debeton.system.files import write_text
    from debeton.system.log import set_up_logging
    from debeton.system.work_bar import work_bar
    from debeton.tools.probe import probe_run, read_probe

    set_up_logging(is_main=True)
    runs = [run for run in load_runs(arguments.runs) if run.is_finished]
    if not runs:
        raise DataError(f"no finished run in {', '.join(map(str, arguments.runs))}; there is nothing to probe")
    for run in work_bar("probing", items=runs, unit="run", shown=sys.stderr.isatty(), leave=False):
        if arguments.again or read_probe(run.folder) is None:
            probe_run(run.folder, arguments.per_group)
    rows = []
    for setting in group_settings(runs):
        probes = [read_probe(run.folder) or {} for run in setting.runs]
        row = {"setting": setting.label, "n": len(probes)}
        for name in ("source", "attribute"):
            values = [100 * probe[name]["accuracy"] for probe in probes if name in probe]
            row[f"{name} (%)"] = str(make_stat(values) or "–")
        rows.append(row)
    table = pd.DataFrame(rows)
    print(to_markdown(table))
    if arguments.out:
        write_text(arguments.out, table.to_csv(index=False))
    return 0
