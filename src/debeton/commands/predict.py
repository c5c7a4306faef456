"""Predictions of a trained classifier for a folder of images, as CSV; or the classifier itself, exported.

debeton predict --checkpoint RUN --images DIR --out predictions.csv
debeton predict --checkpoint RUN/checkpoints/checkpoint_best.pt --images DIR --probabilities
debeton predict --checkpoint RUN --export MODEL            safetensors, JSON and a model card
debeton predict --checkpoint MODEL --images DIR
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from debeton.system import plugins
from debeton.system.errors import UsageError


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="C",
        help="a run folder, a checkpoint of one (.pt), or an exported model",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images, with those below it")
    parser.add_argument("--out", type=Path, help="CSV of path, prediction and confidence; default: standard output")
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
    if arguments.export is not None:
        from debeton.tools.export import export

        print(f"exported to {export(arguments.checkpoint, arguments.export)}", file=sys.stderr)
    if arguments.images is not None:
        text = predictions(arguments)
        if arguments.out is None:
            sys.stdout.write(text)
        else:
            from debeton.system.files import write_text

            write_text(arguments.out, text)
    return 0


def predictions(arguments: argparse.Namespace) -> str:
    """Return the CSV of path, prediction and confidence, and with --probabilities a column for each class."""
    from tqdm import tqdm

    from debeton.nets.trained import images_in, load_trained, predict
    from debeton.system.distributed import pick_device

    trained, files = load_trained(arguments.checkpoint), images_in(arguments.images)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shown = trained.classes if arguments.probabilities else ()
    writer.writerow(["path", "prediction", "confidence", *shown])
    if trained.note_on_images:
        print(f"note: {trained.note_on_images}", file=sys.stderr)
    device = pick_device(arguments.device)
    with tqdm(total=len(files), unit="image", disable=not sys.stderr.isatty()) as bar:
        for some, probabilities in predict(trained, files, device, arguments.batch_size):
            for file, row in zip(some, probabilities, strict=True):
                best = int(row.argmax())
                values = [f"{value:.6f}" for value in (row if shown else ())]
                path = file.relative_to(arguments.images).as_posix()
                writer.writerow([path, trained.classes[best], f"{row[best]:.6f}", *values])
            bar.update(len(some))
    return buffer.getvalue()
