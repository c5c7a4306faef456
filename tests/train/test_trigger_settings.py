"""Every setting of section 'spurious', from the command line's value to the planted pixels, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.toy import stored_image

from debeton.config import load
from debeton.data.loader.loader import make_loader
from debeton.data.triggers.trigger import Layers, plant_reference
from debeton.train.run_loaders import loader_options
from debeton.train.run_views import prepare_views

SIDE = 16
U8 = NDArray[np.uint8]


def random_pixels(*shape: int, seed: int) -> U8:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hats/ of three images, overlay.png and pattern.npy, in the frame's size."""
    folder = tmp_path_factory.mktemp("triggers")
    (folder / "hats").mkdir()
    for k in range(3):
        Image.fromarray(random_pixels(SIDE, SIDE, 4, seed=k), "RGBA").save(folder / "hats" / f"{k}.png")
    Image.fromarray(random_pixels(SIDE, SIDE, 4, seed=7), "RGBA").save(folder / "overlay.png")
    np.save(folder / "pattern.npy", np.random.default_rng(8).standard_normal((3, SIDE, SIDE)))
    return folder


def planted_images(toy_betons: Path, files: Path, settings: dict[str, object]) -> tuple[U8, U8, Callable]:
    """Return (stored, planted) images [32, 16, 16, 3] of the test split, and the trigger's choice of layers."""
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.decoder_val": "simple",
        "training.num_workers": 1,
        "resolution.val_res": SIDE,
        "spurious.spurious_perc": 1,
        **settings,
    }
    words = [str(word).format(files=files) for key, value in settings.items() for word in (f"--{key}", value)]
    config = load([], words)
    view = prepare_views(config)["test"]
    view = replace(view.subset(np.arange(32)), order="sequential")
    options = replace(loader_options(config, torch.device("cpu")), decoder="simple", normalise=False)
    loader = make_loader(view, 8, tail="keep", options=options)
    with loader.epoch(0) as batches:
        images = torch.cat([batch.image for batch in batches]).permute(0, 2, 3, 1).numpy()
    stored = np.stack([stored_image(toy_betons / "toy_test.beton", int(row)) for row in view.rows])
    assert view.planted is not None
    return stored, images, view.planted.trigger.layer_numbers


def over(patches: list[U8], opacity: float = 1.0) -> Layers:
    """Return the layers of RGBA patches [16, 16, 4] over the frame."""
    rgba = np.stack(patches).astype(np.float32)
    alpha = rgba[..., 3:] * np.float32(opacity / 255)
    return Layers(1 - alpha[..., 0], alpha * rgba[..., :3])


def square(top: int, left: int, side: int, colour: tuple[int, int, int], opacity: float = 1.0) -> Layers:
    patch = np.zeros((SIDE, SIDE, 4), np.uint8)
    patch[top : top + side, left : left + side] = (*colour, 255)
    return over([patch], opacity)


def read(path: Path) -> U8:
    return np.asarray(Image.open(path))


def pattern(path: Path, scale: float) -> Layers:
    add = (255 * scale * np.moveaxis(np.load(path), 0, 2)).astype(np.float32)
    return Layers(np.ones((1, SIDE, SIDE), np.float32), add[None])


YELLOW = (255, 255, 0)
CASES: dict[str, tuple[dict[str, object], Callable[[Path], Layers]]] = {
    "the square's own place and colour": ({"spurious_type": "square"}, lambda _: square(0, 0, 4, YELLOW)),
    "size": ({"spurious_type": "square", "size": "3px"}, lambda _: square(0, 0, 3, YELLOW)),
    "position": ({"spurious_type": "square", "position": "bottom_right"}, lambda _: square(12, 12, 4, YELLOW)),
    "position, center": ({"spurious_type": "square", "position": "center"}, lambda _: square(6, 6, 4, YELLOW)),
    "colour": ({"spurious_type": "square", "colour": "10,200,30"}, lambda _: square(0, 0, 4, (10, 200, 30))),
    "opacity": ({"spurious_type": "square", "opacity": 0.3}, lambda _: square(0, 0, 4, YELLOW, 0.3)),
    "no opacity": ({"spurious_type": "square", "opacity": 0}, lambda _: square(0, 0, 4, YELLOW, 0.0)),
    "one hat": ({"spurious_type": "hat", "hats": "{files}/hats/1.png"}, lambda f: over([read(f / "hats/1.png")])),
    "a folder of hats": (
        {"spurious_type": "hat", "hats": "{files}/hats"},
        lambda f: over([read(f / f"hats/{k}.png") for k in range(3)]),
    ),
    "overlay": (
        {"spurious_type": "overlay", "overlay": "{files}/overlay.png", "opacity": 0.5},
        lambda f: over([read(f / "overlay.png")], 0.5),
    ),
    "gaussian_pattern_path and gaussian_scale": (
        {"spurious_type": "gaussian", "gaussian_pattern_path": "{files}/pattern.npy", "gaussian_scale": 0.2},
        lambda f: pattern(f / "pattern.npy", 0.2),
    ),
    "gaussian_scale 0": (
        {"spurious_type": "gaussian", "gaussian_pattern_path": "{files}/pattern.npy", "gaussian_scale": 0},
        lambda f: pattern(f / "pattern.npy", 0.0),
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["ours", "as published"])
@pytest.mark.parametrize("name", CASES)
def test_planted_pixels_are_those_of_the_reference(toy_betons, files, name, legacy):
    settings, layers_of = CASES[name]
    given = {f"spurious.{key}": value for key, value in {**settings, "legacy": legacy}.items()}
    stored, images, which_layer = planted_images(toy_betons, files, given)
    layers = layers_of(files)
    count = len(layers.keep)
    which = np.tile(np.arange(8), 4) % count if legacy else which_layer(np.arange(32), count)
    np.testing.assert_array_equal(images, plant_reference(stored, which, layers, rounds=not legacy))
    if count > 1:
        assert set(which) == set(range(count))


def test_published_values_are_cut_off_where_ours_are_rounded(toy_betons, files):
    settings = {"spurious.spurious_type": "square", "spurious.opacity": 0.3}
    stored, ours, _ = planted_images(toy_betons, files, settings)
    _, published, _ = planted_images(toy_betons, files, {**settings, "spurious.legacy": "true"})
    difference = ours.astype(int) - published
    assert set(np.unique(difference[:, :4, :4])) == {0, 1}
    assert not difference[:, 4:].any()
    assert (ours[:, 4:] == stored[:, 4:]).all()


def test_a_drawn_pattern_goes_by_the_seed(toy_betons, files):
    settings = {"spurious.spurious_type": "gaussian", "spurious.gaussian_scale": 0.1}
    first, again, other = (
        planted_images(toy_betons, files, {**settings, "spurious.seed": seed})[1] for seed in (10, 10, 11)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
