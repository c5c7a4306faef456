"""Cost of FIXED transfer on features that are computed once, against passing every image in every epoch."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import register_benchmark
from benchmarks.methods import quiet_run
from benchmarks.timing import Result, interleave
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

SPEC = DatasetSpec("bench", tuple("0123456789"))
CACHED, UNCACHED = "on features", "on images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py transfer`."""
    parser.add_argument("--arch", default="efficientnet_lite0", help="one with published weights; default: %(default)s")
    parser.add_argument("--rows", type=int, default=400, help="training images; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--resolution", type=int, default=64, help="side in pixels; default: %(default)s")


@register_benchmark("transfer", "seconds of FIXED transfer on features against on images", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure the training of one head on scikit-learn's digits both ways, once a round, from the same seed.

    The time is that of all epochs with validation after each: decoding, flips and the body's passes. Training on
    features makes one pass for the images and one for their mirror images, which are counted. Accuracies are of 600
    test images.
    """
    if arguments.rows < 64 or arguments.rows > 900 or arguments.epochs < 1 or arguments.resolution < 8:
        raise UsageError("--rows is from 64 to 900, --epochs at least 1 and --resolution at least 8")
    accuracies: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        write_digits(Path(folder), arguments.rows)
        contenders = {
            name: _seconds(Path(folder), arguments, cache, name, accuracies)
            for name, cache in ((UNCACHED, "off"), (CACHED, "on"))
        }
        values = interleave(contenders, arguments.rounds)
    return Result(
        benchmark="transfer",
        values=values,
        units=dict.fromkeys(values, "s"),
        ratios={"fixed_uncached_vs_cached": (UNCACHED, CACHED)},
        settings={
            "model": arguments.arch,
            "rows": arguments.rows,
            "epochs": arguments.epochs,
            "image": f"{arguments.resolution}x{arguments.resolution}",
            **{f"accuracy_{name.replace(' ', '_')}": round(value, 4) for name, value in accuracies.items()},
        },
    )


def write_digits(folder: Path, rows: int) -> None:
    """Write bench_{train,val,test}.beton: `rows`, 200 and 600 of scikit-learn's 1,797 digits."""
    from sklearn.datasets import load_digits

    from debeton.data.beton.writer import WriteOptions, write_beton

    digits = load_digits()
    pixels = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=3)
    order = make_rng("benchmark transfer").permutation(len(pixels))
    for split, part in (("train", order[:rows]), ("val", order[900:1100]), ("test", order[1100:1700])):
        images, label = pixels[part], digits.target[part].astype(np.int64)
        names = [str(k) for k in range(len(part))]
        table = Rows(label, np.zeros(len(part), np.int64), images.__getitem__, names)
        write_beton(folder / f"bench_{split}.beton", table, SPEC, split, WriteOptions(mode="raw"))


def _seconds(
    folder: Path, arguments: argparse.Namespace, cache: str, name: str, accuracies: dict[str, float]
) -> Callable[[], float]:
    """Return a measurement: the training seconds of a run in a folder of its own.

    accuracies: receives the run's test accuracy under `name`.
    """
    from debeton.methods import METHODS
    from debeton.train.evaluation import evaluate

    settings = {
        "data.dataset": "bench",
        "training.data_root": folder,
        "model.arch": arguments.arch,
        "model.pretrained": True,
        "model.transfer": "FIXED",
        "model.cache": cache,
        "resolution.val_res": arguments.resolution,
        "training.epochs": arguments.epochs,
        "training.batch_size": 64,
        "training.lr": 0.1,
        "training.lr_scheduler": "cosine",
        "training.selection": "last",
        "training.decoder_train": "resized",
        "training.decoder_val": "resized",
        "training.augment": "flip",
        "logging.tensorboard": False,
        "logging.progress": "off",
    }

    def measure() -> float:
        with quiet_run(folder, settings) as opened:
            start = time.perf_counter()
            model = METHODS.get("erm").run(opened)
            seconds = time.perf_counter() - start
            assert model is not None
            accuracies[name] = float(evaluate(opened, model, "test").metrics["accuracy"])
            return seconds

    return measure
