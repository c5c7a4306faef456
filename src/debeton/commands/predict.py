"""Predictions of a trained classifier for images, as CSV or Parquet; or the classifier itself, exported.

debeton predict --checkpoint RUN --images DIR --out predictions.csv
debeton predict --checkpoint RUN --images photos.csv --out predictions.parquet --probabilities
debeton predict --checkpoint weights.pth --arch resnet50 --images BETON
debeton predict --checkpoint RUN --export MODEL            safetensors, JSON and a model card
debeton predict --checkpoint MODEL --images DIR

Exit status: 0 done; 1 done, but some images could not be read (they are listed), or something is wrong with the model
or the images; 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debeton.system import plugins
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="C",
        help="a run folder, a checkpoint of one (.pt), an exported model, or a weight file of another program",
    )
    parser.add_argument("--arch", metavar="A", help="architecture of a weight file, or of published weights")
    parser.add_argument("--pretrained", action="store_true", help="take the published weights of --arch")
    parser.add_argument("--classes", metavar="A,B", help="names of the outputs, or a file with one a line")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="I",
        help="a folder of images, with those below it; a CSV with the column path; or a beton",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="table of path, prediction, confidence: .csv or .parquet; default: CSV, printed",
    )
    parser.add_argument("--probabilities", action="store_true", help="a column for each class too")
    parser.add_argument(
        "--export", type=Path, metavar="MODEL", help="folder for model.safetensors, model.json and a model card"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    plugins.add_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Classify the images, or export the classifier, as the words of the command say."""
    arguments = parse(argv)
    plugins.use_plugins(argv)
    if arguments.images is None and arguments.export is None:
        raise UsageError("nothing to do: give --images DIR, --export MODEL or both")
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size {arguments.batch_size} is too small; use 1 or more")
    if arguments.checkpoint is None and not arguments.pretrained:
        raise UsageError("--checkpoint is missing; or give --arch A --pretrained for published weights")
    if arguments.out is not None:
        from debeton.system.table_files import check_table_name

        check_table_name(arguments.out)
    if arguments.export is not None:
        if arguments.arch is not None:
            raise UsageError("--export is for a classifier of this program, which knows its --arch; leave one out")
        from debeton.tools.export import export

        print(f"exported to {export(arguments.checkpoint, arguments.export)}", file=sys.stderr)
    return 0 if arguments.images is None else predict_images(arguments)


def predict_images(arguments: argparse.Namespace) -> int:
    """Write the predictions, list broken images on standard error, and return the exit status."""

    from debeton.commands.evaluate import read_names
    from debeton.nets.trained import load_trained
    from debeton.system.distributed import pick_device
    from debeton.system.log import set_up_logging
    from debeton.system.table_files import write_table
    from debeton.system.work_bar import work_bar
    from debeton.tools.prediction import (
        describe_broken,
        list_images,
        predict_beton,
        predict_files,
        prediction_columns,
    )

    trained = load_trained(
        arguments.checkpoint,
        arch=arguments.arch,
        classes=read_names(arguments.classes),
        pretrained=arguments.pretrained,
    )
    set_up_logging(is_main=True)
    device, path = pick_device(arguments.device), arguments.images
    if path.suffix == ".beton" and path.is_file():
        parts = [predict_beton(trained, path, device, arguments.batch_size)]
    else:
        images, parts = list_images(path), []
        if trained.note_on_images:
            print(f"note: {trained.note_on_images}", file=sys.stderr)
        with work_bar("images", len(images), unit="image", shown=sys.stderr.isatty()) as bar:
            for part in predict_files(trained, images, device, arguments.batch_size):
                parts.append(part)
                bar.update(len(part.names) + len(part.broken))
    broken = {name: reason for part in parts for name, reason in part.broken.items()}
    count = sum(len(part.names) for part in parts)
    message = describe_broken(broken, count + len(broken)) if broken else ""
    if not count:
        raise DataError(message)
    columns = prediction_columns(trained, parts, all_classes=arguments.probabilities)
    if arguments.out is None:
        sys.stdout.write(as_csv(columns))
    elif arguments.out.suffix.lower() == ".csv":
        write_text(arguments.out, as_csv(columns))
    else:
        write_table(arguments.out, columns)
    if broken:
        print(f"warning: {message}", file=sys.stderr)
    return 1 if broken else 0


def as_csv(columns: Mapping[str, Any]) -> str:
    """Return columns as CSV, numbers with six digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([value if isinstance(value, str) else f"{value:.6f}" for value in row])
    return buffer.getvalue()
