"""urbancars, spuco_animals and imagenet9: folders of cells become rows, or one clear sentence."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import write_beton
from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources.imagenet9 import SYNSETS
from debeton.data.views.view import View
from debeton.system.errors import DataError
from debeton.train.metrics import group_metrics

# --- UrbanCars -----------------------------------------------------------------------------------------------

KINDS = ("urban", "country")
CELLS = list(itertools.product(KINDS, repeat=3))
TRAIN_SIZES = (5, 2, 2, 1, 1, 2, 2, 5)
CARS = [
    f"{folder}/obj-{car}_bg-{background}_co_occur_obj-{co_object}/{i:03}.jpg"
    for folder, counts in (
        ("bg-0.95_co_occur_obj-0.95/train", TRAIN_SIZES),
        ("bg-0.5_co_occur_obj-0.5/val", (1,) * 8),
        ("bg-0.5_co_occur_obj-0.5/test", (2,) * 8),
    )
    for (car, background, co_object), count in zip(CELLS, counts)
    for i in range(count)
]


@pytest.fixture
def urbancars(tmp_path):
    masks = [name.replace(".jpg", suffix) for name in CARS[:9] for suffix in ("_mask.png", "_co_occur_obj_mask.png")]
    return write_images(tmp_path / "urbancars", [*CARS, *masks])


def test_urbancars_have_a_group_for_each_cell_in_the_owners_order_and_no_mask(urbancars):
    for raw in (urbancars, urbancars.parent):
        dataset = load("urbancars", raw)
        spec, train = dataset.spec, dataset.splits["train"]
        assert sizes(dataset) == {"train": 20, "val": 8, "test": 16}
        assert np.bincount(spec.group(train.label, train.attribute)).tolist() == list(TRAIN_SIZES)
        assert train.names[5] == "bg-0.95_co_occur_obj-0.95/train/obj-urban_bg-urban_co_occur_obj-country/000.jpg"
        assert spec.group_names[1] == "urban, urban background + country object"
        assert spec.group_names[6] == "country, country background + urban object"
        assert spec.is_aligned(train.label, train.attribute).sum() == 10  # both shortcuts go with the car
        assert not any("mask" in name for name in train.names)


def test_urbancars_expect_the_published_cells(urbancars):
    expected = load("urbancars", urbancars).expected
    assert expected["train"] == (3610, 190, 190, 10, 10, 190, 190, 3610)
    assert [sum(counts) for counts in expected.values()] == [8000, 1000, 1000]


def test_each_shortcut_of_urbancars_alone_can_be_the_attribute(urbancars, tmp_path):
    view = View.whole(round_trip(load("urbancars", urbancars), "train", tmp_path / "u.beton", root=urbancars))
    for column, counts in (("background", [7, 3, 3, 7]), ("co_object", [7, 3, 3, 7])):
        alone = view.with_task(attribute=column)
        assert alone.group_counts().tolist() == counts
        assert alone.spec.aligned == ((0,), (1,))
        assert alone.spec.factors == ()
    assert view.with_task(attribute="background").spec.attributes == ("urban background", "country background")
    product = view.with_task(attribute="background,co_object")
    assert product.spec == view.spec  # the product of both is the beton's own attribute, factors and all
    assert product.attribute.tolist() == view.attribute.tolist()


def test_urbancars_aligned_pairs_can_be_given_by_name(urbancars, tmp_path):
    write_beton(
        tmp_path / "u.beton", load("urbancars", urbancars).splits["val"], load("urbancars", urbancars).spec, "val"
    )
    pairs = "urban:urban background + urban object,country:country background + country object"
    assert View.whole(open_beton(tmp_path / "u.beton")).with_task(aligned=pairs).spec.aligned == ((0,), (3,))


def test_urbancars_metrics_name_the_gap_of_each_shortcut(urbancars, tmp_path):
    beton = round_trip(load("urbancars", urbancars), "test", tmp_path / "u.beton", root=urbancars)
    total = np.bincount(beton.group, minlength=8)
    right = np.bincount(beton.group, np.asarray(beton.extra["background"]) == beton.label, minlength=8).astype(int)
    gaps = group_metrics(right, total, np.zeros(8), beton.spec)["shortcut_gaps"]  # of a model that reads the background
    assert gaps["id_accuracy"] == pytest.approx(0.95)
    assert {name: found["gap"] for name, found in gaps["conflicting"].items()} == {
        "background": pytest.approx(0.95),
        "co_object": pytest.approx(-0.05),
        "background+co_object": pytest.approx(0.95),
    }
    assert json.loads(json.dumps(gaps)) == gaps


def test_an_urbancars_cell_without_images_is_named(urbancars):
    cell = "bg-0.5_co_occur_obj-0.5/val/obj-country_bg-urban_co_occur_obj-country"
    (urbancars / cell / "000.jpg").unlink()
    with pytest.raises(DataError, match=f"urbancars: no image {cell}/"):
        load("urbancars", urbancars)


# --- SpuCo Animals -------------------------------------------------------------------------------------------

ANIMALS = [
    f"{half}/{split}/{animal}/{place}/{i}.jpg"
    for split, aligned, other in (("train", 4, 1), ("val", 2, 1), ("test", 2, 2))
    for half, animals, places in (
        ("spuco_birds", ("landbirds", "waterbirds"), ("land", "water")),
        ("spuco_dogs", ("small_dogs", "big_dogs"), ("indoor", "outdoor")),
    )
    for a, animal in enumerate(animals)
    for p, place in enumerate(places)
    for i in range(aligned if a == p else other)
]


@pytest.mark.parametrize("folder", ["", "spuco_animals"])
def test_spuco_animals_fill_eight_of_sixteen_groups(tmp_path, folder):
    write_images(tmp_path / folder, ANIMALS)
    dataset = load("spuco_animals", tmp_path)
    spec, train = dataset.spec, dataset.splits["train"]
    assert sizes(dataset) == {"train": 20, "val": 12, "test": 16}
    counts = np.bincount(spec.group(train.label, train.attribute), minlength=16)
    assert counts.reshape(4, 4).tolist() == [[4, 1, 0, 0], [1, 4, 0, 0], [0, 0, 4, 1], [0, 0, 1, 4]]
    assert spec.missing == (2, 3, 6, 7, 8, 9, 12, 13)
    assert spec.is_aligned(train.label, train.attribute).sum() == 16
    assert spec.group_names[11] == "small_dog, Outdoors"
    assert train.names[-1] == "spuco_dogs/train/big_dogs/outdoor/3.jpg"


def test_spuco_animals_expect_the_sizes_that_the_package_checks(tmp_path):
    expected = load("spuco_animals", write_images(tmp_path, ANIMALS)).expected
    assert [sum(counts) for counts in expected.values()] == [42000, 2100, 4000]
    assert expected["val"] == [500, 25, 0, 0, 25, 500, 0, 0, 0, 0, 500, 25, 0, 0, 25, 500]


def test_spuco_animals_know_from_fake_to_reals_folders(tmp_path):
    dataset = load("spuco_animals", write_images(tmp_path, ANIMALS))
    folders = dataset.spec.generated_folders
    assert len(folders) == 16
    assert folders["spuco_animals/big_dog_Indoors"] == folders["big_dog_Indoors"] == (3, 2)
    assert folders["landbird_Water"] == (0, 1)


def test_spuco_animals_take_from_fake_to_reals_rows_where_its_labels_are_the_folders(tmp_path):
    rows = load("spuco_animals", write_images(tmp_path / "raw", ANIMALS)).splits
    for split, kept in (("train", [19, 3, 4]), ("val", [0, 11]), ("test", [7])):
        content = {
            "filenames": [f"/somebody/data/{rows[split].names[row]}" for row in kept],
            "targets": rows[split].label[kept],
            "biases": rows[split].attribute[kept],
            "real_gen": np.zeros(len(kept)),
        }
        (tmp_path / f"spuco_animals_{split}_0.97.pkl").write_bytes(pickle.dumps(content))
    dataset = load("spuco_animals", tmp_path / "raw", ffr_splits=tmp_path, ffr_rate="0.97")
    assert dataset.splits["train"].names == [rows["train"].names[row] for row in (19, 3, 4)]
    assert dataset.splits["train"].label.tolist() == rows["train"].label[[19, 3, 4]].tolist()
    assert sizes(dataset) == {"train": 3, "val": 2, "test": 1}
    assert [sum(counts) for counts in dataset.expected.values()] == [41240, 2064, 4000]


def test_spuco_animals_survive_a_round_trip(tmp_path):
    root = write_images(tmp_path / "set", ANIMALS)
    round_trip(load("spuco_animals", root), "val", tmp_path / "s.beton", root=root)


@pytest.mark.parametrize("half", ["spuco_birds", "spuco_dogs"])
def test_half_of_spuco_animals_is_not_enough(tmp_path, half):
    write_images(tmp_path, [name for name in ANIMALS if name.startswith(half)])
    other = {"spuco_birds": "spuco_dogs", "spuco_dogs": "spuco_birds"}[half]
    with pytest.raises(MissingDataError, match=rf"there is no {other} in {tmp_path}; --raw DIR --download fetches"):
        load("spuco_animals", tmp_path)


def test_a_spuco_cell_without_images_is_named(tmp_path):
    names = [name for name in ANIMALS if "/test/big_dogs/indoor" not in name]
    with pytest.raises(DataError, match=r"no image spuco_dogs/test/big_dogs/indoor/\* in"):
        load("spuco_animals", write_images(tmp_path, names))


# --- 9-class ImageNet ----------------------------------------------------------------------------------------

GROUP = {synset: name for name, group in SYNSETS.items() for synset in group}
WNIDS = list(GROUP)
# As ReBias gives them: indices of the 1,000 sorted WordNet ids.
INDICES = {
    "dog": (151, 207, 234, 235, 254), "cat": range(281, 286), "frog": range(30, 33), "turtle": range(33, 38),
    "bird": (89, 90, 94, 96, 97), "monkey": (372, 373, 374, 375, 378), "fish": range(393, 398),
    "crab": range(118, 122), "insect": range(306, 311),
}  # fmt: skip
IMAGENET_A = {"n02085620": 2, "n02123394": 1, "n02219486": 3, "n01498041": 1}  # the last is a stingray


def imagenet_files(prefix: str = "") -> list[str]:
    train = [f"{prefix}train/{synset}/{synset}_{i}.JPEG" for synset in [*WNIDS, "n01440764"] for i in range(2)]
    val = [f"{prefix}val/{synset}/ILSVRC2012_val_{k:08}.JPEG" for k, synset in enumerate(WNIDS)]
    return train + val + [f"imagenet-a/{synset}/{i}.jpg" for synset, n in IMAGENET_A.items() for i in range(n)]


@pytest.mark.parametrize("prefix", ["", "ILSVRC/Data/CLS-LOC/", "imagenet/"])
def test_imagenet9_takes_42_classes_and_tests_on_imagenet_a(tmp_path, prefix):
    dataset = load("imagenet9", write_images(tmp_path, imagenet_files(prefix)))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert sizes(dataset) == {"train": 84, "val": 42, "test": 6}
    assert np.bincount(train.label).tolist() == [10, 10, 6, 10, 10, 10, 10, 8, 10]
    assert test.label.tolist() == [0, 0, 1, 8, 8, 8]
    assert test.names[0] == "imagenet-a/n02085620/0.jpg"
    assert train.columns["synset"][:3] == ["n01641577", "n01641577", "n01644373"]
    for rows in dataset.splits.values():
        assert [dataset.spec.classes[code] for code in rows.label] == [GROUP[wnid] for wnid in rows.columns["synset"]]
        assert all(wnid in name for wnid, name in zip(rows.columns["synset"], rows.names, strict=True))
    assert dataset.spec.classes == ("dog", "cat", "frog", "turtle", "bird", "monkey", "fish", "crab", "insect")
    assert dataset.spec.attributes == ("any",)
    assert dataset.expected == {"train": 54600, "val": 2100}


def test_the_wordnet_ids_of_imagenet9_are_the_indices_of_rebias():
    shared = Path(__file__).resolve().parents[4] / "shared" / "data"
    photos = (Path(os.environ["DEBETON_DATA"]) if "DEBETON_DATA" in os.environ else shared) / "in1k_256.zip"
    if not photos.is_file():
        pytest.skip("no in1k_256.zip, 1,000 photos named by class, in $DEBETON_DATA or ../shared/data")
    ids = sorted(name.partition("_")[0] for name in zipfile.ZipFile(photos).namelist())
    assert len(ids) == 1000
    assert {name: tuple(ids[k] for k in codes) for name, codes in INDICES.items()} == SYNSETS


def test_imagenet9_survives_a_round_trip(tmp_path):
    root = write_images(tmp_path / "raw", imagenet_files())
    round_trip(load("imagenet9", root), "val", tmp_path / "i.beton", root=root)


def test_imagenet9_reads_kaggles_flat_validation_files(tmp_path):
    names = [name for name in imagenet_files("ILSVRC/Data/CLS-LOC/") if "/val/" not in name]
    write_images(tmp_path, [*names, *(f"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{k:08}.JPEG" for k in range(42))])
    lines = [f"ILSVRC2012_val_{k:08},{wnid} 1 2 3 4" for k, wnid in enumerate(WNIDS)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")
    val = load("imagenet9", tmp_path).splits["val"]
    assert {name: WNIDS[int(name[-13:-5])] for name in val.names} == dict(zip(val.names, val.columns["synset"]))
    assert np.bincount(val.label).tolist() == [5, 5, 3, 5, 5, 5, 5, 4, 5]


def test_bad_imagenet_folders_are_explained(tmp_path):
    names = imagenet_files()
    with pytest.raises(DataError, match=r"imagenet9: a class is missing in .*n02206856"):
        load("imagenet9", write_images(tmp_path / "class", [name for name in names if "n02206856" not in name]))
    flat = [name if not name.startswith("val/") else f"val/{name.split('/')[-1]}" for name in names]
    with pytest.raises(DataError, match="is not in class folders"):
        load("imagenet9", write_images(tmp_path / "flat", flat))
    stingray = [name for name in names if not name.startswith("imagenet-a/") or "n01498041" in name]
    with pytest.raises(DataError, match="imagenet-a has no photo of the 42 classes"):
        load("imagenet9", write_images(tmp_path / "other", stingray))
    for folder in ("imagenet-a", "val", "train"):
        root = write_images(tmp_path / f"no {folder}", [name for name in names if not name.startswith(f"{folder}/")])
        with pytest.raises(MissingDataError, match=rf"imagenet9: .*no .*{folder}.* in {root}.*get ImageNet by hand"):
            load("imagenet9", root)


# --- All three -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["urbancars", "spuco_animals", "imagenet9"])
def test_missing_files_are_named_with_their_place_and_their_source(tmp_path, name):
    with pytest.raises(MissingDataError, match=f"{name}: there is no .* in {tmp_path}.*; .*https://"):
        load(name, tmp_path)
    with pytest.raises(MissingDataError, match=f"{name} needs --raw; .*https://"):
        load(name, None)
