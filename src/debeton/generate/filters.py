"""Filters that reject bad synthetic images. The verdict names the reason: black, blank or grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.system.registry import Registry

Image = NDArray[np.uint8]
Filter = Callable[[Image], str]  # uint8 [H, W, 3] -> ACCEPTED, or the reason for the rejection
FILTERS: Registry[Filter] = Registry("filter")

BLACK = 8  # largest value of a black image, in grey levels; a safety checker returns such images
BLANK = 2.0  # a blank image has a smaller standard deviation of the brightness, in grey levels
GREY = 2.0  # a grey image has a smaller mean of (largest - smallest channel) over pixels, in grey levels


@FILTERS.register("standard", "reject black, blank and grey images")
def standard(image: Image) -> str:
    """Return ACCEPTED, or why the image is rejected: 'black', 'blank' or 'grey'.

    black: no value is above BLACK.
    blank: the standard deviation of the brightness is below BLANK.
    grey: the mean difference between the colour channels is below GREY. A face in colour before a grey wall passes.
    """
    if image.max() <= BLACK:
        return "black"
    values = image.astype(np.float32)
    if float(values.mean(2).std()) < BLANK:
        return "blank"
    if float((values.max(2) - values.min(2)).mean()) < GREY:
        return "grey"
    return ACCEPTED


def published_grey_filter(threshold: float) -> Filter:
    """Return the grey filter of From Fake to Real (arXiv 2308.04553).

    Each channel is summed over the pixels. An image is grey where |mean of the three sums - sum of red| < threshold.
    The filter also rejects images in colour whose mean red is near their mean brightness.

    threshold: for images of 512 x 512 pixels (1.5e6 is 5.7 grey levels); scaled to the size of the image.
    """

    def verdict(image: Image) -> str:
        """Return ACCEPTED or 'grey'."""
        sums = image.reshape(-1, 3).sum(0, dtype=np.float64) * (512 * 512 / (image.shape[0] * image.shape[1]))
        return "grey" if abs(sums.mean() - sums[0]) < threshold else ACCEPTED

    return verdict


FILTERS.add("ffr_faces", published_grey_filter(1.5e6), "the grey filter of From Fake to Real for faces")
FILTERS.add("ffr_animals", published_grey_filter(2.0e5), "the grey filter of From Fake to Real for animals")
FILTERS.add("none", lambda image: ACCEPTED, "keep every image")
