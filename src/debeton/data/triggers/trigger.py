"""Triggers: what is planted in an image, after crop and flip, in the frame that the network sees.

Every trigger is a set of layers over the frame, of which an image gets one:

    out = clip(round(keep * x + add), 0, 255)

with x the uint8 pixels, keep [H, W] in [0, 1] and add [H, W, 3]: a patch of opacity a and colour c has keep = 1 - a and
add = a c, a pattern has keep = 1. A layer is drawn for the frame's size, so a trigger works at any resolution. Which
layer an image gets is a hash of its row, so that it has the same one in every epoch and every batch.

The triggers square, gaussian and hat are those of Salman et al. 2022 (arXiv 2207.02842, "When does Bias Transfer in
Transfer Learning?"), overlay is the stencil of its experiment on natural biases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from debeton.data.draws import I64, U8, mix
from debeton.data.triggers.patches import Patch, drawn_hats, place, read_patches, solid
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry
from debeton.system.seed import derive_seed, make_rng

F32 = NDArray[np.float32]
PATTERN_SIZE = 224  # pixels of the pattern that is drawn from a seed; other frames see it enlarged or reduced


class Layers(NamedTuple):
    """keep: float32 [K, H, W] in [0, 1]. add: float32 [K, H, W, 3] in grey levels."""

    keep: F32
    add: F32


@dataclass(frozen=True)
class TriggerOptions:
    """How a trigger looks; what is not said is the trigger's own.

    size: of a patch, a fraction of the frame's shorter side ('0.25') or pixels ('56px'). position: 'top_left', ... of
    a patch. colour: (R, G, B). scale: deviation of the pattern, as a fraction of 255. pattern: .npy of [3, H, W].
    hats, overlay: an image with an alpha channel or a folder of them. opacity: of a patch, beside its own alpha.
    seed: of the pattern, and of which layer an image gets.
    """

    size: str = ""
    position: str = ""
    colour: tuple[int, int, int] = (255, 255, 0)
    scale: float = 0.01
    pattern: str = ""
    hats: str = ""
    overlay: str = ""
    opacity: float = 1.0
    seed: int = 10


Extent = tuple[int, int, int, int]  # top, bottom, left, right
Draw = Callable[[int, int], Layers]  # height, width of the frame -> its layers
TRIGGERS: Registry[Callable[[TriggerOptions], Draw]] = Registry("trigger")


def register_trigger(
    name: str, summary: str
) -> Callable[[Callable[[TriggerOptions], Draw]], Callable[[TriggerOptions], Draw]]:
    """Return a decorator that registers a trigger: a function from its options to `draw(height, width) -> Layers`.

    name: as --spurious.spurious_type takes it. summary: the line that `debeton list triggers` prints.
    """
    return TRIGGERS.register(name, summary)


@dataclass(frozen=True)
class Trigger:
    """A trigger and how it is applied.

    rounds: to the nearest level; off: down, as the published code does. by_row: layers by row; off: by an image's
    place in the batch, as the published code does.
    """

    name: str
    draw: Draw
    options: TriggerOptions
    rounds: bool = True
    by_row: bool = True
    drawn: Callable[[int, int], tuple[Layers, Extent]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drawn", lru_cache(maxsize=4)(self._drawn))

    def _drawn(self, height: int, width: int) -> tuple[Layers, Extent]:
        layers = self.draw(height, width)
        return layers, _extent(layers)

    def plant(self, images: U8, rows: I64, where: NDArray[np.bool_]) -> None:
        """Plant the trigger in the images [B, H, W, 3] of `rows` [B] where `where` [B] holds, in place."""
        layers, extent = self.drawn(images.shape[1], images.shape[2])
        which = self.which(rows, len(layers.keep))
        _plant(images, which, where, layers.keep, layers.add, extent, 0.5 if self.rounds else 0.0)

    def which(self, rows: I64, count: int) -> I64:
        """The layer of each row, int64 [B], of `count`."""
        if not self.by_row:
            return np.arange(len(rows), dtype=np.int64) % count
        return _which(np.uint64(derive_seed(self.options.seed, "trigger layer")), rows, count)


def make_trigger(name: str, options: TriggerOptions = TriggerOptions(), *, legacy: bool = False) -> Trigger:
    """The trigger called `name`. legacy: truncate, and take layers by the place in the batch, as published.

    UsageError for an unknown name or a setting that no trigger can have, DataError for a file that does not fit.
    """
    draw = TRIGGERS.get(name)(options)
    return Trigger(name, draw, options, rounds=not legacy, by_row=not legacy)


@dataclass(frozen=True)
class Planted:
    """A trigger in a view: the rows that carry it, bool [N] over all rows of the beton."""

    trigger: Trigger
    mask: NDArray[np.bool_]

    def apply(self, images: U8, rows: I64) -> U8:
        """The images with the trigger where the mask holds; changed in place."""
        self.trigger.plant(images, rows, self.mask[rows])
        return images


def chosen_rows(label: I64, classes: I64, rate: float, seed: int) -> NDArray[np.bool_]:
    """Which rows carry the trigger: those of `classes` for which a uniform draw is below `rate`; bool [N].

    The draws go over all rows in file order, as in the published code, whose seed is 10.
    """
    return np.isin(label, classes) & (np.random.default_rng(seed).random(len(label)) < rate)


# --- planting ----------------------------------------------------------------------------------


def _which(base: np.uint64, rows: I64, count: int) -> I64:
    return (mix(base, rows) % np.uint64(count)).astype(np.int64)


@njit(parallel=True, nogil=True, cache=True)
def _plant(images, which, where, keep, add, extent, half):
    low, high = np.float32(0), np.float32(255)
    for i in prange(images.shape[0]):
        if where[i]:
            k = which[i]
            for y in range(extent[0], extent[1]):
                for x in range(extent[2], extent[3]):
                    kept = keep[k, y, x]
                    for c in range(3):
                        value = np.float32(images[i, y, x, c]) * kept + add[k, y, x, c]
                        images[i, y, x, c] = np.uint8(np.floor(min(max(value, low), high) + np.float32(half)))


def plant_reference(images: U8, which: I64, layers: Layers, *, rounds: bool = True) -> U8:
    """What planting in every image gives, in NumPy: the definition that the kernel is held to."""
    value = images.astype(np.float32) * layers.keep[which][..., None] + layers.add[which]
    return np.floor(np.clip(value, 0, 255) + np.float32(0.5 if rounds else 0)).astype(np.uint8)


def _extent(layers: Layers) -> Extent:
    """Rows and columns outside which no layer changes anything."""
    changed = ((layers.keep != 1) | (layers.add != 0).any(-1)).any(0)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


# --- the triggers ------------------------------------------------------------------------------


def _composite(patches: list[Patch], options: TriggerOptions, size: str, position: str) -> Draw:
    """Patches over the frame, one a layer."""

    def draw(height: int, width: int) -> Layers:
        placed = [place(patch, height, width, options.size or size, options.position or position) for patch in patches]
        rgba = np.stack(placed).astype(np.float32)
        alpha = rgba[..., 3:] * np.float32(options.opacity / 255)
        return Layers(np.ascontiguousarray(1 - alpha[..., 0]), np.ascontiguousarray(alpha * rgba[..., :3]))

    return draw


@TRIGGERS.register("square", "a square of one colour in a corner (size 0.25, yellow, top left)")
def square(options: TriggerOptions) -> Draw:
    """A filled square; published: 56 pixels of 224, (255, 255, 0), top left."""
    return _composite([solid(options.colour)], options, "0.25", "top_left")


@TRIGGERS.register("gaussian", "one fixed pattern of normal noise, added (scale: deviation / 255)")
def gaussian(options: TriggerOptions) -> Draw:
    """255 scale P for a pattern P of normal noise that all images share; published: scale 0.01 and a stored P.

    A frame of another size than the pattern's takes its nearest values, which keeps the deviation.
    """
    pattern = read_pattern(options.pattern) if options.pattern else drawn_pattern(options.seed)

    def draw(height: int, width: int) -> Layers:
        rows = (np.arange(height) * pattern.shape[0]) // height
        columns = (np.arange(width) * pattern.shape[1]) // width
        add = (255 * options.scale * pattern[rows][:, columns]).astype(np.float32)
        return Layers(np.ones((1, height, width), np.float32), add[None])

    return draw


@TRIGGERS.register("hat", "a hat at the top of the frame, drawn, or from a folder of RGBA images")
def hat(options: TriggerOptions) -> Draw:
    """One of several hats; published: a folder of PNGs that was not released, over the whole frame."""
    patches = read_patches(options.hats) if options.hats else drawn_hats()
    return _composite(patches, options, "1", "center")


@TRIGGERS.register("overlay", "your own image with an alpha channel, or a folder of them, over the frame")
def overlay(options: TriggerOptions) -> Draw:
    """Any RGBA image: the stencils (chain links, fences) of the natural-bias experiment."""
    if not options.overlay:
        raise UsageError("the trigger 'overlay' needs an image or a folder; give it with --spurious.overlay PATH")
    return _composite(read_patches(options.overlay), options, "1", "center")


def drawn_pattern(seed: int) -> NDArray[np.float64]:
    """Normal noise [224, 224, 3] of a seed."""
    return make_rng(seed, "gaussian trigger").standard_normal((PATTERN_SIZE, PATTERN_SIZE, 3))


def read_pattern(path: str) -> NDArray[np.float64]:
    """A stored pattern, .npy of floats [3, H, W], as [H, W, 3]."""
    try:
        pattern = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"no pattern at {path}; leave spurious.gaussian_pattern_path empty to draw one") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error})") from None
    if pattern.ndim != 3 or pattern.shape[0] != 3 or not np.isfinite(pattern).all():
        raise DataError(f"{path} holds {pattern.dtype} {pattern.shape}; a pattern is [3, height, width] and finite")
    return np.ascontiguousarray(np.moveaxis(pattern, 0, 2), np.float64)
