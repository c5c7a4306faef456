"""The transfer data sets with lists of files: official layouts give the official splits, as torchvision reads them."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.sources.layouts import listed, load
from torchvision import datasets

from debeton.data.beton.images import to_rgb
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import write_beton
from debeton.data.raw.fetch import fetch
from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES
from debeton.data.sources.flowers import CLASSES as FLOWERS
from debeton.system.errors import DataError, UsageError

Splits = dict[str, list[tuple[str, int]]]  # the (file, label) of each split, as they must be read


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def photos(root: Path, *names: str) -> None:
    """Write a JPEG with its own grey level and size under every name."""
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + k, 48), (10 * k, 100, 200)).save(root / name, "jpeg")


def save_mat(path: Path, **variables: Any) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def structs(**columns: list[Any]) -> np.ndarray:
    """Return a MATLAB struct array of one row, as the owners save them."""
    array = np.zeros((1, len(next(iter(columns.values())))), dtype=[(name, object) for name in columns])
    for name, values in columns.items():
        for k, value in enumerate(values):
            array[0, k][name] = value
    return array


def make_aircraft(raw: Path) -> Splits:
    data = raw / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320", "A300B4", "DHC-8-100", "Model B200")
    write(data / "images_variant_trainval.txt", "1025794 A300B4", "0056978 707-320", "0034309 Model B200")
    write(data / "images_variant_test.txt", "0698580 DHC-8-100", "0450014 707-320")
    names = [f"data/images/{n}.jpg" for n in ("1025794", "0056978", "0034309", "0698580", "0450014")]
    photos(data.parent, *names)
    return {"train": list(zip(names[:3], (1, 0, 3))), "test": list(zip(names[3:], (2, 0)))}


def make_dtd(raw: Path) -> Splits:
    names = [f"{texture}/{texture}_{i:04}.jpg" for texture in ("zigzagged", "banded") for i in (1, 2, 3)]
    for k, part in enumerate(("train", "val", "test")):
        write(raw / "dtd" / "labels" / f"{part}1.txt", names[k], names[k + 3])
        write(raw / "dtd" / "labels" / f"{part}2.txt", names[(k + 1) % 3], names[(k + 1) % 3 + 3])
    files = [f"images/{name}" for name in names]
    photos(raw / "dtd", *files)
    order = [files[i] for i in (0, 3, 1, 4)]
    return {"train": list(zip(order, (1, 0, 1, 0))), "test": [(files[2], 1), (files[5], 0)]}


def make_flowers(raw: Path) -> Splits:
    save_mat(raw / "imagelabels.mat", labels=np.array([[77, 1, 77, 102, 1, 102]], np.uint8))
    ids = {"trnid": [5, 1], "valid": [4, 3], "tstid": [6, 2]}
    save_mat(raw / "setid.mat", **{name: np.array([values], np.uint16) for name, values in ids.items()})
    files = {i: f"jpg/image_{i:05}.jpg" for i in range(1, 7)}
    photos(raw, *files.values())
    train = [(files[5], 0), (files[1], 76), (files[4], 101), (files[3], 76)]
    return {"train": train, "test": [(files[6], 101), (files[2], 0)]}


def make_food(raw: Path) -> Splits:
    meta = raw / "food-101" / "meta"
    write(meta / "classes.txt", "apple_pie", "baby_back_ribs", "baklava")
    train, test = ["baklava/7", "apple_pie/1005649", "baklava/12"], ["baby_back_ribs/1", "baklava/3"]
    write(meta / "train.txt", *train)
    write(meta / "test.txt", *test)
    files = [f"images/{name}.jpg" for name in train + test]
    photos(raw / "food-101", *files)
    return {"train": list(zip(files[:3], (2, 0, 2))), "test": list(zip(files[3:], (1, 2)))}


def make_pets(raw: Path) -> Splits:
    lists = raw / "annotations"
    write(lists / "trainval.txt", "Abyssinian_100 1 1 1", "american_bulldog_1 2 2 1", "Egyptian_Mau_7 3 1 2")
    write(lists / "test.txt", "american_bulldog_2 2 2 1", "Abyssinian_2 1 1 1")
    stems = ("Abyssinian_100", "american_bulldog_1", "Egyptian_Mau_7", "american_bulldog_2", "Abyssinian_2")
    files = [f"images/{stem}.jpg" for stem in stems]
    photos(raw, *files)
    return {"train": list(zip(files[:3], (0, 1, 2))), "test": list(zip(files[3:], (1, 0)))}


def make_cars(raw: Path) -> Splits:
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "BMW M3 Coupe 2012"]
    save_mat(raw / "devkit" / "cars_meta.mat", class_names=np.array([names], object))
    train = structs(bbox_x1=[1, 2, 3], **{"class": [3, 1, 2]}, fname=["00001.jpg", "00002.jpg", "00003.jpg"])
    test = structs(bbox_x1=[1, 2], **{"class": [2, 3]}, fname=["00001.jpg", "00002.jpg"])
    save_mat(raw / "devkit" / "cars_train_annos.mat", annotations=train)
    save_mat(raw / "cars_test_annos_withlabels.mat", annotations=test)
    files = [f"cars_train/0000{i}.jpg" for i in (1, 2, 3)] + [f"cars_test/0000{i}.jpg" for i in (1, 2)]
    photos(raw, *files)
    return {"train": list(zip(files[:3], (2, 0, 1))), "test": list(zip(files[3:], (1, 2)))}


def make_sun397(raw: Path) -> Splits:
    classes = ("/a/abbey", "/a/apartment_building/outdoor", "/b/bar")
    train = ["/b/bar/sun_aa.jpg", "/a/apartment_building/outdoor/sun_ab.jpg", "/a/abbey/sun_ac.jpg"]
    test = ["/a/abbey/sun_ad.jpg", "/a/apartment_building/outdoor/sun_ae.jpg"]
    write(raw / "SUN397" / "ClassName.txt", *classes)
    write(raw / "Partitions" / "ClassName.txt", *classes)
    for number, (first, second) in {1: (train, test), 10: (test, train)}.items():
        write(raw / "Partitions" / f"Training_{number:02}.txt", *first)
        write(raw / "Partitions" / f"Testing_{number:02}.txt", *second)
    files = [name[1:] for name in train + test]
    photos(raw / "SUN397", *files)
    return {"train": list(zip(files[:3], (2, 1, 0))), "test": list(zip(files[3:], (0, 1)))}


def make_birdsnap(raw: Path) -> Splits:
    root = raw / "birdsnap"
    write(
        root / "species.txt",
        "id\tcommon\tscientific\tdir",
        "2\tCooper's Hawk\tAccipiter cooperii\tCoopers_Hawk",
        "1\tAcadian Flycatcher\tEmpidonax virescens\tAcadian_Flycatcher",
    )
    names = ["Coopers_Hawk/1.jpg", "Acadian_Flycatcher/2.jpg", "Coopers_Hawk/3.jpg", "Acadian_Flycatcher/4.jpg"]
    rows = [f"http://x/{k}\tmd5\t{name}\t{2 - k % 2}\t0\t0\t9\t9" for k, name in enumerate(names)]
    write(root / "images.txt", "url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1\tbb_x2\tbb_y2", *rows)
    write(root / "test_images.txt", "path", names[3])
    files = [f"download/images/{name}" for name in names]
    photos(root, *files)
    return {"train": list(zip(files[:3], (1, 0, 1))), "test": [(files[3], 0)]}


MAKE: dict[str, Callable[[Path], Splits]] = {
    "aircraft": make_aircraft,
    "birdsnap": make_birdsnap,
    "dtd": make_dtd,
    "flowers": make_flowers,
    "food": make_food,
    "pets": make_pets,
    "stanford_cars": make_cars,
    "sun397": make_sun397,
}
TOP = {"aircraft": "fgvc-aircraft-2013b", "birdsnap": "birdsnap", "dtd": "dtd", "food": "food-101", "sun397": "SUN397"}
AIRCRAFT_TEST = "fgvc-aircraft-2013b/data/images_variant_test.txt"
METRICS = {"aircraft": "mean_per_class", "flowers": "mean_per_class", "pets": "mean_per_class"}  # the others: top1


@pytest.mark.parametrize("name", MAKE)
def test_the_official_lists_give_files_labels_and_splits(tmp_path, name):
    expected = MAKE[name](tmp_path)
    assert listed(load(name, tmp_path)) == expected
    assert load(name, tmp_path).spec.metric == METRICS.get(name, "top1")
    if name in TOP:  # RAW may be the top folder itself
        assert listed(load(name, tmp_path / TOP[name])) == expected


@pytest.mark.parametrize("name", MAKE)
def test_betons_hold_the_files_byte_by_byte_and_their_labels(tmp_path, name):
    MAKE[name](tmp_path)
    dataset = load(name, tmp_path)
    for split, rows in dataset.splits.items():
        path = tmp_path / f"{split}.beton"
        write_beton(path, rows, dataset.spec, split)
        beton = open_beton(path)
        assert beton.label.tolist() == beton.group.tolist() == rows.label.tolist()
        assert beton.extra["path"].tolist() == list(rows.names)
        assert all(beton.extra[column].tolist() == list(rows.columns[column]) for column in dataset.spec.columns)
        content = path.read_bytes()
        for row in range(len(rows)):
            start, size = int(beton.offsets[row]), int(beton.sizes[row])
            assert content[start : start + size] == rows.image(row).read_bytes()


def seen_by_torchvision(name: str, raw: Path, split: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Return class names and (file, label) below the set's root, as torchvision reads them.

    raw: the folder that torchvision wants.
    """
    if name == "flowers":
        found = datasets.Flowers102(raw, split)
        return list(found.classes), relative(found._image_files, found._labels, raw / "flowers-102")
    if name == "aircraft":
        found = datasets.FGVCAircraft(raw, {"train": "trainval"}.get(split, split))
        return found.classes, relative(found._image_files, found._labels, raw / "fgvc-aircraft-2013b")
    if name == "dtd":
        found = datasets.DTD(raw, split)
        return found.classes, relative(found._image_files, found._labels, raw / "dtd" / "dtd")
    if name == "food":
        found = datasets.Food101(raw, split)
        return found.classes, relative(found._image_files, found._labels, raw / "food-101")
    if name == "pets":
        found = datasets.OxfordIIITPet(raw, {"train": "trainval"}.get(split, split))
        return found.classes, relative(found._images, found._labels, raw / "oxford-iiit-pet")
    found = datasets.StanfordCars(raw, split)
    return found.classes, relative(*zip(*found._samples), raw / "stanford_cars")


def relative(files: Any, labels: Any, root: Path) -> list[tuple[str, int]]:
    return [(Path(f).relative_to(root).as_posix(), int(k)) for f, k in zip(files, labels, strict=True)]


@pytest.mark.parametrize("name", ["aircraft", "dtd", "flowers", "food", "pets", "stanford_cars"])
def test_torchvision_reads_the_same_files_and_labels(tmp_path, monkeypatch, name):
    around = {"dtd": "dtd", "flowers": "flowers-102", "pets": "oxford-iiit-pet", "stanford_cars": "stanford_cars"}
    MAKE[name](tmp_path / around.get(name, ""))
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    if name == "food":
        meta = tmp_path / "food-101" / "meta"
        for split in ("train", "test"):
            lines = (meta / f"{split}.txt").read_text().split()
            classes = (meta / "classes.txt").read_text().split()
            by_class = {dish: [line for line in lines if line.startswith(f"{dish}/")] for dish in classes}
            (meta / f"{split}.json").write_text(json.dumps(by_class))
    keep = {"keep_val": True} if name in ("dtd", "flowers") else {}
    dataset = load(name, tmp_path, **keep)
    for split, rows in listed(dataset).items():
        classes, found = seen_by_torchvision(name, tmp_path, split)
        assert found == rows if name != "food" else sorted(found) == sorted(rows)
        names = [c.title() for c in dataset.spec.classes] if name == "pets" else list(dataset.spec.classes)
        if split == "train":
            assert names == [c.rstrip("?") for c in classes]


def test_torchvision_gives_the_scenes_of_sun397_the_same_names(tmp_path):
    expected = make_sun397(tmp_path)
    found = datasets.SUN397(tmp_path)
    assert list(load("sun397", tmp_path).spec.classes) == found.classes
    assert sorted(relative(found._image_files, found._labels, tmp_path / "SUN397")) == sorted(
        [row for rows in expected.values() for row in rows]
    )


def test_addresses_and_hashes_are_those_that_torchvision_publishes():
    published = {
        "aircraft": {(datasets.FGVCAircraft._URL, None)},
        "dtd": {(datasets.DTD._URL, datasets.DTD._MD5)},
        "flowers": {
            (datasets.Flowers102._download_url_prefix + name, md5)
            for name, md5 in datasets.Flowers102._file_dict.values()
        },
        "food": {(datasets.Food101._URL, datasets.Food101._MD5)},
        "pets": set(datasets.OxfordIIITPet._RESOURCES),
        "sun397": {
            (datasets.SUN397._DATASET_URL, datasets.SUN397._DATASET_MD5),
            ("https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip", None),
        },
        "birdsnap": set(),
        "stanford_cars": set(),
    }
    for name, files in published.items():
        ours = {(archive.url, archive.hash) for archive in SOURCES.get(name).archives}
        assert ours == {(url, f"md5:{md5}" if md5 else None) for url, md5 in files}


@pytest.mark.parametrize("name", [name for name in MAKE if SOURCES.get(name).archives])
def test_the_owners_archives_unpack_into_the_layout_that_is_read(tmp_path, name):
    expected = MAKE[name](tmp_path / "made")
    archives = [replace(archive, hash=None) for archive in SOURCES.get(name).archives]
    for archive in archives:
        made, packed = tmp_path / "made" / archive.result.split("/")[0], tmp_path / "raw" / archive.path
        packed.parent.mkdir(exist_ok=True)
        if not archive.folder:
            made.rename(packed)
        elif archive.name.endswith(".zip"):
            with zipfile.ZipFile(packed, "w") as file:
                for path in made.iterdir():
                    file.write(path, path.name)
        else:
            with tarfile.open(packed, "w:gz") as file:
                file.add(made, made.name)
    fetch(archives, tmp_path / "raw")
    assert listed(load(name, tmp_path / "raw")) == expected


def test_the_flowers_have_102_different_names():
    assert len(set(FLOWERS)) == 102
    assert (FLOWERS[0], FLOWERS[76], FLOWERS[101]) == ("pink primrose", "passion flower", "blackberry lily")


def test_val_is_merged_into_train_or_kept_and_the_expected_counts_follow(tmp_path):
    make_dtd(tmp_path / "a")
    make_flowers(tmp_path / "b")
    for name, raw, train, test in (("dtd", "a", 3760, 1880), ("flowers", "b", 2040, 6149)):
        assert load(name, tmp_path / raw).expected == {"train": train, "test": test}
        kept = load(name, tmp_path / raw, keep_val=True)
        assert kept.expected == {"train": train // 2, "val": train // 2, "test": test}
        assert {split: len(rows) for split, rows in kept.splits.items()} == {"train": 2, "val": 2, "test": 2}


def test_partitions_are_the_owners_ten(tmp_path):
    make_sun397(tmp_path)
    make_dtd(tmp_path)
    assert listed(load("sun397", tmp_path, partition=10))["train"][0] == ("a/abbey/sun_ad.jpg", 0)
    assert listed(load("dtd", tmp_path, partition=2))["test"][0] == ("images/zigzagged/zigzagged_0001.jpg", 1)
    with pytest.raises(MissingDataError, match=r"no .*test3\.txt|train3\.txt"):
        load("dtd", tmp_path, partition=3)
    for name in ("sun397", "dtd"):
        with pytest.raises(UsageError, match="--partition 11 does not exist"):
            load(name, tmp_path, partition=11)


def test_the_species_of_pets_is_a_column_that_can_be_the_label(tmp_path):
    make_pets(tmp_path)
    dataset = load("pets", tmp_path)
    assert dataset.spec.columns == {"species": ("cat", "dog")}
    assert dataset.splits["train"].columns["species"] == [0, 1, 0]


def test_the_banner_of_aircraft_stays_unless_asked(tmp_path):
    make_aircraft(tmp_path)
    whole, cropped = (load("aircraft", tmp_path, crop_banner=crop).splits["train"] for crop in (False, True))
    assert to_rgb(whole.image(1)).shape == (48, 41, 3)
    np.testing.assert_array_equal(cropped.image(1), to_rgb(whole.image(1))[:28])
    assert not len(cropped.absent())


def test_a_photo_that_is_gone_is_absent_and_not_an_error(tmp_path):
    make_birdsnap(tmp_path)
    (tmp_path / "birdsnap/download/images/Coopers_Hawk/3.jpg").unlink()
    assert load("birdsnap", tmp_path).splits["train"].absent().tolist() == [2]


@pytest.mark.parametrize("name", MAKE)
def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path, name):
    for raw in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError, match=f"{name}.*") as error:
            load(name, raw)
        assert str(error.value).endswith(SOURCES.get(name).where)


def test_an_archive_that_is_not_unpacked_is_named(tmp_path):
    write(tmp_path / "cars_train.tgz", "x")
    with pytest.raises(MissingDataError, match=r"only cars_train\.tgz, which must be unpacked"):
        load("stanford_cars", tmp_path)
    with pytest.raises(MissingDataError, match="which is a file; name the folder around it and add --download"):
        load("food", write(tmp_path / "food-101.tar.gz", "x"))


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("aircraft", AIRCRAFT_TEST, "1 A300B\n", "row 1.*did you mean 'A300B4'"),
        ("aircraft", AIRCRAFT_TEST, "1025794\n", "row 1: '1025794' has no variant"),
        ("aircraft", AIRCRAFT_TEST, "1025794 A300B4\n", "twice, in train and in test"),
        ("dtd", "dtd/labels/val1.txt", "zigzaged/1.jpg\n", "row 1: unknown class 'zigzaged'; did you mean 'zigzagged'"),
        ("dtd", "dtd/labels/test1.txt", "banded_0003.jpg\n", "'banded_0003.jpg' is not CLASS/FILE"),
        ("food", "food-101/meta/train.txt", "baklva/1\n", "unknown class 'baklva'; did you mean 'baklava'"),
        ("food", "food-101/meta/train.txt", "baklava/1\nbaklava/1\n", "listed twice, in train and in train"),
        ("sun397", "Partitions/Training_01.txt", "/a/aby/sun_a.jpg\n", "did you mean '/a/abbey'"),
        ("pets", "annotations/test.txt", "Abyssinian_2 2 1 1\n", "class 2 is 'Abyssinian' here and 'american bulldog'"),
        ("pets", "annotations/test.txt", "Abyssinian_2 9 1 1\n", r"the class ids are \[1, 2, 3, 9\]; expected 1 to 4"),
        ("pets", "annotations/test.txt", "Abyssinian_2 1 1\n", "line 1: 3 fields, expected 4"),
        ("pets", "annotations/test.txt", "Abyssinian_2 1 3 1\n", "is not BREED_NUMBER"),
        ("flowers", "setid.mat", "not a mat file", "is not a readable MATLAB file"),
        ("stanford_cars", "cars_test_annos_withlabels.mat", "", "is not a readable MATLAB file"),
        ("birdsnap", "birdsnap/test_images.txt", "path\nCoopers_Hawk/9.jpg\n", "1 of 1 photos are not in images.txt"),
        ("birdsnap", "birdsnap/test_images.txt", "file\nx\n", "lacks the column path"),
        ("birdsnap", "birdsnap/species.txt", "id\tcommon\n1\tA\n", "species 2 of Coopers_Hawk/1.jpg is not in"),
        ("birdsnap", "birdsnap/species.txt", "id\tcommon\none\tA\n", "the id 'one' is not a number"),
        ("birdsnap", "birdsnap/images.txt", "path\tspecies_id\na.jpg\n", "line 2: expected path, species_id"),
    ],
)
def test_a_wrong_list_is_explained(tmp_path, name, file, content, message):
    MAKE[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load(name, tmp_path)


def test_mat_files_that_disagree_are_explained(tmp_path):
    make_flowers(tmp_path / "flowers")
    make_cars(tmp_path / "cars")
    save_mat(tmp_path / "flowers" / "imagelabels.mat", labels=np.array([[1, 2, 3]], np.uint8))
    with pytest.raises(DataError, match=r"divides 6 images and imagelabels\.mat has 3 labels"):
        load("flowers", tmp_path / "flowers")
    save_mat(tmp_path / "flowers" / "imagelabels.mat", label=np.array([[1]], np.uint8))
    with pytest.raises(DataError, match="has no variable labels; it has label"):
        load("flowers", tmp_path / "flowers")
    labels = tmp_path / "cars" / "cars_test_annos_withlabels.mat"
    save_mat(labels, annotations=structs(**{"class": [4, 1]}, fname=["1.jpg", "2.jpg"]))
    with pytest.raises(DataError, match=r"row 1: class 4 is out of range; cars_meta\.mat has 1 to 3"):
        load("stanford_cars", tmp_path / "cars")
    save_mat(labels, annotations=structs(fname=["1.jpg", "2.jpg"]))
    with pytest.raises(DataError, match="have the fields fname; expected fname and class"):
        load("stanford_cars", tmp_path / "cars")
    labels.unlink()
    with pytest.raises(DataError, match="comes without labels"):
        load("stanford_cars", tmp_path / "cars")


def test_lists_or_photos_alone_are_missing_data(tmp_path):
    make_sun397(tmp_path)
    (tmp_path / "Partitions" / "Testing_01.txt").unlink()
    with pytest.raises(MissingDataError, match=r"the photos lie in .*SUN397, but there is no Testing_01\.txt in"):
        load("sun397", tmp_path)
    make_birdsnap(tmp_path)
    (tmp_path / "birdsnap" / "download" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingDataError, match="holds the lists, but no photos"):
        load("birdsnap", tmp_path)
