"""The registry of augmentations, and what an augmentation is.

An augmentation is called on a batch: images uint8 [B, H, W, 3], which it may change, keys uint64 [B] to draw from
(`data/draws.py`), and rows int64 [B] of the beton. It returns the images. Its randomness is counter-based: the same
pixels whatever the number of workers and processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from debeton.data.draws import I64, U8, Keys
from debeton.data.loader.pixels import Moves
from debeton.system.registry import Registry

# images uint8 [B, H, W, 3] (may be changed in place), keys uint64 [B], rows int64 [B] of the beton -> images
Op = Callable[[U8, Keys, I64], U8]
OPS: Registry[Callable[..., Op]] = Registry("augmentation")
A = TypeVar("A", bound=Callable[..., Any])


def register_augmentation(name: str, summary: str) -> Callable[[type[A]], type[A]]:
    """Return a decorator that registers an augmentation: a class whose instances are called on a batch.

    name: as --training.augment takes it; the numbers of 'name:1:0.5' are the arguments of the class, in order.
    summary: the line that `debeton list augmentations` prints.
    An instance is called with images uint8 [B, H, W, 3] (which it may change), keys uint64 [B] to draw from
    (`debeton.data.draws.uniform`), and rows int64 [B] of the beton; it returns the images.
    """

    def decorate(kind: type[A]) -> type[A]:
        OPS.add(name, kind, summary)
        return kind

    return decorate


@runtime_checkable
class Mover(Protocol):
    """An augmentation that can be expressed as `Moves` of a batch, for images of (height, width) pixels."""

    def moves(self, keys: Keys, size: tuple[int, int]) -> Moves: ...


def require_whole(name: str, value: float, low: int) -> None:
    """Raise ValueError unless an argument is a whole number of at least `low`."""
    if value != int(value) or value < low:
        raise ValueError(f"{name} is {value:g}; expected a whole number, {low} or more")


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless an argument lies from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}; expected {low:g} to {high:g}")
