"""copies.py: copies of training images among synthetic ones are found, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.diffusion.copies import copy_check, nearest

OPTIONS = LoaderOptions(decoder="simple", ops="none", normalise=False)


@pytest.fixture(scope="module")
def real(toy_betons: Path) -> View:
    return View.whole(open_beton(toy_betons / "toy_train.beton"))


def pixels(seed: int, n: int, share: float) -> np.ndarray:
    rows = toy_rows(n, share, seed)
    return np.stack([np.asarray(rows.image(i)) for i in range(n)])


def test_the_nearest_image_is_that_of_a_plain_loop(real):
    ours = pixels(0, 512, 0.9).reshape(512, -1).astype(np.float64) / 255  # the images of toy_train, as written
    queries = pixels(7, 20, 0.5)
    found = nearest(torch.from_numpy(queries).permute(0, 3, 1, 2).float() / 255, real, OPTIONS)
    distances = np.sqrt(((queries.reshape(20, 1, -1) / 255.0 - ours[None]) ** 2).mean(-1))
    np.testing.assert_allclose(found.distance, distances.min(1), rtol=1e-5)
    assert found.nearest.tolist() == distances.argmin(1).tolist()


@pytest.mark.parametrize(("copied", "share"), [(0, 0.0), (16, 0.5), (32, 1.0)])
def test_the_share_of_copies_is_that_of_the_images_taken_from_the_set(real, tmp_path, copied, share):
    rows = toy_rows(32, 0.5, 5)
    source = pixels(0, 512, 0.9)
    images = np.concatenate([source[:copied], pixels(11, 32, 0.5)[copied:]])
    write_beton(
        tmp_path / "synthetic.beton",
        replace(rows, image=images.__getitem__),
        TOY_SPEC,
        "train",
        WriteOptions(mode="raw"),
    )
    synthetic = View.whole(open_beton(tmp_path / "synthetic.beton"))
    found = copy_check(real, synthetic, OPTIONS, picture=tmp_path / "nearest.png")
    assert found["compared"] == 32
    assert found["copies"] == pytest.approx(share, abs=0.05)  # of new images, one in a hundred is as near by chance
    assert found["median_distance_of_real"] > 0.05
    with Image.open(tmp_path / "nearest.png") as picture:
        assert picture.size == (16 * 16 * 2, 2 * 16 * 2)
    if copied >= 16:  # the nearest pairs are the copies: both rows of the picture are the same
        with Image.open(tmp_path / "nearest.png") as picture:
            upper, lower = np.split(np.asarray(picture).astype(int), 2)
        assert np.abs(upper - lower).max() <= 1
