"""Triggers: changes planted in images, after crop and flip, in the frame that the network sees.

A trigger is a set of layers over the frame. Each image gets one of them:

    out = clip(round(keep * x + add), 0, 255)

x are the uint8 pixels, keep is [H, W] in [0, 1] and add is [H, W, 3] in grey levels. A patch of opacity a and colour c
has keep = 1 - a and add = a c. A pattern has keep = 1. A layer is drawn for the size of the frame, so a trigger works
at any resolution. A hash of the row chooses the layer, so an image has the same layer in every epoch and every batch.

The triggers square, gaussian and hat are those of Salman et al. 2022 (arXiv 2207.02842, "When does Bias Transfer in
Transfer Learning?"). The trigger overlay is the stencil of its experiment on natural biases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from debeton.data.draws import I64, U8, mix
from debeton.data.triggers.patches import Patch, drawn_hats, place_patch, read_patches, solid_patch
from debeton.system.array_files import read_npy
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry
from debeton.system.seed import derive_seed, make_rng

F32 = NDArray[np.float32]
PATTERN_SIZE = 224  # sides in pixels of the pattern that is drawn from a seed


class Layers(NamedTuple):
    """The layers of a trigger in one frame.

    keep: float32 [K, H, W] in [0, 1], the factor of the pixels.
    add: float32 [K, H, W, 3] in grey levels.
    """

    keep: F32
    add: F32


@dataclass(frozen=True)
class TriggerOptions:
    """The look of a trigger. None means the trigger's own default.

    size: of a patch, a fraction of the frame's shorter side ('0.25') or pixels ('56px').
    position: of a patch, e.g. 'top_left'.
    colour: of the square, (R, G, B).
    scale: standard deviation of the pattern, as a fraction of 255.
    pattern: a .npy file of floats [3, H, W].
    hats, overlay: an image with an alpha channel, or a folder of such images.
    opacity: of a patch, multiplied by its own alpha.
    cut_hats: cut the centre out of an image of `hats` instead of resizing the image, as the published code does.
    seed: of the pattern, and of the layer that an image gets.
    """

    size: str | None = None
    position: str | None = None
    colour: tuple[int, int, int] = (255, 255, 0)
    scale: float = 0.01
    pattern: str | None = None
    hats: str | None = None
    overlay: str | None = None
    cut_hats: bool = False
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
    """A trigger and the way in which it is planted.

    rounds: round to the nearest level. Off: round down, as the published code does.
    by_row: choose the layer by row. Off: by the place of an image in the batch, as the published code does.
    layers_for: the layers for a frame of (height, width), and the part of the frame that they change. The last four
        sizes are cached.
    """

    name: str
    draw: Draw
    options: TriggerOptions
    rounds: bool = True
    by_row: bool = True
    layers_for: Callable[[int, int], tuple[Layers, Extent]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers_for", lru_cache(maxsize=4)(self._draw_layers))

    def _draw_layers(self, height: int, width: int) -> tuple[Layers, Extent]:
        layers = self.draw(height, width)
        return layers, _extent(layers)

    def plant(self, images: U8, rows: I64, mask: NDArray[np.bool_]) -> None:
        """Plant the trigger in images [B, H, W, 3], in place.

        rows: the row of each image, int64 [B].
        mask: the images to change, bool [B].
        """
        layers, extent = self.layers_for(images.shape[1], images.shape[2])
        layer = self.layer_numbers(rows, len(layers.keep))
        _plant(images, layer, mask, layers.keep, layers.add, extent, 0.5 if self.rounds else 0.0)

    def layer_numbers(self, rows: I64, num_layers: int) -> I64:
        """Return the layer of each row, int64 [B] below `num_layers`."""
        if not self.by_row:
            return np.arange(len(rows), dtype=np.int64) % num_layers
        return _layers_by_hash(np.uint64(derive_seed(self.options.seed, "trigger layer")), rows, num_layers)


def make_trigger(name: str, options: TriggerOptions = TriggerOptions(), *, legacy: bool = False) -> Trigger:
    """Return the trigger called `name`.

    legacy: round down, choose layers by the place in the batch, and cut hats out of their files, as the published code
        does.
    UsageError for an unknown name or an impossible setting. DataError for a file that does not fit.
    """
    if legacy:
        options = replace(options, cut_hats=True)
    draw = TRIGGERS.get(name)(options)
    return Trigger(name, draw, options, rounds=not legacy, by_row=not legacy)


@dataclass(frozen=True)
class PlantedTrigger:
    """A trigger in a view. mask: the rows that carry it, bool [N] over all rows of the beton."""

    trigger: Trigger
    mask: NDArray[np.bool_]

    def apply(self, images: U8, rows: I64) -> U8:
        """Plant the trigger in the images whose row is in the mask. Return the same array, changed in place."""
        self.trigger.plant(images, rows, self.mask[rows])
        return images


def rows_with_trigger(label: I64, classes: I64, rate: float, seed: int) -> NDArray[np.bool_]:
    """Return the rows that carry the trigger, bool [N].

    They are the rows of `classes` for which a uniform draw is below `rate`. The draws go over all rows in file order,
    as in the published code, whose seed is 10.

    label: int64 [N].
    classes: the labels whose rows can carry the trigger.
    rate: the share of these rows, 0 to 1.
    seed: of the draws.
    """
    return np.isin(label, classes) & (np.random.default_rng(seed).random(len(label)) < rate)


# --- planting ----------------------------------------------------------------------------------


def _layers_by_hash(base: np.uint64, rows: I64, num_layers: int) -> I64:
    """Return a layer below `num_layers` for each row, by a hash of the row."""
    return (mix(base, rows) % np.uint64(num_layers)).astype(np.int64)


@njit(parallel=True, nogil=True, cache=True)
def _plant(images, layer, mask, keep, add, extent, half):
    low, high = np.float32(0), np.float32(255)
    for i in prange(images.shape[0]):
        if mask[i]:
            k = layer[i]
            for y in range(extent[0], extent[1]):
                for x in range(extent[2], extent[3]):
                    factor = keep[k, y, x]
                    for c in range(3):
                        value = np.float32(images[i, y, x, c]) * factor + add[k, y, x, c]
                        images[i, y, x, c] = np.uint8(np.floor(min(max(value, low), high) + np.float32(half)))


def plant_reference(images: U8, layer: I64, layers: Layers, *, rounds: bool = True) -> U8:
    """Plant a layer in every image, in NumPy. This is the definition that the kernel is tested against.

    images: uint8 [B, H, W, 3].
    layer: the layer of each image, int64 [B].
    """
    value = images.astype(np.float32) * layers.keep[layer][..., None] + layers.add[layer]
    return np.floor(np.clip(value, 0, 255) + np.float32(0.5 if rounds else 0)).astype(np.uint8)


def _extent(layers: Layers) -> Extent:
    """Return the rows and columns outside which no layer changes anything: top, bottom, left, right."""
    changed = ((layers.keep != 1) | (layers.add != 0).any(-1)).any(0)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


# --- the triggers ------------------------------------------------------------------------------


def _draw_over(patches: list[Patch], options: TriggerOptions, size: str, position: str) -> Draw:
    """Return the layers of patches over the frame, one layer per patch.

    size, position: used where the options leave them empty.
    """

    def draw(height: int, width: int) -> Layers:
        where = (options.size or size, options.position or position)
        rgba = np.stack([place_patch(patch, height, width, *where) for patch in patches]).astype(np.float32)
        alpha = rgba[..., 3:] * np.float32(options.opacity / 255)
        return Layers(np.ascontiguousarray(1 - alpha[..., 0]), np.ascontiguousarray(alpha * rgba[..., :3]))

    return draw


@TRIGGERS.register("square", "a square of one colour in a corner (size 0.25, yellow, top left)")
def square(options: TriggerOptions) -> Draw:
    """Draw a filled square. Published: 56 pixels of 224, colour (255, 255, 0), top left."""
    return _draw_over([solid_patch(options.colour)], options, "0.25", "top_left")


@TRIGGERS.register("gaussian", "one fixed pattern of normal noise, added (scale: deviation / 255)")
def gaussian(options: TriggerOptions) -> Draw:
    """Add 255 scale P, with one pattern P of normal noise for all images.

    Published: scale 0.01 and a stored P.
    A frame of another size takes the nearest values of the pattern, which keeps their deviation.
    """
    pattern = drawn_pattern(options.seed) if options.pattern is None else read_pattern(options.pattern)

    def draw(height: int, width: int) -> Layers:
        rows = (np.arange(height) * pattern.shape[0]) // height
        columns = (np.arange(width) * pattern.shape[1]) // width
        add = (255 * options.scale * pattern[rows][:, columns]).astype(np.float32)
        return Layers(np.ones((1, height, width), np.float32), add[None])

    return draw


@TRIGGERS.register("hat", "a hat at the top of the frame, drawn, or from a folder of RGBA images")
def hat(options: TriggerOptions) -> Draw:
    """Draw one of several hats. Published: a folder of PNGs that was not released, over the whole frame.

    The published code cuts the centre of the frame's size out of a PNG, as spurious.legacy does here. Otherwise a file
    is resized to the frame.
    """
    patches = drawn_hats() if options.hats is None else read_patches(options.hats, resized=not options.cut_hats)
    return _draw_over(patches, options, "1", "center")


@TRIGGERS.register("overlay", "your own image with an alpha channel, or a folder of them, over the frame")
def overlay(options: TriggerOptions) -> Draw:
    """Draw any RGBA image, such as the stencils (chain links, fences) of the experiment on natural biases."""
    if options.overlay is None:
        raise UsageError("the trigger 'overlay' needs an image or a folder; give it with --spurious.overlay PATH")
    return _draw_over(read_patches(options.overlay), options, "1", "center")


def drawn_pattern(seed: int) -> NDArray[np.float64]:
    """Draw the normal noise of a seed, [224, 224, 3]."""
    return make_rng(seed, "gaussian trigger").standard_normal((PATTERN_SIZE, PATTERN_SIZE, 3))


def read_pattern(path: str) -> NDArray[np.float64]:
    """Read a stored pattern, .npy of floats [3, H, W], and return it as [H, W, 3].

    DataError if the file does not hold such a pattern.
    """
    try:
        pattern = read_npy(Path(path))
    except FileNotFoundError:
        raise DataError(f"no pattern at {path}; leave spurious.gaussian_pattern_path empty to draw one") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error}); expected floats [3, height, width]") from None
    if pattern.ndim != 3 or pattern.shape[0] != 3 or not np.isfinite(pattern).all():
        raise DataError(f"{path} holds {pattern.dtype} {pattern.shape}; a pattern is [3, height, width] and finite")
    return np.ascontiguousarray(np.moveaxis(pattern, 0, 2), np.float64)
