"""Growth of time and memory with rows, groups, classes, workers and resolution, one axis at a time, as curves."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import register_benchmark
from benchmarks.loader import our_loader, write_photos
from benchmarks.loader_peers import count
from benchmarks.photos import load_photos
from benchmarks.timing import Result, in_new_process, interleave, timed, whole_numbers
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.cores import usable_cores
from debeton.system.errors import UsageError

if TYPE_CHECKING:
    from debeton.data.beton.reading import Beton

Measure = Callable[[], float]
Series = dict[str, dict[int, Measure]]  # by measured quantity, e.g. 'epoch', and by value of the axis
SIDE, BATCH, STEPS = 16, 256, 5
NUMBERS = (2, 10, 100, 1000)  # numbers of groups and of classes
SIDES = (32, 64, 128, 224)  # sides of images in pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py growth`."""
    parser.add_argument("--only", default=",".join(AXES), help="axes, separated by commas; default: %(default)s")
    parser.add_argument("--rows", default="1000,10000,100000", help="values of the axis 'rows'; default: %(default)s")
    parser.add_argument("--images", type=Path, help="folder or zip of JPEG photos, as for 'loader'")
    parser.add_argument("--limit", type=int, default=200, help="number of photos; default: %(default)s")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="plot the curves into this file")


@register_benchmark("growth", "growth of time or memory with rows, groups, classes, workers, resolution", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure every point of every curve once a round.

    The figure AXIS_QUANTITY_exponent is k of cost ~ value^k between the first and the last point of a curve.
    It is 1 for growth in proportion, and 0 for no growth.
    """
    axes = [name.strip() for name in arguments.only.split(",")]
    if unknown := sorted(set(axes) - set(AXES)):
        raise UsageError(f"--only names the axis '{unknown[0]}'; known: {', '.join(AXES)}")
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        measures = {axis: AXES[axis](Path(folder), arguments) for axis in axes}
        points = {
            f"{axis} {value}: {quantity}": measure
            for axis, series in measures.items()
            for quantity, by_value in series.items()
            for value, measure in by_value.items()
        }
        values = interleave(points, arguments.rounds)
    curves = {
        (axis, quantity): {value: values[f"{axis} {value}: {quantity}"] for value in by_value}
        for axis, series in measures.items()
        for quantity, by_value in series.items()
    }
    if arguments.figure:
        draw(curves, arguments.figure)
    return Result(
        benchmark="growth",
        values=values,
        units={name: unit_of(name) for name in values},
        figures={
            f"{axis}_{quantity.replace(' ', '_')}_exponent": exponents(curve)
            for (axis, quantity), curve in curves.items()
            if len(curve) > 1
        },
        settings={"rows": f"{SIDE} x {SIDE} px", "batch_size": BATCH, "step": "small_convnet, GroupDRO"},
    )


def unit_of(name: str) -> str:
    """Return the unit of a point: MB for memory, else seconds."""
    return "MB" if name.endswith("memory") else "s"


def exponents(curve: Mapping[int, Sequence[float]]) -> list[float]:
    """Return k of cost ~ value^k between the ends of a curve, in each round."""
    first, last = min(curve), max(curve)
    return [math.log(b / a) / math.log(last / first) for a, b in zip(curve[first], curve[last], strict=True)]


# --- the axes ------------------------------------------------------------------------------------


def rows(folder: Path, arguments: argparse.Namespace) -> Series:
    """Measure writing a beton, opening it, an epoch of it, and memory.

    The memory is that of a process that opens the beton and loads an epoch.
    """
    from debeton.data.beton.reading import open_beton
    from debeton.data.beton.writer import WriteOptions, write_beton
    from debeton.data.loader.loader import make_loader
    from debeton.data.loader.options import LoaderOptions
    from debeton.data.views.view import View

    def write(path: Path, n: int) -> None:
        image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        label = np.arange(n) % 2
        content = Rows(label, label, lambda row: image, [f"{row}.png" for row in range(n)])
        spec = DatasetSpec("growth", ("a", "b"), ("x", "y"))
        write_beton(path, content, spec, "train", WriteOptions(mode="raw"))

    series: Series = {"write": {}, "open": {}, "epoch": {}, "memory": {}}
    for n in sorted(whole_numbers(arguments.rows, "--rows", 1)):
        path = folder / f"{n}.beton"
        write(path, n)
        loader = make_loader(View.whole(open_beton(path)), BATCH, options=LoaderOptions(ops="flip,pad_crop:2"))

        series["write"][n] = timed(lambda path=path, n=n: write(path.with_suffix(".again.beton"), n))  # type: ignore[misc]
        series["open"][n] = timed(lambda path=path: open_beton(path))  # type: ignore[misc]
        series["epoch"][n] = timed(lambda loader=loader: count(loader, lambda batch: batch.image))  # type: ignore[misc]
        series["memory"][n] = lambda path=path: in_new_process(LOAD, path)  # type: ignore[misc]
    return series


LOAD = """
import sys
from pathlib import Path
from benchmarks.growth import peak_of_an_epoch
print(peak_of_an_epoch(Path(sys.argv[1])))
"""


def peak_of_an_epoch(path: Path) -> float:
    """Return the peak memory of this process in MB, packages included, after it opens a beton and loads an epoch.

    os_cache is off, because pages of a mapped file count as the process's memory, and the system can take them back.
    """
    from debeton.data.beton.reading import open_beton
    from debeton.data.loader.loader import make_loader
    from debeton.data.loader.options import LoaderOptions
    from debeton.data.views.view import View

    options = LoaderOptions(ops="flip,pad_crop:2", os_cache=False)
    for _ in make_loader(View.whole(open_beton(path)), BATCH, options=options):
        pass
    # Not ru_maxrss, because a child process begins with its parent's value.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def groups(folder: Path, arguments: argparse.Namespace) -> Series:
    """Measure a step of GroupDRO on a batch in memory, and the metrics of an epoch.

    There are two classes and more and more attributes.
    """
    return _steps({n: DatasetSpec("growth", ("a", "b"), _names(n // 2)) for n in NUMBERS})


def classes(folder: Path, arguments: argparse.Namespace) -> Series:
    """Measure the same as `groups`, for one attribute and more classes."""
    return _steps({n: DatasetSpec("growth", _names(n), ("x",)) for n in NUMBERS})


def _names(n: int) -> tuple[str, ...]:
    """Return n names."""
    return tuple(f"n{k}" for k in range(n))


def _steps(specs: Mapping[int, DatasetSpec]) -> Series:
    """Return the series of steps and metrics for specs by their number of groups or classes."""
    steps, metrics = zip(*(_step_of(spec) for spec in specs.values()), strict=True)
    return {"step": dict(zip(specs, steps, strict=True)), "metrics": dict(zip(specs, metrics, strict=True))}


def _step_of(spec: DatasetSpec) -> tuple[Measure, Measure]:
    """Return measurements of STEPS steps of GroupDRO, and of the metrics of an epoch."""
    import torch

    from debeton.data.loader.batch import Batch
    from debeton.methods.groupdro import GroupDRO, GroupDROOptions
    from debeton.nets.models import make_model
    from debeton.train.metrics import GroupMeter
    from debeton.train.objective import Precision
    from debeton.train.optim import make_optimizer

    cpu = torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    model = make_model("small_convnet", spec.num_classes)
    optimizer = make_optimizer(model, "sgd", lr=1e-3, weight_decay=0.0)
    objective = GroupDRO(np.full(spec.num_groups, 10), spec.group_names, GroupDROOptions())
    meter, precision = GroupMeter(spec.num_groups, spec.num_classes, cpu), Precision("fp32", cpu)
    image = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    label = torch.randint(spec.num_classes, (BATCH,), generator=generator)
    attribute = torch.randint(len(spec.attributes), (BATCH,), generator=generator)
    zeros = torch.zeros_like(label)
    batch = Batch(image, torch.arange(BATCH), label, attribute, label * len(spec.attributes) + attribute, zeros)

    def step() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            output = objective.backward(model, batch, precision)
            optimizer.step()
            assert output.logits is not None
            meter.update(output.logits, batch.label, batch.group)

    return timed(step), timed(lambda: meter.compute(spec))


def workers(folder: Path, arguments: argparse.Namespace) -> Series:
    """Measure an epoch of the photos at 224 px with more threads."""
    beton = _photos(folder, arguments)
    counts = sorted({*(2**k for k in range(usable_cores().bit_length())), usable_cores()})
    return {"epoch": {n: _epoch_of_crops(beton, 224, n) for n in counts if n <= usable_cores()}}


def resolution(folder: Path, arguments: argparse.Namespace) -> Series:
    """Measure an epoch of the photos as random resized crops of more pixels a side."""
    beton = _photos(folder, arguments)
    return {"epoch": {side: _epoch_of_crops(beton, side, usable_cores()) for side in SIDES}}


def _photos(folder: Path, arguments: argparse.Namespace) -> Beton:
    """Write the photos as a beton."""
    return write_photos(folder / "photos.beton", load_photos(arguments.images, arguments.limit).files)


def _epoch_of_crops(beton: Beton, side: int, num_workers: int) -> Measure:
    """Return a measurement of an epoch of random resized crops."""
    return timed(our_loader(beton, 64, num_workers, "flip", "random_resized_crop", resolution=side))


AXES: dict[str, Callable[[Path, argparse.Namespace], Series]] = {
    "rows": rows,
    "groups": groups,
    "classes": classes,
    "workers": workers,
    "resolution": resolution,
}


# --- the figure ----------------------------------------------------------------------------------


def draw(curves: Mapping[tuple[str, str], Mapping[int, Sequence[float]]], path: Path) -> None:
    """Plot a panel for each axis: the median cost divided by the first point's, both axes logarithmic.

    A dotted line shows growth in proportion.
    curves: values of each round, by (axis, quantity) and by the axis's value.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from debeton.report.figures.maps import COLOURS
    from debeton.report.figures.style import STYLE

    axes = list(dict.fromkeys(axis for axis, _ in curves))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(3.4 * len(axes), 3.2))
        panels = figure.subplots(1, len(axes), squeeze=False)
        for panel, axis in zip(panels[0], axes, strict=True):
            panel_curves = {quantity: curve for (name, quantity), curve in curves.items() if name == axis}
            for colour, (quantity, curve) in zip(COLOURS, panel_curves.items()):
                x, y = sorted(curve), [float(np.median(curve[value])) for value in sorted(curve)]
                panel.plot(x, [value / y[0] for value in y], "o-", color=colour, label=quantity)
            panel.set_ylim(0.25, 2 * x[-1] / x[0])
            panel.plot(x, [value / x[0] for value in x], ":", color="#8a929c", label="proportion")
            panel.set(xscale="log", yscale="log", title=axis, xlabel=axis, xticks=x, xticklabels=[f"{v:,}" for v in x])
            panel.minorticks_off()
            panel.legend(loc="upper left", fontsize=8.5)
        panels[0][0].set_ylabel("cost divided by the first point's")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
