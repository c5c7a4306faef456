#!/usr/bin/env python3
"""A study: many runs from one YAML file, on this machine, resumed at will, read as tables and pictures.

python scripts/sweep.py dry-run dataset_configs/studies/scale_ablation.yaml --raw DIR
python scripts/sweep.py run     dataset_configs/studies/scale_ablation.yaml --raw DIR --workers 2
python scripts/sweep.py status  dataset_configs/studies/scale_ablation.yaml --raw DIR
python scripts/sweep.py collect dataset_configs/studies/scale_ablation.yaml --raw DIR --out report
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from debeton.errors import UsageError, run_command

if TYPE_CHECKING:
    from debeton.studies.state import Board
    from debeton.studies.study import Job

ROOT = Path(__file__).resolve().parents[1]
ACTIONS = {
    "dry-run": "print every job and its command; run nothing",
    "run": "run what is not finished; a job that was stopped goes on where it was",
    "status": "say where every job stands, with the last error of those that failed",
    "collect": "tables and figures over the finished jobs; of a random search the best setting of each variant",
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="actions:\n" + "\n".join(f"  {name:<9} {text}" for name, text in ACTIONS.items()),
    )  # fmt: skip
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's YAML file")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/STUDY")
    parser.add_argument("--data", type=Path, help="folder of the betons that the study writes; default: data/STUDY")
    parser.add_argument("--raw", help="folder of the raw data, for {raw} in the study")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="a setting of every job, or a {placeholder} of the study; may be repeated")  # fmt: skip
    parser.add_argument("--seeds", help="instead of the study's, separated by commas")
    parser.add_argument("--only", help="variants, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time; default: %(default)s")
    parser.add_argument("--retry", action="store_true", help="run jobs that failed again")
    parser.add_argument("--out", type=Path, help="of collect: folder of the report; default: RUNS/report")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    if arguments.workers < 1:
        raise UsageError(f"--workers {arguments.workers} runs nothing; use 1 or more")

    from debeton.log import set_up_logging
    from debeton.studies.state import Board, Places
    from debeton.studies.study import load_study

    set_up_logging(is_main=True)
    settings, values = _given(arguments)
    study = load_study(arguments.study, settings, _seeds(arguments.seeds))
    runs, data = arguments.runs or Path("runs") / study.name, arguments.data or Path("data") / study.name
    board = Board(study.jobs(values), Places(ROOT, runs.resolve(), data.resolve()))
    action = {"dry-run": dry_run, "run": run, "status": status, "collect": collect}[arguments.action]
    return action(board, _only(board.jobs, arguments.only), arguments)


def dry_run(board: Board, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    for job in jobs:
        command = board.arguments(job)
        what = f"waits for {', '.join(job.needs)}" if command is None else shlex.join(["main.py", *command])
        print(f"{job.name}: {what}")
    print(f"{len(jobs)} jobs, {len({job.data for job in jobs if job.betons})} sets of betons to write")
    return 0


def run(board: Board, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    from debeton.studies.runner import Runner, counts

    runner = Runner(board, arguments.workers, lambda line: print(line, flush=True))
    with runner.stopping_on_signals():
        finished = runner.run(jobs, retry=arguments.retry)
    print(counts([board.state(job) for job in jobs]))
    return 0 if finished else 1


def status(board: Board, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    from debeton.studies.runner import counts

    states = [board.state(job) for job in jobs]
    for job, state in zip(jobs, states):
        print(f"{state.kind:<10} {job.name}" + (f"  {state.note}" if state.note else ""))
    print(counts(states))
    return 0


def collect(board: Board, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    from debeton.studies.collect import collect

    out = arguments.out or board.places.runs / "report"
    print(f"report written to {collect(board, jobs, out, title=arguments.study.stem)}")
    return 0


def _given(arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """(settings, values of placeholders) from --set and --raw."""
    given = {}
    for text in arguments.settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}: expected KEY=VALUE")
        given[key] = value
    values = {key: value for key, value in given.items() if "." not in key}
    if arguments.raw:
        values["raw"] = str(Path(arguments.raw).resolve())
    return {key: value for key, value in given.items() if "." in key}, values


def _seeds(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"--seeds {text}: expected whole numbers separated by commas") from None


def _only(jobs: Sequence[Job], text: str | None) -> Sequence[Job]:
    if not text:
        return jobs
    names = [name.strip() for name in text.split(",")]
    known = dict.fromkeys(job.variant for job in jobs)
    for name in names:
        if name not in known:
            raise UsageError(f"--only: the study has no variant '{name}'; it has {', '.join(known)}")
    return [job for job in jobs if job.variant in names]


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
