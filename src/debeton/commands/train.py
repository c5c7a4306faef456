"""Train and evaluate: configuration -> run -> method -> results.

debeton train --config-file dataset_configs/dominoes.yaml --training.method resample --training.seed 1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from debeton.commands.list_names import KINDS, print_names
from debeton.system import plugins
from debeton.system.errors import UsageError
from debeton.system.project import find_preset

if TYPE_CHECKING:
    from debeton.config import Config
    from debeton.methods import Method


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the program's own flags, and the rest: overrides such as --training.lr 0.1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False, add_help=False)
    parser.add_argument(
        "--config-file",
        "-C",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML or JSON, or the name of a preset such as dominoes; may be repeated, later ones win",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check what every phase needs, and print on one screen what would run and how long; train nothing",
    )
    parser.add_argument(
        "--all", action="store_true", help="with --dry-run: print every setting, and every group of every view"
    )
    parser.add_argument("--list", choices=list(KINDS), help="print what there is, one a line")
    parser.add_argument("--doctor", action="store_true", help="print versions and what is missing")
    parser.add_argument(
        "--help",
        "-h",
        nargs="?",
        const="",
        metavar="SECTION",
        help="print this, the settings of one section, or those of all sections",
    )
    plugins.add_argument(parser)
    args, rest = parser.parse_known_args(argv)
    if args.help is not None:
        plugins.use_plugins(argv)
        import debeton.methods  # noqa: F401 - methods declare their settings
        from debeton.config import section_text, sections_text

        print(section_text(args.help) if args.help else f"{parser.format_help()}\n{sections_text()}")
        raise SystemExit(0)
    return args, rest


def train(args: argparse.Namespace, overrides: list[str]) -> int:
    """Resolve the configuration and run its method, or show what would run."""
    import os

    from debeton.commands.next_commands import next_commands
    from debeton.config import load
    from debeton.methods import METHODS, sections_of
    from debeton.methods import train as train_method
    from debeton.system.distributed import is_main
    from debeton.system.log import logger, set_up_logging
    from debeton.train.finish import finish
    from debeton.train.run import open_run
    from debeton.train.standing import said_before_leaving
    from debeton.train.stop import Preempted

    set_up_logging(is_main=int(os.environ.get("RANK", 0)) == 0)
    config = load([find_preset(file) for file in args.config_file], overrides)
    method = METHODS.get(config.training.method)  # an unknown name, before any data is opened
    if args.dry_run:
        return dry_run(config, method, whole=args.all)
    if args.all:
        raise UsageError("--all belongs to --dry-run: it prints every setting, group and shape")
    try:
        with open_run(config) as opened:
            if opened is None:
                return 0
            with said_before_leaving(opened):
                finish(opened, train_method(opened), sections_of(opened))
            if is_main():
                from debeton.report.console import print_tables
                from debeton.report.records import load_runs
                from debeton.report.runs import group_settings

                if method.classifies:
                    print_tables(group_settings(load_runs([opened.folder])))
                logger.info("results in %s", opened.folder)
                for line in next_commands(opened.folder, classifies=method.classifies, draws="cdpm" in opened.phases):
                    logger.info("%s", line)
    except Preempted as stop:
        return 128 + stop.signum
    return 0


def dry_run(config: Config, method: Method, *, whole: bool) -> int:
    """Print what would run, in the main process. whole: every setting, group and shape instead of one screen."""
    import os

    from debeton.methods import METHODS, check, outline, run_method
    from debeton.train.dry_run import describe, prepare, screen

    if int(os.environ.get("RANK", 0)):
        return 0
    run = prepare(config)
    check(run)
    if whole:
        print(describe(run, selects=method.classifies))
    else:
        (summary,) = [entry.summary for entry in METHODS if entry.name == config.training.method]
        print(screen(run, outline(run), run_method, summary, selects=method.classifies))
    return 0


def main(argv: Sequence[str]) -> int:
    """Train, or print a list or the doctor's table, as the words of the command say; return the exit status."""
    args, overrides = parse(argv)
    if args.doctor:
        from debeton.tools.doctor import diagnose, print_doctor

        return print_doctor(diagnose())
    plugins.use_plugins(argv)
    if args.list:
        print_names(args.list)
        return 0
    return train(args, overrides)
