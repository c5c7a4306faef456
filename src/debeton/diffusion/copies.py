"""Check for memorised images: synthetic images beside their nearest training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.files import replacing

SHOWN, ZOOM = 16, 2  # pairs of the picture, and its enlargement


@dataclass(frozen=True)
class Neighbours:
    """Nearest images of Q queries.

    distance: float64 [Q], root mean square difference of the pixels, which lie in [0, 1].
    nearest: int64 [Q], the nearest image's row of the beton.
    """

    distance: NDArray[np.float64]
    nearest: Ints


def copy_check(
    real: View, synthetic: View, options: LoaderOptions, *, sample: int = 256, picture: Path | None = None
) -> dict[str, Any]:
    """Measure how near synthetic images are to training images, against distances among training images.

    options: how both are decoded; they are compared at this resolution.
    sample: number of images of either side. Their neighbours are sought among all rows of `real`.
    picture: file for a picture of the nearest pairs, or None.

    Returns plain values:
    compared: number of synthetic images.
    median_distance: of synthetic images to the nearest training image.
    median_distance_of_real: of training images to the nearest other one.
    copies: share of synthetic images that are nearer to a training image than 99 % of the sampled training images are
        to another. It is 0.01 if the model has learnt the distribution, and 1 if it repeats training images.
    """
    options = replace(options, normalise=False, ops="none")
    generated, references = _sampled(synthetic, sample), _sampled(real, sample)
    queries = _images(generated, options)
    neighbours = nearest(queries, real, options)
    among_real = nearest(_images(references, options), real, options, exclude=references.rows)
    bound = float(np.quantile(among_real.distance, 0.01))
    if picture is not None:
        _draw(picture, queries, neighbours, real, options)
    return {
        "compared": len(generated),
        "median_distance": float(np.median(neighbours.distance)),
        "median_distance_of_real": float(np.median(among_real.distance)),
        "copies": float((neighbours.distance < bound).mean()),
    }


def nearest(queries: Tensor, view: View, options: LoaderOptions, exclude: Ints | None = None) -> Neighbours:
    """Find the nearest image of a view for each query, in one pass over the view.

    queries: float32 [Q, 3, H, W] in [0, 1].
    exclude: int64 [Q], a row of the beton for each query that is not compared with it, e.g. the query itself.
    """
    flat = queries.flatten(1)
    best = torch.full((len(flat),), float("inf"))
    where = torch.full((len(flat),), -1, dtype=torch.int64)
    excluded = None if exclude is None else torch.from_numpy(np.asarray(exclude))
    for batch in _batches(view, options):
        # In float64, because |a|^2 - 2ab + |b|^2 in float32 would lose the difference of a copy from its original.
        distances = torch.cdist(flat.double(), _pixels(batch).flatten(1).double())
        if excluded is not None:
            distances = distances.where(excluded[:, None] != batch.row.cpu()[None], float("inf"))
        value, index = distances.min(1)
        nearer = value < best
        best, where = torch.where(nearer, value.float(), best), torch.where(nearer, batch.row.cpu()[index], where)
    return Neighbours((best.double() / flat.shape[1] ** 0.5).numpy(), where.numpy())


def _sampled(view: View, sample: int) -> View:
    """Return at most `sample` rows of a view, evenly spaced."""
    positions = np.unique(np.linspace(0, len(view) - 1, min(sample, len(view))).round().astype(np.int64))
    return view.subset(positions)


def _batches(view: View, options: LoaderOptions) -> Iterator[Batch]:
    """Yield the batches of a view, every row once."""
    with make_loader(replace(view, order="sequential"), 256, tail="keep", options=options).epoch(0) as batches:
        yield from batches


def _pixels(batch: Batch) -> Tensor:
    """Return the images of a batch, float32 [B, 3, H, W] in [0, 1], on the CPU."""
    return batch.image.float().cpu() / 255


def _images(view: View, options: LoaderOptions) -> Tensor:
    """Return the images of a view's rows, float32 [M, 3, H, W] in [0, 1], as view.rows lists them."""
    batches = list(_batches(view, options))
    rows = torch.cat([batch.row.cpu() for batch in batches])
    images = torch.cat([_pixels(batch) for batch in batches])
    return images[torch.argsort(rows)[torch.from_numpy(np.argsort(np.argsort(view.rows)))]]


def _draw(path: Path, queries: Tensor, neighbours: Neighbours, real: View, options: LoaderOptions) -> None:
    """Draw the nearest pairs, the nearest first: synthetic images above their training images."""
    shown = np.argsort(neighbours.distance)[:SHOWN]
    rows, position = np.unique(neighbours.nearest[shown], return_inverse=True)
    originals = _images(real.subset(np.isin(real.rows, rows)), options)[position]
    pairs = torch.cat([queries[shown], originals]).reshape(2, len(shown), *queries.shape[1:])
    grid = pairs.permute(0, 3, 1, 4, 2).reshape(2 * queries.shape[2], -1, 3)
    image = Image.fromarray((grid * 255).round().to(torch.uint8).numpy())
    with replacing(path) as (partial,):
        image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.NEAREST).save(partial, format="png")
