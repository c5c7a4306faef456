"""ImageNet, the two Caltech sets and ChestX-ray14: folders of classes, and one set of X-rays with groups."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.sources.layouts import listed, load
from torchvision import datasets

from debeton.data.beton.ffcv_format import JPG
from debeton.data.beton.images import to_rgb
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import write_beton
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.imagenet_classes import choose_classes
from debeton.data.sources import SOURCES, Dataset
from debeton.system.errors import DataError, UsageError

TENCH, GOLDFISH, CRANE, MACHINE = "n01440764", "n01443537", "n02012849", "n03126707"
WNIDS = (TENCH, GOLDFISH, CRANE, MACHINE)
MAPPING = f"{TENCH} tench, Tinca tinca\n{GOLDFISH} goldfish, Carassius auratus\n{CRANE} crane\n{MACHINE} crane\n"


def image(kind: str = "JPEG", level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L" if kind == "PNG" else "RGB", (24, 20), level).save(stream, kind)
    return stream.getvalue()


def write_files(root: Path, *names: str, content: bytes = image()) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def check_beton(folder: Path, dataset: Dataset) -> None:
    """Write a split, read it back, and compare labels, groups, columns and the pixels of every row."""
    for split, rows in dataset.splits.items():
        write_beton(folder / f"{split}.beton", rows, dataset.spec, split)
        beton = open_beton(folder / f"{split}.beton")
        assert beton.group.tolist() == dataset.spec.group(rows.label, rows.attribute).tolist()
        assert beton.extra["path"].tolist() == list(rows.names)
        assert all(beton.extra[name].tolist() == list(rows.columns[name]) for name in dataset.spec.columns)
        content = beton.path.read_bytes()
        for row in range(len(rows)):
            start, size = int(beton.offsets[row]), int(beton.sizes[row])
            stored, expected = content[start : start + size], to_rgb(rows.image(row))
            if beton.modes[row] == JPG:
                np.testing.assert_array_equal(to_rgb(stored), expected)
            else:
                assert stored == expected.tobytes()


# --- ImageNet ------------------------------------------------------------------------------------------------

TRAIN = [f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in (10026, 18)]
VAL = [f"val/{wnid}/ILSVRC2012_val_0000000{i}.JPEG" for i, wnid in zip((3, 1, 4, 2), WNIDS, strict=True)]


def test_imagenet_reads_class_folders_as_torchvision_does_and_calls_val_test(tmp_path):
    write_files(tmp_path, *reversed(TRAIN), *VAL, f"train/{TENCH}/.hidden.JPEG", f"train/{TENCH}/notes.txt")
    (tmp_path / "train" / TENCH / "notes.txt").rename(tmp_path / "train" / "notes.txt")
    dataset = load("imagenet", tmp_path)
    labels = [k for k in range(4) for _ in range(2)]
    assert listed(dataset) == {"train": list(zip(TRAIN, labels)), "test": list(zip(VAL, range(4)))}
    assert (dataset.spec.classes, dataset.spec.metric) == (WNIDS, "top1")
    (tmp_path / "train" / TENCH / ".hidden.JPEG").unlink()
    found = datasets.ImageFolder(tmp_path / "train")
    names = [(Path(path).relative_to(tmp_path).as_posix(), label) for path, label in found.samples]
    assert listed(dataset)["train"] == names
    check_beton(tmp_path, dataset)


def test_a_subset_of_imagenet_keeps_the_order_and_counts_anew(tmp_path):
    write_files(tmp_path, *TRAIN, *VAL)
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    (tmp_path / "mine.txt").write_text(f"{MACHINE}, 0")
    np.save(tmp_path / "mine.npy", np.array([3, 0]))
    for chosen in (f"{MACHINE},{TENCH}", "3,0", "0-0,3-3", str(tmp_path / "mine.txt"), str(tmp_path / "mine.npy")):
        dataset = load("imagenet", tmp_path, classes=chosen)
        assert dataset.spec.classes == ("tench", "crane")
        assert listed(dataset)["test"] == [(VAL[0], 0), (VAL[3], 1)]
        assert listed(dataset)["train"] == [(TRAIN[0], 0), (TRAIN[1], 0), (TRAIN[6], 1), (TRAIN[7], 1)]
        assert dataset.expected == {"test": 100}
    assert load("imagenet", tmp_path).spec.classes == ("tench", "goldfish", f"crane ({CRANE})", f"crane ({MACHINE})")


def test_the_dogs_are_118_of_the_1000_classes():
    order = [f"n{k:08}" for k in range(1000)]
    assert choose_classes("151-268", order, complete=False) == order[151:269]
    assert len(order[151:269]) == 118


def test_kaggles_layout_has_the_labels_of_val_in_a_csv(tmp_path):
    tree = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    flat = [f"val/ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3, 4)]
    write_files(tree, *TRAIN, *flat, "test/ILSVRC2012_test_00000001.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    boxes = [(3, TENCH), (1, GOLDFISH), (4, CRANE), (2, MACHINE)]
    lines = [f"ILSVRC2012_val_0000000{i},{wnid} 85 1 499 272 {wnid} 1 2 3 4 \n" for i, wnid in boxes]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    dataset = load("imagenet", tmp_path)
    assert listed(dataset)["test"] == [(flat[2], 0), (flat[0], 1), (flat[3], 2), (flat[1], 3)]
    assert not len(dataset.splits["test"].absent())
    assert dataset.spec.classes[0] == "tench"


def test_the_development_kit_gives_the_labels_of_val(tmp_path):
    from scipy.io import savemat

    write_files(tmp_path, *TRAIN, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(
        DataError, match=r"is not in class folders, and neither LOC_val_solution\.csv nor ILSVRC2012_dev"
    ):
        load("imagenet", tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    synsets = np.zeros((3, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for row, pair in zip(synsets, ((7, GOLDFISH), (2, MACHINE), (1861, "n00001740")), strict=True):
        row[0] = pair
    savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n7\n")
    test = [("val/ILSVRC2012_val_00000002.JPEG", 1), ("val/ILSVRC2012_val_00000001.JPEG", 3)]
    assert listed(load("imagenet", tmp_path))["test"] == test
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n8\n")
    with pytest.raises(DataError, match=r"row 2: class 8 is not in meta\.mat"):
        load("imagenet", tmp_path)


@pytest.mark.parametrize("folder", ["", "train/"])
def test_files_named_by_wnid_need_no_folders_and_may_lie_in_a_zip(tmp_path, folder):
    names = [f"{folder}{wnid}_{tail}.JPEG" for wnid, tail in zip(WNIDS, ("tench", "18", "crane", "7"), strict=True)]
    write_files(tmp_path, *names)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in reversed(names):
            archive.writestr(name, image())
    for raw in (tmp_path, tmp_path / "photos.zip"):
        dataset = load("imagenet", raw)
        assert listed(dataset) == {"train": list(zip(names, range(4)))}
        assert dataset.expected == {}


def test_names_may_come_from_kerass_index(tmp_path):
    write_files(tmp_path, *TRAIN)
    index = {str(k): [wnid, f"some_name_{k}"] for k, wnid in enumerate(WNIDS)}
    (tmp_path / "imagenet_class_index.json").write_text(json.dumps(index))
    assert load("imagenet", tmp_path, classes="2").spec.classes == ("some name 2",)
    (tmp_path / "imagenet_class_index.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="expected the form"):
        load("imagenet", tmp_path)


def test_bad_subsets_and_folders_of_imagenet_are_explained(tmp_path):
    write_files(tmp_path, *TRAIN, f"val/{TENCH}/1.JPEG", "val/n99999999/1.JPEG")
    for chosen, message in (
        ("n01440765", "'n01440765' is no class; did you mean 'n01440764'"),
        ("0-1", r"counts 1000 classes and 4 are here; name wnids, or put LOC_synset_mapping\.txt into RAW"),
        ("dogs.txt", "dogs.txt cannot be read"),
    ):
        with pytest.raises(UsageError, match=message):
            load("imagenet", tmp_path, classes=chosen)
    with pytest.raises(DataError, match="has the class n99999999, which train lacks"):
        load("imagenet", tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING + "n09999999 nothing\n")
    with pytest.raises(UsageError, match="'3-5' is not a number or range within 0 to 4"):
        load("imagenet", tmp_path, classes="3-5")
    with pytest.raises(
        DataError, match=r"1 of 5 classes have no image in .*the first is n09999999; 4 classes are there"
    ):
        load("imagenet", tmp_path, classes="0-4")


def shared_zip() -> Path:
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    return Path(os.environ.get("DEBETON_DATA", beside)) / "in1k_256.zip"


@pytest.mark.skipif(not shared_zip().is_file(), reason="no in1k_256.zip in $DEBETON_DATA or ../shared/data")
def test_a_thousand_real_photos_are_written_and_read_back(tmp_path):
    dataset = load("imagenet", shared_zip())
    rows = dataset.splits["train"]
    assert rows.label.tolist() == list(range(1000))
    sidecar = write_beton(tmp_path / "imagenet_train.beton", rows, dataset.spec, "train")
    beton = open_beton(tmp_path / "imagenet_train.beton")
    assert (sidecar["n"], len(beton), beton.spec.num_classes) == (1000, 1000, 1000)
    assert beton.spec.classes[151] == "n02085620"  # the first dog, a chihuahua
    assert min(beton.heights.min(), beton.widths.min()) == 256
    assert load("imagenet", shared_zip(), classes="151-268").spec.classes[-1] == "n02113978"


# --- Caltech -------------------------------------------------------------------------------------------------


def make_caltech(root: Path, classes: list[str], file: str, long: int, *strays: str) -> Path:
    """Write a folder of classes with two files each, and `long` files in the one before last."""
    return write_files(
        root,
        *(
            f"{name}/{file.format(k=k + 1, i=i)}"
            for k, name in enumerate(classes)
            for i in range(1, 3 + long * (k == 99))
        ),
        *strays,
    )


def test_caltech101_trains_on_the_first_30_of_each_class_and_has_no_background(tmp_path):
    classes = sorted(["Faces", "Faces_easy", "accordion", *(f"class_{k:02}" for k in range(98))])
    folder = tmp_path / "caltech101" / "101_ObjectCategories"
    make_caltech(folder, classes, "image_{i:04}.jpg", 35, "BACKGROUND_Google/image_0001.jpg", "BACKGROUND_Google/tmp")
    dataset = load("caltech101", tmp_path)
    assert dataset.spec.classes == tuple(classes)
    assert dataset.spec.classes[:3] == ("Faces", "Faces_easy", "accordion")
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 230, "test": 7}
    assert listed(dataset)["test"][0] == (f"{classes[99]}/image_0031.jpg", 99)
    assert (dataset.expected, dataset.spec.metric) == ({"train": 3030, "test": 5647}, "mean_per_class")
    found = datasets.Caltech101(tmp_path)
    theirs = {(found.categories[y], f"image_{i:04}.jpg", y) for y, i in zip(found.y, found.index, strict=True)}
    assert theirs == {(*name.split("/"), label) for rows in listed(dataset).values() for name, label in rows}
    check_beton(tmp_path, dataset)


def test_caltech256_keeps_clutter_and_ignores_the_strays_of_the_official_archive(tmp_path):
    classes = ["001.ak47", *(f"{k:03}.thing{k}" for k in range(2, 257)), "257.clutter"]
    folder = tmp_path / "256_ObjectCategories"
    make_caltech(folder, classes, "{k:03}_{i:04}.jpg", 62, "198.thing198/RENAME2", "056.thing56/greg/vision309/x.jpg")
    dataset = load("caltech256", tmp_path)
    assert (len(dataset.spec.classes), dataset.spec.classes[0], dataset.spec.classes[256]) == (257, "ak47", "clutter")
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 572, "test": 4}
    assert listed(dataset)["test"] == [(f"100.thing100/100_00{i}.jpg", 99) for i in (61, 62, 63, 64)]
    (tmp_path / "caltech256").mkdir()
    folder.rename(tmp_path / "caltech256" / "256_ObjectCategories")
    found = datasets.Caltech256(tmp_path)
    theirs = [f"{found.categories[y]}/{y + 1:03}_{i:04}.jpg" for y, i in zip(found.y, found.index, strict=True)]
    ours = listed(load("caltech256", tmp_path))
    assert sorted(theirs) == sorted(name for rows in ours.values() for name, _ in rows)


def test_caltech_with_classes_missing_is_refused(tmp_path):
    write_files(tmp_path / "101_ObjectCategories", "accordion/image_0001.jpg", "ant/image_0001.jpg")
    with pytest.raises(DataError, match=r"caltech101 has 101 classes, .* has 2 folders with images: accordion, ant"):
        load("caltech101", tmp_path)


# --- ChestX-ray14 --------------------------------------------------------------------------------------------

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
XRAYS = (
    ("00000001_000.png", "Cardiomegaly|Emphysema", 1, "M", "PA"),
    ("00000002_000.png", "No Finding", 2, "F", "AP"),
    ("00000003_000.png", "Pneumonia", 3, "F", "PA"),
    ("00000003_001.png", "No Finding", 3, "F", "PA"),
    ("00000004_000.png", "Pleural_Thickening", 4, "M", "AP"),
)


def make_chest(root: Path, folders: str = "images", table: str = "Data_Entry_2017_v2020.csv", **changes: Any) -> Path:
    rows = changes.get("rows", XRAYS)
    for k, (name, *_) in enumerate(XRAYS):
        write_files(root, f"{folders.format(k % 2 + 1)}/{name}", content=image("PNG", 40 * k))
    lines = [
        f"{name},{found},0,{patient},58,{sex},{view},2682,2749,0.143,0.143,\n"
        for name, found, patient, sex, view in rows
    ]
    (root / table).write_text(changes.get("header", HEADER) + "".join(lines))
    (root / "train_val_list.txt").write_text("\n".join(changes.get("train", [row[0] for row in XRAYS[:3]])))
    (root / "test_list.txt").write_text("\n".join(row[0] for row in XRAYS[3:]) + "\n")
    return root


def test_chestxray14_has_finding_and_gender_as_groups_and_every_finding_as_a_column(tmp_path):
    dataset = load("chestxray14", make_chest(tmp_path))
    spec, train, test = dataset.spec, dataset.splits["train"], dataset.splits["test"]
    assert spec.group_names == ("no finding, F", "no finding, M", "finding, F", "finding, M")
    assert spec.group(train.label, train.attribute).tolist() == [3, 0, 2]
    assert spec.group(test.label, test.attribute).tolist() == [0, 3]
    assert (train.names[0], spec.metric) == ("images/00000001_000.png", "mean_per_class")
    assert len(spec.columns) == 17
    assert spec.columns["Hernia"] == ("no Hernia", "Hernia")
    assert train.columns["Emphysema"].tolist() == [1, 0, 0]
    assert train.columns["view_position"].tolist() == [0, 1, 0]
    assert test.columns["patient_id"].tolist() == [3, 4]
    assert test.columns["Pleural_Thickening"].tolist() == test.columns["any_finding"].tolist() == [0, 1]
    assert dataset.expected == {"train": 86524, "test": 25596}
    check_beton(tmp_path, dataset)


def test_one_finding_can_be_the_label(tmp_path):
    dataset = load("chestxray14", make_chest(tmp_path / "CXR8"), finding="Pneumonia")
    assert (dataset.spec.classes, dataset.spec.label_name) == (("no Pneumonia", "Pneumonia"), "Pneumonia")
    assert load("chestxray14", tmp_path, finding="Pneumonia").splits["train"].label.tolist() == [0, 0, 1]
    with pytest.raises(UsageError, match="--finding 'Pneumonias' is unknown; did you mean 'Pneumonia'"):
        load("chestxray14", tmp_path, finding="Pneumonias")


def test_kaggles_folders_and_the_other_spelling_of_the_table_are_read(tmp_path):
    header = HEADER.replace("Gender", "Sex")
    dataset = load("chestxray14", make_chest(tmp_path, "images_00{}/images", "Data_Entry_2017.csv", header=header))
    assert dataset.splits["test"].names == ["images_002/images/00000003_001.png", "images_001/images/00000004_000.png"]
    assert dataset.splits["test"].attribute.tolist() == [0, 1]
    assert not len(dataset.splits["train"].absent())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rows": [("a.png", "Pneumona", 1, "M", "PA")]},
            "line 2: unknown finding 'Pneumona'; did you mean 'Pneumonia'",
        ),
        ({"rows": [("a.png", "No Finding|Mass", 1, "M", "PA")]}, "unknown finding 'No Finding'"),
        ({"rows": [("a.png", "Mass", 1, "X", "PA")]}, r"gender 'X' of a\.png is unknown"),
        ({"rows": [("a.png", "Mass", 1, "M", "LL")]}, r"view position 'LL' of a\.png is unknown"),
        ({"rows": [XRAYS[0], XRAYS[0]]}, r"00000001_000\.png is listed twice"),
        ({"rows": XRAYS[:4]}, r"test_list\.txt: 1 of 2 images have no row in Data_Entry_2017_v2020\.csv"),
        ({"train": [XRAYS[0][0]]}, r"Data_Entry_2017_v2020\.csv has 5 images and the two lists 3"),
        ({"train": [XRAYS[3][0]] * 3}, "is listed twice, in train and in train"),
        ({"header": HEADER.replace("Patient ID", "Patient")}, "lacks the column Patient ID"),
    ],
)
def test_wrong_tables_and_lists_of_chestxray14_are_explained(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load("chestxray14", make_chest(tmp_path, **changes))


@pytest.mark.parametrize("name", ["imagenet", "caltech101", "caltech256", "chestxray14"])
def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path, name):
    for raw in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError) as error:
            load(name, raw)
        assert str(error.value).endswith(SOURCES.get(name).where)
    write_files(tmp_path, "images_01.tar.gz", content=b"x")
    with pytest.raises(MissingDataError, match=r"only images_01\.tar\.gz, which must be unpacked"):
        load(name, tmp_path)
