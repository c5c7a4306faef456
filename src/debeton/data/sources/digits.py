"""Scikit-learn's digits: 1,797 real handwritten digits, grey, 8x8, 10 classes.

Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test part); CC BY 4.0.
The set comes with scikit-learn, without a raw folder or a download. Values 0 to 16 become 0 to 255 and images 28x28
(bilinear), so that the set can replace MNIST. The owners publish no split of these images, so we fix one. The last 20 %
(rounded) of each class in listing order are test: 1,438 + 359 images.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from debeton.data.raw.image_files import array_rows
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec

SIZE = 28


@register_source("digits", "scikit-learn's 1,797 handwritten digits, upscaled to 28x28", "it comes with scikit-learn")
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    label = np.asarray(bunch.target, np.int64)
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(g).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for g in grey])
    test = np.zeros(len(label), bool)
    for k in range(10):
        rows = np.flatnonzero(label == k)
        test[rows[len(rows) - round(0.2 * len(rows)) :]] = True
    spec = DatasetSpec("digits", tuple("0123456789"), mean=(0.5,) * 3, std=(0.5,) * 3)
    parts = {"train": ~test, "test": test}
    return Dataset(
        spec, {split: array_rows(images[part], label[part], f"{split}-images") for split, part in parts.items()}
    )
