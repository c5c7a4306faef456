"""Accuracy and other metrics of any classifier on any groups, without a training run; results as of a run.

debeton evaluate --checkpoint RUN --data BETON
debeton evaluate --checkpoint RUN --data DIR --data.attribute Male
debeton evaluate --checkpoint weights.pth --arch resnet50 --classes cat,dog --data metadata.csv
debeton evaluate --arch efficientnet_lite0 --pretrained --data DIR

Settings that decide how a model is measured may follow, such as --data.attribute A, --data.pseudo_groups CSV,
--spurious.spurious_type square or --training.precision bf16 (debeton train --help SECTION).

Exit status: 0 done, 1 something is wrong with the data or the model, 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from debeton.system import plugins
from debeton.system.errors import UsageError
from debeton.system.regular_files import read_regular_text


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the command, and the words of settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="C", help="a run folder, a checkpoint, an exported model, or a weight file")
    add("--arch", metavar="A", help="architecture of a weight file of another program, or of published weights")
    add("--pretrained", action="store_true", help="measure the published weights of --arch; --checkpoint is their file")
    add("--data", type=Path, required=True, metavar="D", help="a beton, a folder or .zip of class folders, or a CSV")
    add("--split", metavar="NAME", help="split of images in folders or a CSV; default: test, or the only one")
    add("--classes", metavar="A,B", help="names of the model's outputs in order, or a file with one a line")
    add(
        "--class-map",
        type=Path,
        metavar="CSV",
        help="columns class and model_class: the model's classes that stand for each class of the data",
    )
    add("--mean", metavar="R,G,B", help="mean of the images in [0, 1] that the model expects; default: as it says")
    add("--std", metavar="R,G,B", help="their standard deviation")
    add("--outdir", metavar="DIR", help="folder of the results; default: runs")
    add("--name", metavar="NAME", help="name of the results; default: made of model and data")
    add("--device", metavar="D", help="auto, cpu, cuda or cuda:K; default: as the run had it, or auto")
    add("--batch-size", metavar="N", help="rows of one batch; default: as the run had it, or 512")
    add("--num-workers", metavar="N", help="decoding threads; default: one for every core")
    plugins.add_argument(parser)
    return parser.parse_known_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure a classifier, print its tables and the folder of the results."""
    arguments, rest = parse(argv)
    plugins.use_plugins(argv)
    from debeton.report.console import print_tables
    from debeton.report.records import load_runs
    from debeton.report.runs import group_settings
    from debeton.system.log import logger, set_up_logging
    from debeton.tools.class_matching import read_class_map
    from debeton.tools.evaluate import check_overrides, evaluate, load_model

    set_up_logging(is_main=True)
    check_overrides(rest)
    class_map = None if arguments.class_map is None else read_class_map(arguments.class_map)
    model = load_model(
        arguments.checkpoint, arguments.arch, read_names(arguments.classes), pretrained=arguments.pretrained
    )
    normalisation = {name: read_channels(name, getattr(arguments, name)) for name in ("mean", "std")}
    model = model.normalised(**normalisation)
    overrides = [*settings_of(arguments), *rest]
    folder = evaluate(model, arguments.data, overrides, split=arguments.split, class_map=class_map)
    print_tables(group_settings(load_runs([folder])))
    logger.info("results in %s", folder)
    return 0


def settings_of(arguments: argparse.Namespace) -> list[str]:
    """Return the options that are settings of a run, as words of the command line."""
    given = {
        "training.outdir": arguments.outdir,
        "training.exp_name": arguments.name,
        "training.device": arguments.device,
        "training.eval_batch_size": arguments.batch_size,
        "training.num_workers": arguments.num_workers,
    }
    return [word for key, value in given.items() if value is not None for word in (f"--{key}", value)]


def read_channels(name: str, text: str | None) -> tuple[float, float, float] | None:
    """Return the numbers of 'R,G,B'; None without a text. UsageError for anything else."""
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{name} {text}: expected three numbers R,G,B, such as 0.5,0.5,0.5") from None
    if name == "std" and min(red, green, blue) <= 0:
        raise UsageError(f"--std {text}: expected numbers above 0")
    return red, green, blue


def read_names(text: str | None) -> tuple[str, ...] | None:
    """Return the class names of 'a,b', or of a file with one name a line; None without a text."""
    if text is None:
        return None
    if Path(text).is_file():
        names = [line.strip() for line in read_regular_text(text).splitlines() if line.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"--classes {text}: expected different names, 'a,b' or a file with one name a line")
    return tuple(names)
