"""dominoes and mnist_cifar have the counts of the papers, and no image is in two splits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debeton.data.sources import SOURCES, Dataset
from debeton.system.errors import DataError, UsageError

# MNIST's and CIFAR-10's true counts by class.
MNIST_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
Load = Callable[..., Dataset]


def write_npz(path: Path, train: tuple[int, ...], test: tuple[int, ...]) -> Path:
    """Write shuffled labels with these counts. The first three pixels of an image are its row number."""
    arrays = {}
    for split, counts in (("train", train), ("test", test)):
        label = np.random.default_rng(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
        images = np.zeros((len(label), 28, 28), np.uint8)
        for byte in range(3):
            images[:, 0, byte] = np.arange(len(label)) >> (8 * byte) & 255
        arrays |= {f"{split}_x": images, f"{split}_y": label}
    np.savez(path, **arrays)
    return path


def row_number(half: np.ndarray) -> int:
    """Return the row number in a 32x32 half, whose image starts at pixel (2, 2)."""
    return int(half[2, 2:5, 0].astype(int) @ (1, 256, 65536))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return load(name, **options): the set built from stand-ins with MNIST's counts on top and CIFAR-10's below."""
    folder = tmp_path_factory.mktemp("parts")
    top = write_npz(folder / "top.npz", MNIST_TRAIN, MNIST_TEST)
    bottom = write_npz(folder / "bottom.npz", (5000,) * 10, (1000,) * 10)

    def build(name: str = "dominoes", **options: object) -> Dataset:
        source = SOURCES.get(name)
        parts = {"top_raw": top, "bottom": "fashion_mnist", "bottom_raw": bottom}
        return source.load(source.request(**{**parts, **options}))

    return build


@pytest.fixture(scope="module")
def dominoes(load: Load) -> Dataset:
    return load(spurious_strength=0.95)


def aligned_share(dataset: Dataset, split: str) -> float:
    rows = dataset.splits[split]
    aligned = dataset.spec.is_aligned(rows.label, rows.attribute)
    assert aligned is not None
    return float(aligned.mean())


@pytest.mark.parametrize("pool", [2000, 6000])
def test_split_sizes_are_those_of_scale(load, pool):
    sizes = {name: len(rows) for name, rows in load(val_target_size=pool).splits.items()}
    assert sizes == {"train": 50000 - pool, "target": pool // 2, "val": pool // 2, "test": 10000}


def test_every_class_has_equally_many_training_rows(dominoes):
    train = dominoes.splits["train"]
    assert np.bincount(train.label).tolist() == [4800] * 10
    assert np.bincount(train.attribute).tolist() == [4800] * 10


def test_at_strength_one_every_training_row_is_aligned(load):
    assert aligned_share(load(), "train") == 1.0


def test_at_strength_095_the_aligned_share_is_955_per_mille(dominoes):
    # 2,400 of 48,000 rows are permuted and one in ten of them is aligned by chance: 240 ± 5 standard deviations.
    by_chance = round(aligned_share(dominoes, "train") * 48000) - 45600
    assert abs(by_chance - 240) < 5 * np.sqrt(2400 * 0.1 * 0.9)


def test_at_strength_zero_one_in_ten_is_aligned(load):
    assert aligned_share(load(spurious_strength=0.0), "train") == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / 48000))


@pytest.mark.parametrize(("split", "n"), [("target", 1000), ("val", 1000), ("test", 10000)])
def test_outside_train_one_in_ten_is_aligned(dominoes, split, n):
    assert aligned_share(dominoes, split) == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))


@pytest.mark.parametrize("half", ["top_index", "bottom_index"])
def test_no_source_image_is_in_two_of_train_target_and_val(dominoes, half):
    used = {name: set(dominoes.splits[name].columns[half]) for name in ("train", "target", "val")}
    assert {name: len(images) for name, images in used.items()} == {"train": 48000, "target": 1000, "val": 1000}
    assert len(set.union(*used.values())) == 50000


def test_the_image_is_the_digit_above_the_photo_of_its_columns(dominoes):
    for split in dominoes.splits:
        rows = dominoes.splits[split]
        for i in (0, 1, len(rows) - 1):
            image = rows.image(i)
            assert image.shape == (64, 32, 3)
            assert row_number(image[:32]) == rows.columns["top_index"][i]
            assert row_number(image[32:]) == rows.columns["bottom_index"][i]
            assert not image[:2].any()
            assert not image[30:34].any()


def test_label_is_the_class_below_and_attribute_the_class_above(dominoes, tmp_path):
    above = write_npz(tmp_path / "top.npz", MNIST_TRAIN, MNIST_TEST)
    below = write_npz(tmp_path / "bottom.npz", (5000,) * 10, (1000,) * 10)
    with np.load(above) as digits, np.load(below) as photos:
        for split, part in (("train", "train"), ("target", "train"), ("val", "train"), ("test", "test")):
            rows = dominoes.splits[split]
            np.testing.assert_array_equal(rows.attribute, digits[f"{part}_y"][rows.columns["top_index"]])
            np.testing.assert_array_equal(rows.label, photos[f"{part}_y"][rows.columns["bottom_index"]])


def test_legacy_writes_646_wrong_test_digits_and_changes_nothing_else(load):
    fixed, legacy = load(), load(legacy=True)
    wrong = fixed.splits["test"].attribute != legacy.splits["test"].attribute
    # Sorted by digit, image i was called i // 1000: wrong wherever the true counts have drifted from 1000 each.
    ends = np.cumsum(MNIST_TEST)
    expected = int((np.searchsorted(ends, np.arange(10000), side="right") != np.arange(10000) // 1000).sum())
    assert wrong.sum() == expected == 646
    for split in fixed.splits:
        assert fixed.splits[split].names == legacy.splits[split].names
        assert fixed.splits[split].label.tolist() == legacy.splits[split].label.tolist()
    for split in ("train", "target", "val"):
        assert fixed.splits[split].attribute.tolist() == legacy.splits[split].attribute.tolist()


def test_legacy_permutes_the_same_positions_for_every_data_seed(load):
    def cells(**options: object) -> list[int]:
        """Return the rows by (label, attribute).

        The seed changes the images in them, but not the effect of the permutation.
        """
        rows = load(per_class=100, val_target_size=100, spurious_strength=0.7, **options).splits["train"]
        return np.bincount(10 * rows.label + rows.attribute, minlength=100).tolist()

    assert cells(legacy=True, data_seed=1) == cells(legacy=True, data_seed=2)
    assert cells(data_seed=1) != cells(data_seed=2)


@pytest.mark.parametrize(
    ("legacy", "per_class", "permuted"),
    # (1 - 0.9) 200 is 19.999999999999996 in float64. For these seeds no permuted position stays as it is.
    [(True, 30, 19), (False, 20, 10)],
)
def test_legacy_permutes_one_position_fewer_where_the_share_is_not_exact(load, legacy, per_class, permuted):
    options = {"per_class": per_class, "val_target_size": 100, "legacy": legacy}
    whole, moved = (load(spurious_strength=s, **options).splits["train"] for s in (1.0, 0.9))
    stays = dict(zip(whole.columns["top_index"], whole.columns["bottom_index"]))
    pairs = zip(moved.columns["top_index"], moved.columns["bottom_index"])
    assert sum(stays[top] != bottom for top, bottom in pairs) == permuted


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(load, dominoes):
    again, other = load(spurious_strength=0.95), load(spurious_strength=0.95, data_seed=1)
    for split in dominoes.splits:
        assert again.splits[split].names == dominoes.splits[split].names
        assert other.splits[split].names != dominoes.splits[split].names


def test_the_pool_does_not_depend_on_the_strength_and_grows_by_inclusion(load, dominoes):
    def pool(dataset: Dataset) -> set[int]:
        return {i for split in ("val", "target") for i in dataset.splits[split].columns["bottom_index"]}

    assert load().splits["target"].names == dominoes.splits["target"].names
    assert pool(dominoes) < pool(load(val_target_size=4000))


def test_small_classes_are_repeated_but_never_shared_between_pool_and_train():
    source = SOURCES.get("dominoes")
    dataset = source.load(source.request(top="digits", bottom="digits", per_class=1000))
    train, pool = dataset.splits["train"], [dataset.splits["target"], dataset.splits["val"]]
    assert [len(rows) for rows in (train, *pool, dataset.splits["test"])] == [8000, 1000, 1000, 359]
    assert np.bincount(train.label).tolist() == [800] * 10
    for half in ("top_index", "bottom_index"):
        in_train, in_pool = set(train.columns[half]), {i for rows in pool for i in rows.columns[half]}
        assert not in_train & in_pool
        assert len(in_train) + len(in_pool) == 1438  # every digit is used
        assert 0.19 < len(in_pool) / 1438 < 0.21  # in the proportion of the pool, 200 of 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spurious_strength": 1.5}, r"--spurious-strength 1.5 is not in \[0, 1\]"),
        ({"val_target_size": 2001}, "multiple of the 10 classes"),
        ({"val_target_size": 0}, "positive multiple"),
        ({"val_target_size": 50000}, "none is left to train on"),
        ({"top": "minst"}, "unknown dataset 'minst'; did you mean 'mnist'"),
    ],
)
def test_impossible_options_are_usage_errors(load, options, message):
    with pytest.raises(UsageError, match=message):
        load(**options)


def test_a_missing_half_names_the_half_and_its_flag(tmp_path):
    source = SOURCES.get("dominoes")
    with pytest.raises(DataError, match=r"^bottom: cifar10: .*--bottom-raw PATH"):
        source.load(source.request(tmp_path, top="digits"))


def test_mnist_cifar_has_the_counts_of_the_smallest_class(load):
    dataset = load("mnist_cifar", bottom_classes="trouser,9")
    assert dataset.spec.classes == ("trouser", "ankle boot")
    assert dataset.spec.attributes == ("0", "1")
    sizes = {name: len(rows) for name, rows in dataset.splits.items()}
    assert sizes == {"train": 9000, "val": 1000, "test": 1960, "test_random_top": 1960, "test_random_bottom": 1960}
    for split in ("train", "val", "test"):
        assert aligned_share(dataset, split) == 1.0
        assert np.bincount(dataset.splits[split].label).tolist() == [sizes[split] // 2] * 2
    train, val = (dataset.splits[name].columns for name in ("train", "val"))
    assert not set(train["top_index"]) & set(val["top_index"])
    assert not set(train["bottom_index"]) & set(val["bottom_index"])


def test_mnist_cifar_class_halves_use_every_class(load):
    dataset = load("mnist_cifar", top_classes="0-4,5-9", bottom_classes="0-4,5-9")
    # The smaller half of the stand-in: digits 5 to 9 have 29,404 training images, the photos 25,000.
    assert len(dataset.splits["train"]) + len(dataset.splits["val"]) == 50000
    assert len(dataset.splits["test"]) == 2 * min(sum(MNIST_TEST[:5]), sum(MNIST_TEST[5:]), 5000) == 9722
    assert dataset.spec.attributes == ("0+1+2+3+4", "5+6+7+8+9")


def test_a_random_half_keeps_the_other_half_and_the_label(load):
    dataset = load("mnist_cifar", bottom_classes="0,1")
    test = dataset.splits["test"]
    top, bottom = dataset.splits["test_random_top"], dataset.splits["test_random_bottom"]
    bound = 5 * np.sqrt(0.25 / len(test))
    assert top.columns["bottom_index"] == test.columns["bottom_index"]
    assert sorted(top.columns["top_index"]) == sorted(test.columns["top_index"])
    assert (top.attribute == top.label).mean() == pytest.approx(0.5, abs=bound)
    assert bottom.columns["top_index"] == test.columns["top_index"]
    assert bottom.attribute.tolist() == bottom.label.tolist() == test.label.tolist()
    assert (np.asarray(bottom.columns["bottom_class"]) == bottom.label).mean() == pytest.approx(0.5, abs=bound)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("sneeker,bag", "unknown class 'sneeker'; did you mean 'sneaker'"),
        ("0-4,4-9", "without a common class"),
        ("0,10", "within 0 to 9"),
        ("5-1,9", "within 0 to 9"),
        ("0", "must name two or more class sets"),
    ],
)
@pytest.mark.parametrize("name", ["mnist_cifar", "dominoes"])
def test_bad_class_sets_are_usage_errors(load, name, classes, message):
    with pytest.raises(UsageError, match=message):
        load(name, bottom_classes=classes)


@pytest.fixture(scope="module")
def binary(load: Load) -> Dataset:
    return load(spurious_strength=0.95, top_classes="0,1", bottom_classes="trouser,9")


def test_binary_dominoes_have_two_classes_and_the_splits_of_ten(binary):
    assert (binary.spec.classes, binary.spec.attributes) == (("trouser", "ankle boot"), ("0", "1"))
    assert {name: len(rows) for name, rows in binary.splits.items()} == {
        "train": 2 * 5000 - 2000,
        "target": 1000,
        "val": 1000,
        "test": 2000,
    }
    assert np.bincount(binary.splits["train"].label).tolist() == [4000, 4000]
    # 400 of 8,000 rows are permuted, and half of these stay aligned by chance.
    assert abs(aligned_share(binary, "train") * 8000 - 7800) < 5 * np.sqrt(400 * 0.25)
    for split, n in (("target", 1000), ("val", 1000), ("test", 2000)):
        assert aligned_share(binary, split) == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / n))


def test_binary_dominoes_show_no_image_of_another_class(binary, tmp_path):
    above = np.load(write_npz(tmp_path / "top.npz", MNIST_TRAIN, MNIST_TEST))
    below = np.load(write_npz(tmp_path / "bottom.npz", (5000,) * 10, (1000,) * 10))
    for split in binary.splits:
        rows, part = binary.splits[split], "test" if split == "test" else "train"
        assert (above[f"{part}_y"][rows.columns["top_index"]] == rows.attribute).all()
        assert (below[f"{part}_y"][rows.columns["bottom_index"]] == np.array([1, 9])[rows.label]).all()


def test_a_set_of_several_classes_is_one_class_of_dominoes(load):
    dataset = load(top_classes="0-4,5-9", bottom_classes="0,1-9", per_class=3000)
    assert dataset.spec.attributes == ("0+1+2+3+4", "5+6+7+8+9")
    assert np.bincount(dataset.splits["train"].label).tolist() == [2000, 2000]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dominoes", {"top_classes": "0,1,2", "bottom_classes": "0,1"}, "3 classes, bottom fashion_mnist has 2"),
        (
            "dominoes",
            {"top_classes": "0,1", "bottom_classes": "0,1", "legacy": True},
            "--legacy works only with SCALE's ten",
        ),
        ("mnist_cifar", {"bottom_classes": "0,1,2"}, "names 3 class sets; mnist_cifar has two"),
    ],
)
def test_class_sets_that_do_not_go_together_are_usage_errors(load, name, options, message):
    with pytest.raises(UsageError, match=message):
        load(name, **options)


def real_data() -> Path | None:
    shared = Path(__file__).resolve().parents[4] / "shared" / "data"
    places = [Path(os.environ["DEBETON_DATA"])] if "DEBETON_DATA" in os.environ else [shared]
    return next((place for place in places if (place / "mnist.npz").is_file()), None)


@pytest.mark.skipif(real_data() is None, reason="no mnist.npz in $DEBETON_DATA or ../shared/data")
def test_real_mnist_gives_646_wrong_legacy_digits():
    source = SOURCES.get("dominoes")
    fixed, legacy = (
        source.load(source.request(real_data(), bottom="mnist", legacy=legacy)).splits["test"].attribute
        for legacy in (False, True)
    )
    assert (fixed != legacy).sum() == 646


@pytest.mark.skipif(
    real_data() is None or not list(real_data().glob("cifar10*.zip")),
    reason="no cifar10*.zip in $DEBETON_DATA or ../shared/data",
)
def test_real_dominoes_have_the_published_sizes():
    source = SOURCES.get("dominoes")
    dataset = source.load(source.request(real_data()))
    assert {name: len(rows) for name, rows in dataset.splits.items()} == {
        "train": 48000,
        "target": 1000,
        "val": 1000,
        "test": 10000,
    }
    assert dataset.splits["train"].image(0).std() > 10


def test_what_the_halves_leave_out_is_named_by_half(load, tmp_path):
    names = [f"{split}/{c}/{i}.png" for split in ("train", "validation", "test") for c in "ab" for i in range(20)]
    for name in [*names, "train/stray.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    options = {"top": "folder", "top_raw": tmp_path, "top_classes": "a,b", "bottom_classes": "0,1"}
    dataset = load("mnist_cifar", **options)
    (entry,) = dataset.left_out
    assert (entry.reason, entry.examples) == ("top: images that lie in no class folder", ("train/stray.png",))
    assert dataset.notes == (f"top: 'validation' in {tmp_path} is the split 'val'",)


def test_class_shares_make_unequal_classes_of_train_alone(load):
    whole, cut = (load(per_class=100, val_target_size=100, class_shares=s) for s in ("", ",".join(["1", "0.25"] * 5)))
    assert np.bincount(cut.splits["train"].label).tolist() == [90, 22] * 5  # round(0.25 * 90) = 22
    for split in ("val", "target", "test"):
        assert np.array_equal(cut.splits[split].label, whole.splits[split].label)


@pytest.mark.parametrize("shares", ["1,1", ",".join(["1"] * 9 + ["0"]), ",".join(["1"] * 9 + ["x"]), "nan"])
def test_wrong_class_shares_are_refused(load, shares):
    with pytest.raises(UsageError, match="expected 10 shares above 0 and up to 1, one for each class"):
        load(per_class=100, val_target_size=100, class_shares=shares)
