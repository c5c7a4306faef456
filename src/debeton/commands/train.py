"""Train and evaluate: configuration -> run -> method -> results.

debeton train --config-file dataset_configs/dominoes.yaml --training.method resample --training.seed 1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from debeton.commands.list_names import KINDS, print_names
from debeton.system import plugins
from debeton.system.project import find_preset


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
        help="check what every phase needs; print configuration, group counts and a batch's shapes; train nothing",
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

    from debeton.config import load
    from debeton.methods import METHODS
    from debeton.methods import train as train_method
    from debeton.system.distributed import is_main
    from debeton.system.log import logger, set_up_logging
    from debeton.train.finish import finish
    from debeton.train.run import open_run
    from debeton.train.stop import Preempted

    set_up_logging(is_main=int(os.environ.get("RANK", 0)) == 0)
    config = load([find_preset(file) for file in args.config_file], overrides)
    method = METHODS.get(config.training.method)  # an unknown name, before any data is opened
    if args.dry_run:
        from debeton.methods import check
        from debeton.train.dry_run import describe, prepare

        run = prepare(config)
        check(run)
        print(describe(run, selects=method.classifies))
        return 0
    with open_run(config) as opened:
        if opened is None:
            return 0
        try:
            finish(opened, train_method(opened), method.sections)
        except Preempted as stop:
            logger.warning("stopped by signal %d with everything saved; the same command resumes", stop.signum)
            return 128 + stop.signum
        if is_main():
            from debeton.report.console import print_tables
            from debeton.report.records import load_runs
            from debeton.report.runs import group_settings

            print_tables(group_settings(load_runs([opened.folder])))
            logger.info("results in %s", opened.folder)
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
