"""Measure something and record it as JSON.

python scripts/benchmark.py loader --json loader.json
python scripts/benchmark.py --check [NAME...]      run the guarded ones again, and fail where one has become slower
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from debeton.system.errors import UsageError, run_command

PROGRAM = "benchmark.py"


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["--check"]:
        return check(argv[1:])
    from benchmarks import BENCHMARKS
    from benchmarks.timing import print_result, write_result

    known = "\n".join(f"  {entry.name:12} {entry.summary}" for entry in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure something and record it as JSON; --check: see whether it has become slower.",
        epilog=f"benchmarks:\n{known}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", help="one of those below; 'NAME --help' lists its options")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options")
    first = parser.parse_args(argv)
    benchmark = BENCHMARKS.get(first.benchmark)
    arguments = parse(first.benchmark, benchmark.add_arguments, first.options)
    result = benchmark.run(arguments).to_dict()
    print_result(result)
    if arguments.json:
        write_result(arguments.json, result)
    return 0


def parse(
    name: str, add_arguments: Callable[[argparse.ArgumentParser], None], options: Sequence[str]
) -> argparse.Namespace:
    """Return the options of a benchmark."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, default: %(default)s")
    add_arguments(parser)
    arguments = parser.parse_args(options)
    if arguments.rounds < 1:
        raise UsageError(f"--rounds {arguments.rounds} measures nothing; use 1 or more")
    return arguments


def check(names: Sequence[str]) -> int:
    """Run the guarded benchmarks, or those named; status 1 where a bound of guard.yaml is not kept."""
    from benchmarks import BENCHMARKS
    from benchmarks.guard import bounds, violations
    from benchmarks.timing import print_result

    found = []
    for name, bound in bounds(names).items():
        benchmark = BENCHMARKS.get(name)
        result = benchmark.run(parse(name, benchmark.add_arguments, bound["options"])).to_dict()
        print_result(result)
        found += [f"{name}: {sentence}" for sentence in violations(result, bound)]
    for sentence in found:
        print(f"error: {sentence}", file=sys.stderr)
    if found:
        print("bounds: benchmarks/guard.yaml; a busy machine may be why", file=sys.stderr)
    else:
        print("every bound is kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
