"""Did the diffusion model learn images by heart? Generated images beside their nearest training images."""

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

SHOWN, ZOOM = 16, 2


@dataclass(frozen=True)
class Neighbours:
    """distance: float64 [Q], root mean square difference of the pixels in [0, 1] to the nearest image; nearest: its row
    of the beton, int64 [Q]."""

    distance: NDArray[np.float64]
    nearest: Ints


def copy_check(
    real: View, synthetic: View, options: LoaderOptions, *, sample: int = 256, picture: Path | None = None
) -> dict[str, Any]:
    """How near generated images are to training images, against how near training images are to each other.

    options: how both are decoded; their resolution is where they are compared. sample: images of either side whose
    neighbours are sought among all rows of `real`. picture: where the nearest pairs are drawn.

    Returns plain values: compared (how many images), median_distance, median_distance_of_real (each to its nearest
    other one), and copies, the share of generated images that are nearer to a training image than 99 % of the sampled
    training images are to another: 0.01 where the model has learnt the set, 1 where it repeats it.
    """
    options = replace(options, normalise=False, ops="none")
    generated, references = _sampled(synthetic, sample), _sampled(real, sample)
    queries = _images(generated, options)
    found = nearest(queries, real, options)
    among_real = nearest(_images(references, options), real, options, exclude=references.rows)
    bound = float(np.quantile(among_real.distance, 0.01))
    if picture is not None:
        _draw(picture, queries, found, real, options)
    return {
        "compared": len(generated),
        "median_distance": float(np.median(found.distance)),
        "median_distance_of_real": float(np.median(among_real.distance)),
        "copies": float((found.distance < bound).mean()),
    }


def nearest(queries: Tensor, view: View, options: LoaderOptions, exclude: Ints | None = None) -> Neighbours:
    """The nearest of a view's images to each query, float32 [Q, 3, H, W] in [0, 1].

    exclude: int64 [Q], a row of the beton for each query that does not count, as itself. The view is read once, a batch
    at a time.
    """
    flat = queries.flatten(1)
    best = torch.full((len(flat),), float("inf"))
    where = torch.full((len(flat),), -1, dtype=torch.int64)
    excluded = None if exclude is None else torch.from_numpy(np.asarray(exclude))
    for batch in _batches(view, options):
        # In float64: |a|^2 - 2ab + |b|^2 of float32 would lose what tells a copy from its original.
        distances = torch.cdist(flat.double(), _pixels(batch).flatten(1).double())
        if excluded is not None:
            distances = distances.where(excluded[:, None] != batch.row.cpu()[None], float("inf"))
        value, index = distances.min(1)
        nearer = value < best
        best, where = torch.where(nearer, value.float(), best), torch.where(nearer, batch.row.cpu()[index], where)
    return Neighbours((best.double() / flat.shape[1] ** 0.5).numpy(), where.numpy())


def _sampled(view: View, sample: int) -> View:
    positions = np.unique(np.linspace(0, len(view) - 1, min(sample, len(view))).round().astype(np.int64))
    return view.subset(positions)


def _batches(view: View, options: LoaderOptions) -> Iterator[Batch]:
    with make_loader(replace(view, order="sequential"), 256, tail="keep", options=options).epoch(0) as batches:
        yield from batches


def _pixels(batch: Batch) -> Tensor:
    return batch.image.float().cpu() / 255


def _images(view: View, options: LoaderOptions) -> Tensor:
    """Of a view's rows in order, float32 [M, 3, H, W] in [0, 1]."""
    batches = list(_batches(view, options))
    rows = torch.cat([batch.row.cpu() for batch in batches])
    images = torch.cat([_pixels(batch) for batch in batches])
    return images[torch.argsort(rows)[torch.from_numpy(np.argsort(np.argsort(view.rows)))]]


def _draw(path: Path, queries: Tensor, found: Neighbours, real: View, options: LoaderOptions) -> None:
    """The nearest pairs, generated images above training images, the nearest first."""
    order = np.argsort(found.distance)[:SHOWN]
    rows, position = np.unique(found.nearest[order], return_inverse=True)
    originals = _images(real.subset(np.isin(real.rows, rows)), options)[position]
    pairs = torch.cat([queries[order], originals]).reshape(2, len(order), *queries.shape[1:])
    grid = pairs.permute(0, 3, 1, 4, 2).reshape(2 * queries.shape[2], -1, 3)
    image = Image.fromarray((grid * 255).round().to(torch.uint8).numpy())
    with replacing(path) as (partial,):
        image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.NEAREST).save(partial, format="png")
