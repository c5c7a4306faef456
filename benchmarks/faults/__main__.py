"""Try faults in turn for some minutes, and print what was tried, survived and lost.

python scripts/faults.py --minutes 10
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import damage, foreign, hostile, interruptions, processes  # noqa: F401 - they register their faults
from benchmarks.faults.trial import FAULTS, Fault
from benchmarks.faults.workspace import Workspace


def main(argv: Sequence[str] | None = None) -> int:
    """Try the faults, and return 1 if one lost something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="time for all faults; each is tried at least once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round; the next one adds 1")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name has this text")
    parser.add_argument("--list", action="store_true", help="print the faults, and try none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    arguments = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS if arguments.only in fault.name]
    if arguments.list:
        print("\n".join(fault.name for fault in chosen))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread brings no speed to networks so small
    with tempfile.TemporaryDirectory(prefix="debeton_faults_") as folder:
        try_faults(chosen, Workspace(Path(folder)), arguments.minutes * 60, arguments.seed)
    print(table(chosen))
    if arguments.json:
        rows = [
            {"fault": fault.name, "tried": fault.tried, "lost": fault.lost, "left_out": fault.left_out}
            for fault in chosen
        ]
        arguments.json.write_text(json.dumps(rows, indent=1))
    return int(any(fault.lost for fault in chosen))


def try_faults(faults: Sequence[Fault], workspace: Workspace, seconds: float, seed: int) -> None:
    """Try all faults in rounds, one trial each, until the time is over. The first round is always whole."""
    from debeton.methods import METHODS  # imports torch once, for all forked processes
    from debeton.train import run  # noqa: F401

    assert METHODS
    deadline = time.monotonic() + seconds
    round_number = 0
    while not round_number or time.monotonic() < deadline:
        for fault in faults:
            if not fault.left_out and (not round_number or time.monotonic() < deadline):
                fault.try_once(workspace, seed + round_number)
                if fault.lost and fault.lost[-1].startswith(f"seed {seed + round_number}:"):
                    print(f"lost: {fault.name}, {fault.lost[-1]}", flush=True)
        round_number += 1


def table(faults: Sequence[Fault]) -> str:
    """Return the table of faults in Markdown."""
    lines = ["| fault | tried | survived | lost |", "| --- | --- | --- | --- |"]
    for fault in faults:
        told = fault.left_out or str(len(fault.lost))
        lines.append(f"| {fault.name} | {fault.tried} | {fault.tried - len(fault.lost)} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
