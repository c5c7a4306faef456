"""A renderer for stacked sets (dominoes): eigenimages of either half, put together as the cell says.

Like a text-to-image model it composes what its data never showed together, and its images differ from real ones: they
are blurred, as sums of a few principal components are. No prompt and no weights: for studies without such a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debeton.generate.generators.generator import GENERATORS, Maker, Order
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

Floats = NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `--generator halves`."""
    parser.add_argument(
        "--fit-on", type=Path, metavar="BETON", help="whose images the components are of; rows not trained or tested on"
    )
    parser.add_argument("--components", type=int, default=16, help="of each half and value; default: %(default)s")


@dataclass(frozen=True)
class Eigenimages:
    """mean: [D]. axes: [K, D], principal axes times the deviation along them."""

    mean: Floats
    axes: Floats

    @classmethod
    def of(cls, images: NDArray[np.uint8], components: int) -> Eigenimages:
        """Of images [N, ...] of one value."""
        flat = images.reshape(len(images), -1).astype(np.float32)
        mean = flat.mean(0)
        _, deviations, axes = np.linalg.svd(flat - mean, full_matrices=False)
        count = min(components, len(images) - 1)
        return cls(mean, axes[:count] * (deviations[:count, None] / np.sqrt(max(1, len(images) - 1))))

    def draw(self, rng: np.random.Generator) -> Floats:
        """mean + sum of N(0, 1) times the axes, [D]."""
        return self.mean + rng.standard_normal(len(self.axes)).astype(np.float32) @ self.axes


class Halves:
    """The upper half of an image is drawn for the attribute, the lower for the label, each from its eigenimages."""

    attempts = 20

    def __init__(self, beton: Path | None, components: int = 16):
        if beton is None:
            raise UsageError("--generator halves needs --fit-on BETON, for example dominoes_target.beton")
        if components < 1:
            raise UsageError(f"--components {components} leaves one image of each value; use 1 or more")
        from debeton.data.beton.reading import open_beton
        from debeton.data.loader.loader import make_loader
        from debeton.data.loader.options import LoaderOptions
        from debeton.data.views.view import View

        opened = open_beton(beton)
        view, spec = View.whole(opened), opened.spec
        loader = make_loader(view, len(view), tail="keep", options=LoaderOptions(normalise=False, channels_last=True))
        with loader.epoch(0) as batches:
            batch = next(batches)
        images = batch.image.permute(0, 2, 3, 1).numpy()[np.argsort(batch.row.numpy())]
        if images.shape[1] % 2:
            raise DataError(f"{beton} holds images of {images.shape[1]} rows of pixels, which have no two halves")
        self.shape = (images.shape[1] // 2, *images.shape[2:])
        upper, lower = images[:, : self.shape[0]], images[:, self.shape[0] :]
        self.lower = _fit(lower, view.label, spec.classes, components, beton)
        self.upper = _fit(upper, view.attribute, spec.attributes, components, beton)
        self.identity = {"fit_on": opened.sidecar["checksum"], "components": components}

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]; where no attribute is named, each image has one at random."""
        return np.stack([self._image(order) for order in orders])

    def _image(self, order: Order) -> NDArray[np.uint8]:
        rng = make_rng(order.seed, "halves")
        names = list(self.upper)
        attribute = order.condition.attribute or names[int(rng.integers(len(names)))]
        halves = [of.draw(rng).reshape(self.shape) for of in (self.upper[attribute], self.lower[order.condition.label])]
        return np.concatenate(halves).round().clip(0, 255).astype(np.uint8)


def _fit(
    images: NDArray[np.uint8], codes: NDArray[np.int64], names: Sequence[str], components: int, beton: Path
) -> dict[str, Eigenimages]:
    found = {}
    for code, name in enumerate(names):
        mine = images[codes == code]
        if len(mine) < 2:
            raise DataError(f"{beton} has {len(mine)} images of '{name}'; eigenimages need two or more")
        found[name] = Eigenimages.of(mine, components)
    return found


def make(arguments: argparse.Namespace) -> Halves:
    """The generator that the options describe."""
    return Halves(arguments.fit_on, arguments.components)


GENERATORS.add(
    "halves", Maker(make, add_arguments), "a renderer for dominoes: eigenimages of either half, put together"
)
