"""CutMix: a box of one image is put into another, and their labels are mixed by area.

Yun et al. 2019 (arXiv 1905.04899). It changes the loss, so that no loader can apply it. `train/cut_mixing.py` applies
it to the batches of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from debeton.data.draws import I64, U8, Keys
from debeton.data.loader.augmentations.registry import register_augmentation


@register_augmentation("cutmix", "cutmix:ALPHA puts a box of another image into each image, and mixes the labels")
@dataclass(frozen=True)
class CutMix:
    """Augmentation that mixes a batch and its labels.

    alpha: of Beta(alpha, alpha), from which the share of the image that stays is drawn; above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha:g}; expected a number above 0")

    def __call__(self, images: U8, keys: Keys, rows: I64) -> U8:
        raise TypeError("CutMix mixes labels; it is applied to batches by the training loop")

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw the box of one batch as top, left, bottom, right.

        Its sides are sqrt(1 - lam) of the image's, lam ~ Beta(alpha, alpha), around a uniform centre; the part outside
        the image is cut off.
        """
        share = np.sqrt(1 - rng.beta(self.alpha, self.alpha))
        edges = []
        for length in size:
            centre, side = int(rng.integers(length)), int(length * share)
            edges.append((max(centre - side // 2, 0), min(centre + side // 2, length)))
        (top, bottom), (left, right) = edges
        return top, left, bottom, right
