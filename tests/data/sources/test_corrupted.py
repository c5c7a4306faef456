"""corrupted_cifar10: the made set, its photos of frost, and the released forms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES
from debeton.data.sources.cifar import CIFAR10_CLASSES
from debeton.system.errors import DataError, UsageError


@pytest.fixture
def raw(tmp_path):
    """Write class folders of CIFAR-10 with 10 + 10 images a class."""
    for split in ("train", "test"):
        for k, name in enumerate(CIFAR10_CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = np.random.default_rng([k, i]).integers(60, 180, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def write_frost(folder, side=200):
    folder.mkdir()
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        Image.new("RGB", (side, side), (240, 250, 255)).save(folder / name)


def made(raw, **options):
    return load("corrupted_cifar10", raw, **{"val_size": 0, "conflict_percent": "20", **options})


def test_each_class_has_its_own_corruption_in_train_and_all_of_them_in_test(raw):
    dataset = made(raw, corruption_type="1")
    assert sizes(dataset) == {"train": 100, "test": 100}
    assert dataset.spec.attributes[0] == "gaussian noise"
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (train.label == train.attribute).sum() == 80
    assert np.bincount(test.label * 10 + test.attribute).tolist() == [1] * 100
    plain = Image.open(raw / "test" / "airplane" / "9.png")
    row = int(np.flatnonzero((test.label == 0) & (test.attribute == 9))[0])
    assert dataset.spec.attributes[9] == "original"
    assert (test.image(row) == np.asarray(plain)).all()
    assert test.names[row] == "test[9] (test/airplane/9.png)"


def test_frost_needs_the_published_photos_or_the_word_drawn(raw):
    with pytest.raises(MissingDataError, match="--frost drawn needs none, and --corruption-type 1 has no frost"):
        made(raw)
    drawn = made(raw, frost="drawn").splits["train"]
    write_frost(raw / "frost")
    photo = made(raw).splits["train"]
    row = int(np.flatnonzero(photo.attribute == 1)[0])
    own = np.asarray(Image.open(raw / photo.names[row].partition("(")[2].rstrip(")"))).astype(float)
    assert np.abs(photo.image(row) - np.clip(0.75 * own + 0.45 * np.array([240, 250, 255]), 0, 255)).max() < 2.5
    assert (photo.image(row) != drawn.image(row)).any()
    other = int(np.flatnonzero(photo.attribute == 0)[0])
    assert (photo.image(other) == drawn.image(other)).all()


def test_the_photos_can_be_fetched_into_their_folder():
    archives = SOURCES.get("corrupted_cifar10").archives
    assert [archive.path for archive in archives[:2]] == ["frost/frost1.png", "frost/frost2.png"]
    assert all(archive.hash and archive.url.endswith(archive.name) for archive in archives)


@pytest.mark.parametrize("side", [None, 160])
def test_a_bad_photo_is_named(raw, side):
    write_frost(raw / "frost", side or 200)
    if side is None:
        (raw / "frost" / "frost3.png").write_bytes(b"no photo")
    with pytest.raises(
        DataError, match=r"frost3\.png cannot be decoded" if side is None else r"frost1\.png is smaller"
    ):
        made(raw)


def test_the_made_set_survives_a_round_trip(raw, tmp_path):
    round_trip(made(raw, frost="drawn"), "test", tmp_path / "c.beton", "raw")


def test_the_images_of_the_release_are_read_by_their_names(tmp_path):
    names = [
        *(f"cifar10c/1pct/align/{c}/{i}_{c}_{c}.png" for c in range(10) for i in range(2)),
        *(f"cifar10c/1pct/conflict/{c}/7_{c}_{9 - c}.png" for c in range(10)),
        *(f"cifar10c/1pct/valid/{c}/3_{c}_{c}.png" for c in range(10)),
        *(f"cifar10c/test/{c}/3_{c}_{9 - c}.png" for c in range(10)),
    ]
    dataset = load("corrupted_cifar10", write_images(tmp_path, names), conflict_percent="1pct")
    assert sizes(dataset) == {"train": 30, "val": 10, "test": 10}
    assert dataset.expected == {"train": 44969, "test": 10000}
    assert dataset.spec.group_names[99] == "truck, corruption 9"


def test_the_arrays_of_lff_count_severities_from_zero(tmp_path):
    folder = tmp_path / "CorruptedCIFAR10-Type1-Skewed0.005-Severity4"
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", np.zeros((10, 32, 32, 3), np.uint8))
        np.save(folder / split / "attrs.npy", np.stack([np.arange(10)] * 2, 1).astype(np.uint8))
    dataset = load("corrupted_cifar10", tmp_path, corruption_type="1", corruption_severity=5)
    assert sizes(dataset) == {"train": 10, "test": 10}
    assert dataset.expected == {"train": 50000, "test": 10000}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption_severity": 0}, "--corruption-severity 0 is out of range"),
        ({"corruption_type": "2"}, "--corruption-type '2' is unknown"),
        ({"frost": "draw"}, "--frost 'draw' is unknown; did you mean 'drawn'"),
    ],
)
def test_wrong_options_are_explained(raw, options, message):
    with pytest.raises(UsageError, match=message):
        made(raw, **options)
