"""irm_coloured_mnist: environments, flips and colours follow the published rule."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes

from debeton.system.errors import DataError, UsageError

PER_DIGIT = 1200


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Write mnist.npz sorted by digit. Pixel (r, c) of an image is 8 r + c, so that steps show."""
    folder = tmp_path_factory.mktemp("mnist")
    image = (8 * np.arange(28)[:, None] + np.arange(28)).astype(np.uint8)
    label = np.repeat(np.arange(10), PER_DIGIT)
    arrays = {"train_x": np.repeat(image[None], len(label), 0), "train_y": label}
    np.savez(folder / "mnist.npz", **arrays, test_x=arrays["train_x"][:20], test_y=label[:20])
    return folder


def test_every_environment_has_its_flips_and_the_labels_their_noise(raw):
    dataset = load("irm_coloured_mnist", raw)
    assert sizes(dataset) == {"train": 10000, "test": 2000}
    train, test = dataset.splits["train"], dataset.splits["test"]
    for rows, environment, flip in ((train, 0, 0.2), (train, 1, 0.1), (test, 2, 0.9)):
        inside = np.array(rows.columns["environment"]) == environment
        n = inside.sum()
        assert n == (2000 if rows is test else 5000)
        assert abs((rows.label != rows.attribute)[inside].mean() - flip) < 4.5 * np.sqrt(flip * (1 - flip) / n)
        wrong = rows.label != np.array(rows.columns["true_label"])
        assert abs(wrong[inside].mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / n)
        assert abs((np.array(rows.columns["digit"])[inside] < 5).mean() - 0.5) < 4.5 * np.sqrt(0.25 / n)
    assert ((np.array(train.columns["digit"]) < 5) == np.array(train.columns["true_label"])).all()
    assert dataset.spec.columns["environment"] == ("train 0, flip 0.2", "train 1, flip 0.1", "test, flip 0.9")
    used = [*train.columns["base_index"], *test.columns["base_index"]]
    assert len(set(used)) == len(used) == 12000


@pytest.mark.parametrize(("size", "step"), [(14, 2), (28, 1)])
def test_an_image_has_its_grey_values_in_one_channel(raw, size, step):
    rows = load("irm_coloured_mnist", raw, size=size).splits["train"]
    for row in (0, 1, 2, 3, 4):
        image = rows.image(row)
        assert image.shape == (size, size, 3)
        assert image[1, 1, rows.attribute[row]] == 9 * step
        assert not np.delete(image, rows.attribute[row], axis=2).any()


def test_flips_of_zero_and_one_are_exact_and_three_environments_are_possible(raw):
    dataset = load("irm_coloured_mnist", raw, flips="0,1,0", test_flip=1.0, label_noise=0.0)
    train = dataset.splits["train"]
    flipped = (train.label != train.attribute).astype(int)
    assert (flipped == (np.array(train.columns["environment"]) == 1)).all()
    assert (train.label == (np.array(train.columns["digit"]) < 5)).all()
    assert (dataset.splits["test"].label != dataset.splits["test"].attribute).all()


def test_the_environment_can_be_the_attribute_of_a_beton(raw, tmp_path):
    beton = round_trip(load("irm_coloured_mnist", raw), "test", tmp_path / "i.beton", "raw")
    assert set(beton.extra["environment"].tolist()) == {2}
    assert beton.spec.columns["digit"] == tuple("0123456789")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": "0.2,often"}, "--flips: 'often' is no probability"),
        ({"test_flip": 1.5}, "--test-flip: '1.5' is no probability"),
        ({"label_noise": -0.1}, "--label-noise: '-0.1' is no probability"),
        ({"size": 20}, "--size 20 is unknown"),
    ],
)
def test_wrong_options_are_explained(raw, options, message):
    with pytest.raises(UsageError, match=message):
        load("irm_coloured_mnist", raw, **options)


def test_too_few_images_are_an_error(tmp_path):
    few = {"train_x": np.zeros((3, 28, 28), np.uint8), "train_y": np.arange(3)}
    np.savez(tmp_path / "mnist.npz", **few, test_x=few["train_x"], test_y=few["train_y"])
    with pytest.raises(DataError, match="3 images are too few for 3 environments"):
        load("irm_coloured_mnist", tmp_path)
