"""coloured_mnist: the colours, their dealing and the released forms are those of the owners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.commands.write_options import make_parser
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.skew import deal_attributes
from debeton.data.sources import SOURCES
from debeton.data.sources.coloured_mnist import COLOURS
from debeton.system.errors import DataError, UsageError

PER_CLASS = {"train": 40, "test": 20}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Write mnist.npz with 40 + 20 images of each digit: half of an image is 255, the other half 100."""
    folder = tmp_path_factory.mktemp("mnist")
    arrays = {}
    for split, count in PER_CLASS.items():
        label = np.random.default_rng(count).permutation(np.repeat(np.arange(10), count))
        images = np.full((len(label), 28, 28), 255, np.uint8)
        images[:, :, 14:] = 100
        images[:, :2] = 0
        arrays |= {f"{split}_x": images, f"{split}_y": label}
    np.savez(folder / "mnist.npz", **arrays)
    return folder


def test_no_option_of_a_source_is_an_option_of_the_writer():
    for name in SOURCES.names():
        make_parser(SOURCES.get(name), "test")  # argparse raises for an option that is declared twice


# Images of MNIST's training set that keep their own colour, by digit, as the owners' code deals them.
MNIST = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
OWN_COLOUR = {
    0.05: [5627, 6405, 5660, 5825, 5550, 5150, 5622, 5951, 5558, 5652],
    0.02: [5805, 6607, 5839, 6008, 5725, 5313, 5800, 6140, 5734, 5830],
    0.01: [5864, 6675, 5899, 6070, 5784, 5367, 5859, 6202, 5792, 5890],
    0.005: [5893, 6708, 5928, 6101, 5813, 5394, 5888, 6234, 5822, 5919],
}


@pytest.mark.parametrize("share", sorted(OWN_COLOUR))
def test_the_dealing_is_that_of_the_owners(share):
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(10), MNIST))
    attribute = deal_attributes(label, 10, 1 - share)
    assert np.bincount(label[label == attribute]).tolist() == OWN_COLOUR[share]
    for code, n in enumerate(MNIST):
        given = attribute[label == code]
        others = np.delete(np.bincount(given, minlength=10), code)
        assert (np.abs(others - n * share / 9) < 1).all()
        assert (np.diff(given) >= 0).all()


def test_train_has_the_share_val_and_test_every_colour_equally_often(raw):
    dataset = load("coloured_mnist", raw, conflict_percent="5", val_size=100)
    assert sizes(dataset) == {"train": 300, "val": 100, "test": 200}
    conflicting = [int((rows.label != rows.attribute).sum()) for rows in dataset.splits.values()]
    assert abs(conflicting[0] - 15) <= 5  # ten classes, each rounded
    assert abs(conflicting[1] - 90) <= 5
    assert conflicting[2] == 180
    assert np.bincount(dataset.splits["test"].attribute).tolist() == [20] * 10
    train, val = (set(dataset.splits[split].columns["base_index"]) for split in ("train", "val"))
    assert not train & val
    assert len(train | val) == 400


@pytest.mark.parametrize(("spread", "aligned"), [("others", 0.0), ("all", 0.1), ("train", 0.95)])
def test_test_has_the_colours_that_the_option_says(raw, spread, aligned):
    test = load("coloured_mnist", raw, conflict_percent="5", test_attributes=spread, val_size=0).splits["test"]
    assert (test.label == test.attribute).mean() == pytest.approx(aligned, abs=1e-9)


def test_a_pixel_is_the_grey_value_times_the_drawn_colour(raw):
    dataset = load("coloured_mnist", raw, val_size=0, test_attributes="all", colour_severity=1)
    rows, means = dataset.splits["test"], np.array(list(COLOURS.values()))
    drawn = np.stack([rows.image(row)[5, 3] for row in range(len(rows))]) / 255
    image = rows.image(7)
    assert not image[:2].any()
    assert (np.abs(image[5, 20] - image[5, 3] * (100 / 255)) < 1.01).all()
    assert (image[2:, :14] == image[5, 3]).all()
    # 600 channels with noise of 0.05 that [0, 1] cuts: the means of the noise of colours far from the ends.
    noise = (drawn - means[rows.attribute])[:, :][(means[rows.attribute] > 0.2) & (means[rows.attribute] < 0.8)]
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.05, rel=0.15)


def test_an_image_is_a_function_of_its_row_and_the_seed(raw):
    first, again, other = (
        load("coloured_mnist", raw, val_size=0, data_seed=seed).splits["train"].image(3) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert np.abs(first.astype(int) - other).max() <= 255 * 0.005 * 8


def test_the_made_set_survives_a_round_trip(raw, tmp_path):
    dataset = load("coloured_mnist", raw, val_size=0)
    beton = round_trip(dataset, "test", tmp_path / "c.beton", "raw")
    assert beton.spec.is_aligned(beton.label, beton.attribute).sum() == 20


RELEASED = [
    *(f"0.5pct/align/{c}/{i}_{c}_{c}.png" for c in range(10) for i in range(2)),
    *(f"0.5pct/conflict/{c}/7_{c}_{(c + 1) % 10}.png" for c in range(10)),
    *(f"0.5pct/valid/{i}_{i}_{(i + 3) % 10}.png" for i in range(10)),
    *(f"test/{c}/{i}_{c}_{i}.png" for c in range(10) for i in (0, 5)),
]


@pytest.mark.parametrize("name", ["cmnist", "."])
def test_the_images_of_the_release_are_read_by_their_names(tmp_path, name, raw):
    write_images(tmp_path / name, RELEASED)
    dataset = load("coloured_mnist", tmp_path)
    assert sizes(dataset) == {"train": 30, "val": 10, "test": 20}
    assert dataset.expected == {"train": 55000, "test": 10000}
    assert "as LDD releases it" in dataset.notes[0]
    train = dataset.splits["train"]
    assert [train.label[k] == train.attribute[k] for k in range(30)] == [True] * 20 + [False] * 10
    assert dataset.splits["val"].attribute.tolist() == [(i + 3) % 10 for i in range(10)]
    assert dataset.splits["test"].label.tolist() == np.repeat(np.arange(10), 2).tolist()


def test_the_released_form_wins_over_images_to_make_a_set_of_unless_the_form_is_named(tmp_path, raw):
    write_images(tmp_path / "cmnist", RELEASED)
    (tmp_path / "mnist.npz").symlink_to(raw / "mnist.npz")
    assert sizes(load("coloured_mnist", tmp_path))["train"] == 30
    assert sizes(load("coloured_mnist", tmp_path, form="made", val_size=0))["train"] == 400
    with pytest.raises(DataError, match=r"no image 2pct/align/\*/\* in"):
        load("coloured_mnist", tmp_path, conflict_percent="2")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("0.5pct/align/3/9_3_4.png", "lies in align/3, which contradicts its name"),
        ("0.5pct/conflict/3/9_3_3.png", "lies in conflict/3, which contradicts its name"),
        ("0.5pct/align/4/9_3_3.png", "lies in align/4, which contradicts its name"),
        ("test/3/picture.png", "not called ID_TARGET_BIAS.png with a label of 0 to 9"),
        ("test/3/1_3_10.png", "an attribute of 0 to 9"),
    ],
)
def test_a_file_that_contradicts_its_folder_is_an_error(tmp_path, extra, message):
    with pytest.raises(DataError, match=message):
        load("coloured_mnist", write_images(tmp_path / "cmnist", [*RELEASED, extra]))


def write_arrays(folder: Path, seed: int = 0) -> np.ndarray:
    """Write the arrays of LfF, and return the images of train."""
    rng = np.random.default_rng(seed)
    for split, n in (("train", 30), ("valid", 12)):
        (folder / split).mkdir(parents=True)
        images = rng.integers(0, 256, (n, 28, 28, 3), np.uint8)
        np.save(folder / split / "images.npy", images)
        np.save(folder / split / "attrs.npy", np.stack([np.arange(n) % 10, np.arange(n) % 7], 1).astype(np.uint8))
    return np.load(folder / "train" / "images.npy")


def test_the_arrays_of_lff_are_read_with_its_valid_as_test(tmp_path):
    images = write_arrays(tmp_path / "ColoredMNIST-Skewed0.02-Severity3")
    dataset = load("coloured_mnist", tmp_path, conflict_percent="2", colour_severity=3)
    assert sizes(dataset) == {"train": 30, "test": 12}
    assert dataset.expected == {"train": 60000, "test": 10000}
    assert dataset.splits["train"].attribute.tolist() == (np.arange(30) % 7).tolist()
    assert (dataset.splits["train"].image(11) == images[11]).all()
    with pytest.raises(
        MissingDataError, match=r"no ColoredMNIST-Skewed0\.005-Severity4 .* only ColoredMNIST-Skewed0\.02"
    ):
        load("coloured_mnist", tmp_path)


def test_damaged_arrays_are_an_error(tmp_path):
    folder = tmp_path / "ColoredMNIST-Skewed0.005-Severity4"
    write_arrays(folder)
    (folder / "valid" / "attrs.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"attrs\.npy is not a whole \.npy file"):
        load("coloured_mnist", tmp_path)
    np.save(folder / "valid" / "attrs.npy", np.full((12, 2), 10, np.uint8))
    with pytest.raises(DataError, match="label 10 of row 0 is out of range"):
        load("coloured_mnist", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conflict_percent": "101"}, "no percentage from 0 to 100"),
        ({"conflict_percent": "many"}, "no percentage from 0 to 100"),
        ({"val_size": 400}, "--val-size 400 is out of range"),
        ({"val_attributes": "some"}, "--val-attributes 'some' is unknown"),
        ({"form": "lfd"}, "--form 'lfd' is unknown; did you mean"),
        ({"colour_severity": 6}, "--colour-severity 6 is out of range"),
        ({"base": "cifar100"}, "cifar100"),
    ],
)
def test_wrong_options_are_explained(raw, options, message):
    with pytest.raises((UsageError, DataError), match=message):
        load("coloured_mnist", raw, **{"val_size": 10, **options})


def test_a_form_that_is_not_there_is_an_error(raw):
    with pytest.raises(MissingDataError, match=r"no cmnist/0\.5pct/align/CLASS/.*for --form ldd"):
        load("coloured_mnist", raw, form="ldd")
