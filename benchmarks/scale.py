"""Cost of a step of SCALE beside two of ERM's, on the same model, batch and loader."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import register_benchmark
from benchmarks.methods import HEIGHT, WIDTH, step_time, write_noise
from benchmarks.timing import Result, interleave, whole_numbers
from debeton.system.errors import UsageError

USUAL_GROUP_SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py scale`."""
    parser.add_argument("--arch", default="resnet18", help="default: %(default)s")
    parser.add_argument("--batch-sizes", default="16,64", help="default: %(default)s")
    parser.add_argument("--group-sizes", default=str(USUAL_GROUP_SIZE), help="0: whole tensors; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round; default: %(default)s")


@register_benchmark("scale", "ms a step of SCALE against two of ERM's", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure one epoch of SCALE and of ERM once a round, from the same weights, through the whole loop.

    A step is decoding, augmentation, forward, backward, the optimizer and the training metrics. SCALE's step has two
    batches, two backward passes, the mixing of their gradients and one step of the optimizer.
    """
    batch_sizes = whole_numbers(arguments.batch_sizes, "--batch-sizes", 2)
    group_sizes = whole_numbers(arguments.group_sizes, "--group-sizes", 0)
    if arguments.steps < 1:
        raise UsageError(f"--steps {arguments.steps} measures nothing; use 1 or more")
    contenders: dict[str, Callable[[], float]] = {}
    ratios = {}
    with tempfile.TemporaryDirectory(prefix="debeton-") as root:
        for size in batch_sizes:
            folder = Path(root) / str(size)
            folder.mkdir()
            for split in ("train", "target"):
                write_noise(folder, split, size * arguments.steps)
            two = f"two of erm, batch {size}"
            contenders[two] = _twice(step_time("erm", folder, arguments.arch, size))
            for group_size in group_sizes:
                name = f"scale, batch {size}, group_size {group_size}"
                own = {"scale.group_size": group_size}
                contenders[name] = step_time("scale", folder, arguments.arch, size, own)
                kind = "scale" if group_size == USUAL_GROUP_SIZE else f"scale_g{group_size}"
                ratios[f"{kind}_vs_two_erm_b{size}"] = (name, two)
        values = interleave(contenders, arguments.rounds)
    return Result(
        benchmark="scale",
        values=values,
        units=dict.fromkeys(values, "ms"),
        ratios=ratios,
        settings={"model": arguments.arch, "steps": arguments.steps, "image": f"{HEIGHT}x{WIDTH}"},
    )


def _twice(measure: Callable[[], float]) -> Callable[[], float]:
    """Return a measurement that is twice the given one."""
    return lambda: 2 * measure()
