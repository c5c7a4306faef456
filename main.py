#!/usr/bin/env python
"""Train and evaluate: configuration -> run -> method -> results.

python main.py --config-file dataset_configs/dominoes.yaml --training.method resample --training.seed 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from debeton.system.errors import run_command

LISTS = ("methods", "datasets", "triggers", "models")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The program's own flags, and the rest: overrides such as --training.lr 0.1."""
    parser = argparse.ArgumentParser(
        prog="main.py", description=__doc__.splitlines()[0], allow_abbrev=False, add_help=False
    )
    parser.add_argument(
        "--config-file",
        "-C",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML or JSON; may be repeated, later ones win",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print configuration, group counts and a batch's shapes; train nothing"
    )
    parser.add_argument("--list", choices=LISTS, help="print what there is, one a line")
    parser.add_argument("--doctor", action="store_true", help="print versions and what is missing")
    parser.add_argument(
        "--help",
        "-h",
        nargs="?",
        const="",
        metavar="SECTION",
        help="print this, the settings of one section, or those of all sections",
    )
    args, rest = parser.parse_known_args(argv)
    if args.help is not None:
        import debeton.methods  # noqa: F401 - methods declare their settings
        from debeton.config import section_text, sections_text

        print(section_text(args.help) if args.help else f"{parser.format_help()}\n{sections_text()}")
        raise SystemExit(0)
    return args, rest


def print_list(kind: str) -> None:
    """Names of one kind with a line about each."""
    from debeton.data.sources import SOURCES
    from debeton.data.triggers.trigger import TRIGGERS
    from debeton.methods import METHODS
    from debeton.nets.models import model_names

    if kind == "models":
        print("\n".join(model_names()))
        return
    for entry in {"methods": METHODS, "datasets": SOURCES, "triggers": TRIGGERS}[kind]:  # type: ignore[attr-defined]
        print(f"{entry.name:<16} {entry.summary}")


def train(args: argparse.Namespace, overrides: list[str]) -> int:
    """Resolve the configuration and run its method, or show what would run."""
    import os

    from debeton.config import load
    from debeton.methods import METHODS
    from debeton.methods import train as train_method
    from debeton.system.distributed import is_main
    from debeton.system.log import logger, set_up_logging
    from debeton.train.finish import finish
    from debeton.train.run import open_run
    from debeton.train.stop import Preempted

    set_up_logging(is_main=int(os.environ.get("RANK", 0)) == 0)
    config = load(args.config_file, overrides)
    METHODS.get(config.training.method)  # an unknown name, before any data is opened
    if args.dry_run:
        from debeton.train.dry_run import describe

        print(describe(config))
        return 0
    with open_run(config) as run:
        if run is None:
            return 0
        try:
            finish(run, train_method(run), METHODS.get(config.training.method).sections)
        except Preempted as stop:
            logger.warning("stopped by signal %d with everything saved; the same command resumes", stop.signum)
            return 128 + stop.signum
        if is_main():
            from debeton.report.console import print_tables
            from debeton.report.records import load_runs
            from debeton.report.runs import group_settings

            print_tables(group_settings(load_runs([run.folder])))
            logger.info("results in %s", run.folder)
    return 0


def main(argv: list[str]) -> int:
    args, rest = parse(argv)
    if args.doctor:
        from debeton.tools.doctor import diagnose, print_doctor

        return print_doctor(diagnose())
    if args.list:
        print_list(args.list)
        return 0
    return train(args, rest)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
