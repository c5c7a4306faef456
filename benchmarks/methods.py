"""Cost of a training step of each method beside ERM's, and of DFR's last layer.

All methods have the same model, batch and loader.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import register_benchmark
from benchmarks.timing import Result, interleave
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.cores import usable_cores
from debeton.system.errors import UsageError, nearest
from debeton.system.name_lists import parse_names
from debeton.system.seed import make_rng

if TYPE_CHECKING:
    from debeton.train.run import Run

METHODS = ("erm", "resample", "reweight", "groupdro", "jtt", "lff")
ALL = "all"
# The other methods with training steps of their own on the training split alone. subg, suby and pde take ERM's steps on
# fewer rows, and heads fit one layer again.
OTHERS = (
    *("resample_class", "reweight_class", "sqrt_reweight", "upweight", "cb_loss", "cb_loss_class", "focal", "ldam"),
    *("balanced_softmax", "logit_adjust", "cvar", "irm", "vrex", "coral", "mmd", "lisa", "mixup", "cnc", "lc"),
    *("debian", "eiil"),
)
DFR = "dfr, the last layer"
SPEC = DatasetSpec("bench", ("a", "b"), ("x", "y"), aligned=((0,), (1,)))
HEIGHT, WIDTH = 64, 32
CONFLICTING_EVERY = 16  # one of this many rows is bias-conflicting
DFR_ROWS, DFR_FEATURES, DFR_GRID, DFR_REFITS = 2000, 2048, (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01), 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py methods`."""
    parser.add_argument("--arch", default="resnet18", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round; default: %(default)s")
    parser.add_argument(
        "--methods",
        default=",".join(METHODS),
        metavar="A,B",
        help="methods beside erm; 'all': every method with steps of its own on one split; default: %(default)s",
    )
    parser.add_argument("--without-dfr", action="store_true", help="leave out DFR's last layer, which takes seconds")


@register_benchmark("methods", "ms a step of each method against ERM's, and DFR's last layer", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure one epoch of each method once a round, from the same weights, through the whole loop.

    A step is decoding, augmentation, forward, backward, the optimizer and the training metrics. For jtt it is a step
    of the second phase. DFR chooses among 7 values of C and makes 20 refits on 2,000 x 2,048 random features.
    """
    if arguments.batch_size < 2 or arguments.steps < 1:
        raise UsageError("--batch-size is at least 2 and --steps at least 1; batch norm needs two rows")
    methods = _methods(arguments.methods)
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        write_noise(Path(folder), "train", arguments.batch_size * arguments.steps)
        contenders: dict[str, Callable[[], float]] = {
            method: step_time(method, Path(folder), arguments.arch, arguments.batch_size) for method in methods
        }
        if not arguments.without_dfr:
            contenders[DFR] = fit_last_layer()
        values = interleave(contenders, arguments.rounds)
    return Result(
        benchmark="methods",
        values=values,
        units={name: "s" if name == DFR else "ms a step" for name in values},
        ratios={f"{method}_vs_erm": (method, "erm") for method in methods[1:]},
        settings={
            "model": arguments.arch,
            "batch_size": arguments.batch_size,
            "steps": arguments.steps,
            "image": f"{HEIGHT}x{WIDTH}",
            "dfr_workers": usable_cores(),
        },
    )


def _methods(text: str) -> tuple[str, ...]:
    """Return erm and the methods of --methods. UsageError names those that have no step of their own."""
    known = (*METHODS, *OTHERS)
    names = known if text == ALL else tuple(dict.fromkeys(("erm", *parse_names(text))))
    for name in names:
        if name not in known:
            raise UsageError(f"--methods {name}{nearest(name, known)} expected '{ALL}' or some of: {', '.join(known)}")
    return names


def write_noise(folder: Path, split: str, n: int) -> None:
    """Write bench_{split}.beton: n noise images, of which one in sixteen is bias-conflicting."""
    from debeton.data.beton.writer import WriteOptions, write_beton

    rng = make_rng("benchmark methods", split)
    images = rng.integers(0, 256, (n, HEIGHT, WIDTH, 3), dtype=np.uint8)
    label = np.arange(n) % 2
    attribute = np.where(np.arange(n) // 2 % CONFLICTING_EVERY == 0, 1 - label, label)
    rows = Rows(label, attribute, lambda row: images[row], [str(row) for row in range(n)])
    write_beton(folder / f"bench_{split}.beton", rows, SPEC, split, WriteOptions(mode="raw"))


def step_time(
    method: str, folder: Path, arch: str, batch_size: int, own: Mapping[str, Any] | None = None
) -> Callable[[], float]:
    """Return a measurement: milliseconds a step of the method's last phase, which a fresh run trains for one epoch.

    own: settings of the method by key.
    """
    from debeton.methods import METHODS as REGISTERED
    from debeton.train.finish import timing_of

    settings = {
        "data.dataset": "bench",
        "training.data_root": folder,
        "model.arch": arch,
        "training.method": method,
        "training.epochs": 1,
        "training.batch_size": batch_size,
        "training.lr": 0.001,
        "training.selection": "last",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "pad_crop:4",
        "training.drop_last": "true",
        "logging.tensorboard": "false",
        "logging.progress": "off",
        "jtt.upweight": 1,
        **(own or {}),
    }
    registered = REGISTERED.get(method)

    def measure() -> float:
        with quiet_run(folder, settings) as opened:
            registered.run(opened)
            return 1000 * batch_size / float(timing_of(opened)["train_images_per_second"])

    return measure


@contextlib.contextmanager
def quiet_run(folder: Path, settings: Mapping[str, Any]) -> Iterator[Run]:
    """Open a fresh run with these settings in a temporary folder below `folder`, deleted at the end.

    Only errors are logged, because random labels cause many warnings.
    """
    from debeton.config import load
    from debeton.system.log import logger
    from debeton.train.run import open_run

    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            with open_run(load([], [*words, "--training.outdir", out])) as opened:
                assert opened is not None
                yield opened
    finally:
        logger.setLevel(level)


def fit_last_layer() -> Callable[[], float]:
    """Return a measurement: seconds that DFR takes once the features are computed."""
    from debeton.methods.parts.logistic_head import FeatureSet, Solver, average, choose, fit_logistic, grid

    rng = make_rng("benchmark dfr")
    x = np.maximum(rng.standard_normal((DFR_ROWS, DFR_FEATURES), dtype=np.float32), 0)
    label = rng.integers(0, 2, DFR_ROWS)
    x[:, :20] += 0.5 * label[:, None]
    data = FeatureSet(x, label, SPEC.group(label, rng.integers(0, 2, DFR_ROWS)), SPEC)
    solver = Solver(penalty="l1", max_iter=1000, seed=0, workers=usable_cores())

    def measure() -> float:
        start = time.perf_counter()
        first, second = data.halved(make_rng("halves"))
        best, _ = choose(grid(DFR_GRID, (), 2), second.balanced(rng), first, "worst_group", solver)
        jobs: Sequence[tuple[FeatureSet, object, str]] = [
            (data.balanced(make_rng("refit", k)), best, f"refit {k}") for k in range(DFR_REFITS)
        ]
        average(fit_logistic(jobs, solver))  # type: ignore[arg-type]
        return time.perf_counter() - start

    return measure
