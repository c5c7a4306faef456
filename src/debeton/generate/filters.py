"""Which generated images are kept: what is black, blank or grey is rejected, with a verdict that says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.system.registry import Registry

Image = NDArray[np.uint8]
Filter = Callable[[Image], str]  # uint8 [H, W, 3] -> KEPT or the reason against it
FILTERS: Registry[Filter] = Registry("filter")

BLACK = 8  # no pixel brighter than this: what a safety checker leaves
BLANK = 2.0  # standard deviation of the brightness, in grey levels
GREY = 2.0  # mean over pixels of the largest minus the smallest channel, in grey levels


@FILTERS.register("standard", "reject black, blank and grey images")
def standard(image: Image) -> str:
    """'black': no value above BLACK. 'blank': the brightness deviates by less than BLANK. 'grey': colours differ by
    less than GREY on average. A grey wall behind a face in colour is not grey."""
    if image.max() <= BLACK:
        return "black"
    values = image.astype(np.float32)
    if float(values.mean(2).std()) < BLANK:
        return "blank"
    if float((values.max(2) - values.min(2)).mean()) < GREY:
        return "grey"
    return ACCEPTED


def published(threshold: float) -> Filter:
    """From Fake to Real's filter: 'grey' where |mean over channels of the pixel sums - sum of red| is below it.

    A sum over the pixels of 512 x 512 images (1.5e6 is 5.7 grey levels), scaled to the size of the image. It also
    rejects pictures in colour whose mean red is near their mean brightness.
    """

    def verdict(image: Image) -> str:
        sums = image.reshape(-1, 3).sum(0, dtype=np.float64) * (512 * 512 / (image.shape[0] * image.shape[1]))
        return "grey" if abs(sums.mean() - sums[0]) < threshold else ACCEPTED

    return verdict


FILTERS.add("ffr_faces", published(1.5e6), "From Fake to Real's grey filter for faces")
FILTERS.add("ffr_animals", published(2.0e5), "From Fake to Real's grey filter for animals")
FILTERS.add("none", lambda image: ACCEPTED, "keep every image")
