"""Generator for stacked sets (dominoes) that draws each half of an image from eigenimages.

Like a text-to-image model, it combines a label and an attribute that its data never showed together. Its images differ
from real ones: they are blurred, because they are sums of a few principal components. It needs no prompt and no
weights, so it serves studies without a text-to-image model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from debeton.generate.generators.generator import GENERATORS, GeneratorFactory, ImageRequest
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

Floats = NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--generator halves`."""
    parser.add_argument(
        "--fit-on",
        type=Path,
        metavar="BETON",
        help="beton whose images give the principal components; use rows that serve no training and no test",
    )
    parser.add_argument(
        "--components",
        type=int,
        default=16,
        help="number of principal components of each half and value; default: %(default)s",
    )


@dataclass(frozen=True)
class Eigenimages:
    """Principal components of the images of one value.

    mean: mean image, [D].
    axes: principal axes times the standard deviation along each, [K, D].
    """

    mean: Floats
    axes: Floats

    @classmethod
    def of(cls, images: NDArray[np.uint8], components: int) -> Eigenimages:
        """Fit the components on images of one value, uint8 [N, ...]."""
        flat = images.reshape(len(images), -1).astype(np.float32)
        mean = flat.mean(0)
        _, deviations, axes = np.linalg.svd(flat - mean, full_matrices=False)
        count = min(components, len(images) - 1)
        return cls(mean, axes[:count] * (deviations[:count, None] / np.sqrt(max(1, len(images) - 1))))

    def draw(self, rng: np.random.Generator) -> Floats:
        """Draw one image, [D]: the mean plus the axes weighted by numbers from N(0, 1)."""
        return self.mean + rng.standard_normal(len(self.axes)).astype(np.float32) @ self.axes


class HalvesGenerator:
    """Generator that draws the upper half of an image for the attribute and the lower half for the label.

    beton: beton whose images the eigenimages are fitted on.
    components: number of principal components of each half and value, at least 1.

    UsageError: no beton is given, or `components` is below 1.
    DataError: the image height is odd, or a value has fewer than two images.
    """

    attempts = 20

    def __init__(self, beton: Path | None, components: int = 16):
        if beton is None:
            raise UsageError("--generator halves needs --fit-on BETON, for example dominoes_target.beton")
        if components < 1:
            raise UsageError(f"--components {components}: expected 1 or more, or all images of a value are the same")
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
            raise DataError(
                f"{beton} holds images that are {images.shape[1]} pixels high, which gives no two equal halves; "
                "expected an even height"
            )
        self.shape = (images.shape[1] // 2, *images.shape[2:])
        upper, lower = images[:, : self.shape[0]], images[:, self.shape[0] :]
        self.lower = _fit_by_value(lower, view.label, spec.classes, components, beton)
        self.upper = _fit_by_value(upper, view.attribute, spec.attributes, components, beton)
        self.identity = {"fit_on": opened.sidecar["checksum"], "components": components}

    def sample(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return images, uint8 [N, H, W, 3]; a request without an attribute gets a random one."""
        return np.stack([self._image(request) for request in requests])

    def _image(self, request: ImageRequest) -> NDArray[np.uint8]:
        rng = make_rng(request.seed, "halves")
        names = list(self.upper)
        attribute = request.condition.attribute or names[int(rng.integers(len(names)))]
        upper = self.upper[attribute].draw(rng).reshape(self.shape)
        lower = self.lower[request.condition.label].draw(rng).reshape(self.shape)
        return np.concatenate([upper, lower]).round().clip(0, 255).astype(np.uint8)


def _fit_by_value(
    images: NDArray[np.uint8], codes: NDArray[np.int64], names: Sequence[str], components: int, beton: Path
) -> dict[str, Eigenimages]:
    """Fit eigenimages for each value of a label or attribute.

    images: halves of images, uint8 [N, H / 2, W, 3].
    codes: value of each image, [N].
    names: names of the values by code.
    components: number of principal components.
    beton: file of the images, for the error message.
    """
    by_value = {}
    for code, name in enumerate(names):
        members = images[codes == code]
        if len(members) < 2:
            raise DataError(f"{beton} has {len(members)} images of '{name}'; eigenimages need two or more")
        by_value[name] = Eigenimages.of(members, components)
    return by_value


def make(arguments: argparse.Namespace) -> HalvesGenerator:
    """Build the generator from the parsed options."""
    return HalvesGenerator(arguments.fit_on, arguments.components)


GENERATORS.add(
    "halves", GeneratorFactory(make, add_arguments), "for dominoes: each half drawn from principal components"
)
