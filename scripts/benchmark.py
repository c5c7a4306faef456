#!/usr/bin/env python3
"""Measure something and record it as JSON.

python scripts/benchmark.py loader --json loader.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from debeton.errors import UsageError, run_command


def main(argv: Sequence[str]) -> None:
    from debeton.benchmarks import BENCHMARKS
    from debeton.benchmarks.timing import print_result, write_result

    known = "\n".join(f"  {entry.name:12} {entry.summary}" for entry in BENCHMARKS)
    parser = argparse.ArgumentParser(
        description="Measure something and record it as JSON.", epilog=f"benchmarks:\n{known}", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("benchmark", help="one of those below; 'NAME --help' lists its options")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options")
    first = parser.parse_args(argv)
    benchmark = BENCHMARKS.get(first.benchmark)

    parser = argparse.ArgumentParser(prog=f"{parser.prog} {first.benchmark}", allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, default: %(default)s")
    benchmark.add_arguments(parser)
    arguments = parser.parse_args(first.options)
    if arguments.rounds < 1:
        raise UsageError(f"--rounds {arguments.rounds} measures nothing; use 1 or more")

    result = benchmark.run(arguments).to_dict()
    print_result(result)
    if arguments.json:
        write_result(arguments.json, result)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
