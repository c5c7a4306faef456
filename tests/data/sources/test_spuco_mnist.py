"""spuco_mnist: classes, backgrounds, noise and splits follow the package's rule."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes

from debeton.system.errors import DataError, UsageError

PER_DIGIT = 60
COLOURS = ("#ff0000", "#d1ff00", "#00ff5c", "#0074ff", "#b900ff")  # matplotlib's hsv at 0, 0.2, 0.4, 0.6 and 0.8


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Write mnist.npz with 60 + 20 images of each digit, all with a grey square in the middle."""
    folder = tmp_path_factory.mktemp("mnist")
    arrays = {}
    for split, count in (("train", PER_DIGIT), ("test", 20)):
        images = np.zeros((10 * count, 28, 28), np.uint8)
        images[:, 10:20, 10:20] = 150
        arrays |= {f"{split}_x": images, f"{split}_y": np.repeat(np.arange(10), count)}
    np.savez(folder / "mnist.npz", **arrays)
    return folder


def test_classes_are_digit_pairs_and_train_has_the_strength(raw):
    dataset = load("spuco_mnist", raw, strength=0.9)
    assert sizes(dataset) == {"train": 480, "val": 120, "test": 200}
    assert dataset.spec.classes == ("0+1", "2+3", "4+5", "6+7", "8+9")
    assert dataset.spec.attributes == COLOURS
    train, test = dataset.splits["train"], dataset.splits["test"]
    for code in range(5):
        own = train.attribute[train.label == code]
        counts = np.bincount(own, minlength=5)
        assert counts[code] == int(0.9 * len(own))
        assert np.ptp(np.delete(counts, code)) <= 1
    assert np.bincount(test.label * 5 + test.attribute).tolist() == [8] * 25
    used = [*train.columns["base_index"], *dataset.splits["val"].columns["base_index"]]
    assert sorted(used) == list(range(600))


@pytest.mark.parametrize(
    ("difficulty", "pixels", "side"),
    [
        ("magnitude_large", 28 * 28 - 100, 28),
        ("magnitude_medium", 16, 4),
        ("magnitude_small", 4, 2),
        ("variance_low", 49, 7),
    ],
)
def test_the_background_fills_the_black_pixels_of_its_part(raw, difficulty, pixels, side):
    rows = load("spuco_mnist", raw, difficulty=difficulty).splits["test"]
    image = rows.image(5)
    coloured = (image == [int(COLOURS[rows.attribute[5]][k : k + 2], 16) for k in (1, 3, 5)]).all(2)
    assert coloured.sum() == pixels
    assert not coloured[side:].any()
    assert not coloured[:, side:].any()
    assert (image[10:20, 10:20] == 150).all()


@pytest.mark.parametrize(("difficulty", "side"), [("variance_medium", 14), ("variance_high", 28)])
def test_random_pixels_of_the_background_differ_from_image_to_image(raw, difficulty, side):
    rows = load("spuco_mnist", raw, difficulty=difficulty).splits["train"]
    masks = []
    for row in range(30):
        image = rows.image(row)
        mask = image.any(2)
        mask[10:20, 10:20] = False
        assert 49 * (1 - 100 / side**2) - 40 < mask.sum() <= 49
        assert not mask[side:].any()
        masks.append(mask)
    assert len({mask.tobytes() for mask in masks}) == 30


def test_label_noise_changes_a_share_of_the_train_labels_to_other_classes(raw):
    dataset = load("spuco_mnist", raw, label_noise=0.25)
    train = dataset.splits["train"]
    assert (train.label != train.columns["true_label"]).sum() == 120
    assert (dataset.splits["test"].label == dataset.splits["test"].columns["true_label"]).all()
    assert np.bincount(train.label, minlength=5).min() > 60


def test_feature_noise_leaves_forty_percent_of_the_digit_in_a_share_of_train(raw):
    dataset = load("spuco_mnist", raw, feature_noise=0.5)
    left = np.array([(dataset.splits["train"].image(row)[10:20, 10:20] == 150).all(2).mean() for row in range(480)])
    assert (left < 1).sum() == 240
    assert left[left < 1].mean() == pytest.approx(0.4013, abs=0.01)


def test_the_packages_list_is_val(raw, tmp_path):
    config = tmp_path / "spuco_mnist_config.py"
    config.write_text("from spuco.datasets import VAL_SPLIT\nconfig = { \nVAL_SPLIT: \n        [7, 3,\n 599]\n}")
    dataset = load("spuco_mnist", raw, val_indices=config)
    assert dataset.splits["val"].columns["base_index"] == [3, 7, 599]
    assert sizes(dataset)["train"] == 597
    config.write_text("[600]")
    with pytest.raises(DataError, match="lists 1 numbers; expected different ones below 600"):
        load("spuco_mnist", raw, val_indices=config)


def test_digits_in_no_class_are_left_out(raw):
    dataset = load("spuco_mnist", raw, classes="0,1")
    assert sizes(dataset)["test"] == 40
    assert dataset.expected == {}
    assert dataset.spec.attributes == ("#ff0000", "#00fff6")
    assert load("spuco_mnist", raw).expected == {"train": 59880, "test": 10000}


def test_the_made_set_survives_a_round_trip(raw, tmp_path):
    round_trip(load("spuco_mnist", raw), "val", tmp_path / "s.beton", "raw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "magnitude_larg"}, "did you mean 'magnitude_large'"),
        ({"strength": 0.0}, "--strength 0.0 is no share; it is above 0 and at most 1"),
        ({"label_noise": 1.5}, "--label-noise 1.5 is no share; it is from 0 to 1"),
        ({"classes": "0-9"}, "must name two or more class sets"),
    ],
)
def test_wrong_options_are_explained(raw, options, message):
    with pytest.raises(UsageError, match=message):
        load("spuco_mnist", raw, **options)
