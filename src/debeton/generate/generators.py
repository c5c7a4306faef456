"""Who makes images: the protocol, and the registry of generators, one module each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from debeton.generate.prompts import Condition
from debeton.registry import Registry


@dataclass(frozen=True)
class Order:
    """One image to be made. number: of the image in its condition's part of the set, from 0."""

    condition: Condition
    number: int
    prompt: str
    seed: int


class Generator(Protocol):
    """Makes images to order.

    identity: plain values that decide what the images look like, for generator.json. attempts: how often an image is
    made anew, with another seed, when the filter rejects it.
    """

    identity: dict[str, Any]
    attempts: int

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3], one image an order; the same order gives the same image."""
        ...


@dataclass(frozen=True)
class Maker:
    """A registered generator: `make(arguments)` builds it, `add_arguments` declares its options."""

    make: Callable[[argparse.Namespace], Generator]
    add_arguments: Callable[[argparse.ArgumentParser], None]


GENERATORS: Registry[Maker] = Registry("generator")
