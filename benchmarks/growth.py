"""How time and memory grow: with rows, groups, classes, workers and resolution, one axis at a time, as curves."""

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
Series = dict[str, dict[int, Measure]]  # what is measured: by value of the axis, what it costs
SIDE, BATCH, STEPS = 16, 256, 5
NUMBERS = (2, 10, 100, 1000)  # of groups and of classes
SIDES = (32, 64, 128, 224)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `benchmark.py growth`."""
    parser.add_argument("--only", default=",".join(AXES), help="axes, separated by commas; default: %(default)s")
    parser.add_argument("--rows", default="1000,10000,100000", help="of the axis 'rows'; default: %(default)s")
    parser.add_argument("--images", type=Path, help="photos, as for 'loader'")
    parser.add_argument("--limit", type=int, default=200, help="how many photos; default: %(default)s")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the curves here")


@register_benchmark("growth", "how time and memory grow with rows, groups, classes, workers, resolution", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Every point of every curve once a round. AXIS_WHAT_exponent: k of cost ~ value^k from the first to the last point
    of a curve, 1 where it grows in proportion, 0 where it does not grow."""
    chosen = [name.strip() for name in arguments.only.split(",")]
    if unknown := sorted(set(chosen) - set(AXES)):
        raise UsageError(f"--only names the axis '{unknown[0]}'; known: {', '.join(AXES)}")
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        curves = {axis: AXES[axis](Path(folder), arguments) for axis in chosen}
        points = {
            f"{axis} {value}: {what}": measure
            for axis, series in curves.items()
            for what, of in series.items()
            for value, measure in of.items()
        }
        values = interleave(points, arguments.rounds)
    found = {
        (axis, what): {value: values[f"{axis} {value}: {what}"] for value in of}
        for axis, series in curves.items()
        for what, of in series.items()
    }
    if arguments.figure:
        draw(found, arguments.figure)
    return Result(
        benchmark="growth",
        values=values,
        units={name: unit_of(name) for name in values},
        figures={
            f"{axis}_{what.replace(' ', '_')}_exponent": exponents(of)
            for (axis, what), of in found.items()
            if len(of) > 1
        },
        settings={"rows": f"{SIDE} x {SIDE} px", "batch_size": BATCH, "step": "small_convnet, GroupDRO"},
    )


def unit_of(name: str) -> str:
    """Of a point, by what is measured."""
    return "MB" if name.endswith("memory") else "s"


def exponents(of: Mapping[int, Sequence[float]]) -> list[float]:
    """k of cost ~ value^k between the ends of a curve, in each round."""
    first, last = min(of), max(of)
    return [math.log(b / a) / math.log(last / first) for a, b in zip(of[first], of[last], strict=True)]


# --- the axes ------------------------------------------------------------------------------------


def rows(folder: Path, arguments: argparse.Namespace) -> Series:
    """Writing a beton, opening it, and an epoch of it; the memory of a process that opens it and loads an epoch."""
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
    """MB that this process has taken at most, its packages included, to open a beton and load an epoch of it.

    With os_cache off: pages of a mapped file count as the process's, though the system takes them back at will.
    """
    from debeton.data.beton.reading import open_beton
    from debeton.data.loader.loader import make_loader
    from debeton.data.loader.options import LoaderOptions
    from debeton.data.views.view import View

    options = LoaderOptions(ops="flip,pad_crop:2", os_cache=False)
    for _ in make_loader(View.whole(open_beton(path)), BATCH, options=options):
        pass
    # Not ru_maxrss: a child begins with its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def groups(folder: Path, arguments: argparse.Namespace) -> Series:
    """A step of GroupDRO on a held batch, and the metrics of an epoch: two classes, more and more attributes."""
    return _steps({n: DatasetSpec("growth", ("a", "b"), _names(n // 2)) for n in NUMBERS})


def classes(folder: Path, arguments: argparse.Namespace) -> Series:
    """The same with more and more classes of one attribute."""
    return _steps({n: DatasetSpec("growth", _names(n), ("x",)) for n in NUMBERS})


def _names(n: int) -> tuple[str, ...]:
    return tuple(f"n{k}" for k in range(n))


def _steps(specs: Mapping[int, DatasetSpec]) -> Series:
    steps, metrics = zip(*(_step_of(spec) for spec in specs.values()), strict=True)
    return {"step": dict(zip(specs, steps, strict=True)), "metrics": dict(zip(specs, metrics, strict=True))}


def _step_of(spec: DatasetSpec) -> tuple[Measure, Measure]:
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
    """An epoch of the photos at 224 px with more and more threads."""
    beton = _photos(folder, arguments)
    counts = sorted({*(2**k for k in range(usable_cores().bit_length())), usable_cores()})
    return {"epoch": {n: _epoch_of_crops(beton, 224, n) for n in counts if n <= usable_cores()}}


def resolution(folder: Path, arguments: argparse.Namespace) -> Series:
    """An epoch of the photos, random resized crops of more and more pixels a side."""
    beton = _photos(folder, arguments)
    return {"epoch": {side: _epoch_of_crops(beton, side, usable_cores()) for side in SIDES}}


def _photos(folder: Path, arguments: argparse.Namespace) -> Beton:
    return write_photos(folder / "photos.beton", load_photos(arguments.images, arguments.limit).files)


def _epoch_of_crops(beton: Beton, side: int, num_workers: int) -> Measure:
    return timed(our_loader(beton, 64, num_workers, "flip", "random_resized_crop", resolution=side))


AXES: dict[str, Callable[[Path, argparse.Namespace], Series]] = {
    "rows": rows,
    "groups": groups,
    "classes": classes,
    "workers": workers,
    "resolution": resolution,
}


# --- the figure ----------------------------------------------------------------------------------


def draw(found: Mapping[tuple[str, str], Mapping[int, Sequence[float]]], path: Path) -> None:
    """A panel for each axis: the median cost over the cost of the first point, both logarithmic, and proportion."""
    import matplotlib
    from matplotlib.figure import Figure

    from debeton.report.figures.maps import COLOURS
    from debeton.report.figures.style import STYLE

    axes = list(dict.fromkeys(axis for axis, _ in found))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(3.4 * len(axes), 3.2))
        panels = figure.subplots(1, len(axes), squeeze=False)
        for panel, axis in zip(panels[0], axes, strict=True):
            curves = {what: of for (name, what), of in found.items() if name == axis}
            for colour, (what, of) in zip(COLOURS, curves.items()):
                x, y = sorted(of), [float(np.median(of[value])) for value in sorted(of)]
                panel.plot(x, [value / y[0] for value in y], "o-", color=colour, label=what)
            panel.set_ylim(0.25, 2 * x[-1] / x[0])
            panel.plot(x, [value / x[0] for value in x], ":", color="#8a929c", label="proportion")
            panel.set(xscale="log", yscale="log", title=axis, xlabel=axis, xticks=x, xticklabels=[f"{v:,}" for v in x])
            panel.minorticks_off()
            panel.legend(loc="upper left", fontsize=8.5)
        panels[0][0].set_ylabel("cost over that of the first point")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
