"""bar, waterbirds and bffhq: official layouts become rows with groups, or one clear sentence."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.system.errors import DataError, UsageError


def write_zip(path: Path, root: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*"), reverse=True):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


# --- BAR -----------------------------------------------------------------------------------------------------

ACTIONS = ("climbing", "diving", "fishing", "racing", "throwing", "pole vaulting")
ORIGINAL = [f"train/{a}_{i}.jpg" for a in ACTIONS for i in range(2)] + [
    f"test/{a}_{i}.jpg" for a in ACTIONS for i in (2,)
]
SPLIT_AGAIN = [
    *(f"train/align/{c}/{i}_{c}_{c}.jpg" for c in range(6) for i in range(3)),
    *(f"train/conflict/1pct/{c}/3_{c}_0.jpg" for c in range(6)),
    *(f"train/conflict/5pct/{c}/{i}_{c}_0.jpg" for c in range(6) for i in (3, 4)),
    *(f"valid/{c}/7_{c}_{b}.jpg" for c in range(6) for b in (c, 5 - c)),
    *(f"test/{c}/8_{c}_{5 - c}.jpg" for c in range(6)),
]


@pytest.fixture
def bar(tmp_path):
    root = write_images(tmp_path / "set" / "BAR", ORIGINAL)
    (root / "metadata.json").write_text("{}")
    return root


def test_bar_takes_class_and_place_of_the_original_release_in_a_folder_or_a_zip(bar, tmp_path):
    (tmp_path / "zips").mkdir()
    wrapped = write_zip(tmp_path / "zips" / "BAR-master.zip", bar, "BAR-master/")
    for raw in (bar, bar.parent, write_zip(tmp_path / "any.zip", bar), wrapped, wrapped.parent):
        dataset = load("bar", raw)
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert sizes(dataset) == {"train": 12, "test": 6}
        assert train.names[:3] == ["train/climbing_0.jpg", "train/climbing_1.jpg", "train/diving_0.jpg"]
        assert train.names[6:8] == ["train/pole vaulting_0.jpg", "train/pole vaulting_1.jpg"]
        assert train.label.tolist() == [0, 0, 1, 1, 2, 2, 5, 5, 3, 3, 4, 4]
        assert train.attribute.tolist() == [0] * 12
        assert test.attribute.tolist() == [1] * 6
        assert dataset.spec.group_names[10:] == ("vaulting, typical", "vaulting, other")
        assert dataset.spec.is_aligned(train.label, train.attribute).all()
        assert not dataset.spec.is_aligned(test.label, test.attribute).any()
        assert not len(train.absent())


def test_bar_expects_the_counts_of_its_owners(bar):
    expected = load("bar", bar).expected
    assert (sum(expected["train"]), sum(expected["test"])) == (1941, 654)
    assert expected["train"][::2] == [326, 520, 163, 336, 317, 279]
    assert expected["test"][1::2] == [105, 159, 42, 132, 85, 131]


def test_bar_survives_a_round_trip_with_every_byte_of_its_photos(bar, tmp_path):
    beton = round_trip(load("bar", bar), "train", tmp_path / "bar_train.beton")
    stored = beton.path.read_bytes()
    assert all(file.read_bytes() in stored for file in (bar / "train").iterdir())


@pytest.mark.parametrize(("option", "conflicting"), [("1pct", 6), ("5pct", 12), ("", 12)])
def test_bar_split_again_is_recognised_by_its_folders(tmp_path, option, conflicting):
    dataset = load("bar", write_images(tmp_path / "bar", SPLIT_AGAIN), conflict=option)
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert sizes(dataset) == {"train": 18 + conflicting, "val": 12, "test": 6}
    assert train.label.tolist() == [*np.repeat(np.arange(6), 3), *np.repeat(np.arange(6), conflicting // 6)]
    assert (
        train.attribute.tolist() == [0] * 18 + [1] * conflicting
    )  # by folder, because the file names do not hold the place
    assert all((option or "5pct") in name for name in train.names[18:])
    assert [val.attribute[val.label == c].tolist() for c in range(6)] == [[0, 1]] * 3 + [[1, 0]] * 3
    assert dataset.splits["test"].attribute.tolist() == [1] * 6
    assert dataset.expected == {}


def test_bar_split_again_takes_class_names_as_folders(tmp_path):
    names = [name.replace("/0/", "/climbing/").replace("/5/", "/pole vaulting/") for name in SPLIT_AGAIN]
    dataset = load("bar", write_images(tmp_path, names))
    assert sorted(set(dataset.splits["train"].label)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        ([*ORIGINAL, "train/climbin_9.jpg"], {}, DataError, "class 'climbin' of train/climbin_9.jpg .*mean 'climbing'"),
        (ORIGINAL[:12], {}, DataError, r"bar: no image test/\* in"),
        (ORIGINAL, {"conflict": "1pct"}, UsageError, "--conflict 1pct is of the version with train/align/"),
        (SPLIT_AGAIN, {"conflict": "2pct"}, UsageError, "--conflict '2pct' is unknown; did you mean"),
        (SPLIT_AGAIN[:18] + SPLIT_AGAIN[24:], {"conflict": "1pct"}, DataError, r"no image train/conflict/1pct/\*/\*"),
        ([*SPLIT_AGAIN, "test/0/climbing_3.jpg"], {}, DataError, "climbing_3.jpg does not end in _CLASS_BIAS"),
    ],
)
def test_bad_bar_is_explained(tmp_path, names, options, error, message):
    with pytest.raises(error, match=message):
        load("bar", write_images(tmp_path, names), **options)


def real_bar() -> Path | None:
    shared = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = (Path(os.environ["DEBETON_DATA"]) if "DEBETON_DATA" in os.environ else shared) / "bar.zip"
    return path if path.is_file() else None


@pytest.mark.skipif(real_bar() is None, reason="no bar.zip in $DEBETON_DATA or ../shared/data")
def test_real_bar_has_the_published_counts_of_every_group():
    for raw in (real_bar(), real_bar().parent):
        dataset = load("bar", raw)
        assert sizes(dataset) == {"train": 1941, "test": 654}
        for split, rows in dataset.splits.items():
            counts = np.bincount(dataset.spec.group(rows.label, rows.attribute), minlength=12)
            assert counts.tolist() == list(dataset.expected[split])
            assert not len(rows.absent())


# --- Waterbirds ----------------------------------------------------------------------------------------------

# (species, bird, place, split) in an order that is neither sorted nor by split
BIRDS = [
    ("001.Black_footed_Albatross", 1, 1, 0), ("017.Cardinal", 0, 0, 0), ("017.Cardinal", 0, 1, 2),
    ("001.Black_footed_Albatross", 1, 0, 0), ("002.Laysan_Albatross", 1, 0, 1), ("018.Spotted_Catbird", 0, 1, 0),
    ("018.Spotted_Catbird", 0, 0, 2), ("002.Laysan_Albatross", 1, 1, 2),
]  # fmt: skip
PHOTOS = [f"{species}/{species[4:]}_{k:04}.jpg" for k, (species, *_) in enumerate(BIRDS)]
HEADER = "img_id,img_filename,y,split,place,place_filename"
LINES = [f"{k},{PHOTOS[k]},{y},{split},{place},/o/ocean/{k}.jpg" for k, (_, y, place, split) in enumerate(BIRDS)]


def write_birds(root: Path, lines: Iterable[str] = LINES, header: str = HEADER) -> Path:
    write_images(root, PHOTOS)
    (root / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


@pytest.mark.parametrize("folder", ["waterbird_complete95_forest2water2", "waterbirds_v1.0", ""])
def test_waterbirds_follow_metadata_csv(tmp_path, folder):
    write_birds(tmp_path / folder)
    dataset = load("waterbirds", tmp_path)
    train = dataset.splits["train"]
    assert sizes(dataset) == {"train": 4, "val": 1, "test": 3}
    assert train.names == [PHOTOS[k] for k in (0, 1, 3, 5)]  # as the file lists them
    assert train.label.tolist() == [1, 0, 1, 0]
    assert train.attribute.tolist() == [1, 0, 0, 1]
    assert dataset.spec.group_names == ("landbird, land", "landbird, water", "waterbird, land", "waterbird, water")
    assert dataset.spec.is_aligned(train.label, train.attribute).tolist() == [True, True, False, False]


def test_waterbirds_expect_the_published_groups(tmp_path):
    expected = load("waterbirds", write_birds(tmp_path)).expected
    assert expected["train"] == (3498, 184, 56, 1057)
    assert [sum(counts) for counts in expected.values()] == [4795, 1199, 5794]


def test_waterbirds_survive_a_round_trip(tmp_path):
    beton = round_trip(load("waterbirds", write_birds(tmp_path / "set")), "test", tmp_path / "w.beton")
    stored = beton.path.read_bytes()
    assert [(tmp_path / "set" / name).read_bytes() in stored for name in PHOTOS] == [split == 2 for *_, split in BIRDS]


def test_waterbirds_name_photos_that_are_not_there(tmp_path):
    root = write_birds(tmp_path)
    (root / PHOTOS[3]).unlink()
    rows = load("waterbirds", root).splits["train"]
    assert [rows.names[row] for row in rows.absent()] == [PHOTOS[3]]


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (HEADER.replace("place,", "plaace,"), LINES, "lacks the column place"),
        (HEADER, [*LINES, LINES[2]], f"line 10: {PHOTOS[2]} is listed twice, first in line 4"),
        (HEADER, [*LINES, "9,x.jpg,2,0,0,p"], "y '2' of line 10 is unknown or out of range"),
        (HEADER, [*LINES, "9,x.jpg,1,3,0,p"], "split '3' of line 10 is unknown or out of range"),
        (HEADER, [*LINES, "9,x.jpg,1,0,,p"], "line 10: no place"),
        (HEADER, [line for k, line in enumerate(LINES) if BIRDS[k][3] != 1], "has no row of split 1, val"),
    ],
)
def test_a_bad_metadata_csv_is_explained(tmp_path, header, lines, message):
    with pytest.raises(DataError, match=message):
        load("waterbirds", write_birds(tmp_path, lines, header))


# --- BFFHQ ---------------------------------------------------------------------------------------------------

FACES = [
    *(f"{pct}/align/{c}/{i}_{c}_{c}.png" for pct in ("0.5pct", "2pct") for c in (0, 1) for i in range(4)),
    *(f"{pct}/conflict/{c}/9{c}_{c}_{1 - c}.png" for pct in ("0.5pct", "2pct") for c in (0, 1)),
    *(f"{pct}/conflict/1/99_1_0.png" for pct in ("2pct",)),
    *(f"{split}/{k}_{k // 2 % 2}_{k % 2}.png" for split in ("valid", "test") for k in range(4)),
]


@pytest.mark.parametrize(("percent", "conflicting"), [("0.5", 2), ("0.5pct", 2), ("2", 3)])
def test_bffhq_takes_age_and_gender_from_file_names(tmp_path, percent, conflicting):
    root = write_images(tmp_path / "bffhq", FACES)
    (tmp_path / "zips").mkdir()
    zipped = write_zip(tmp_path / "zips" / "bffhq.zip", root, "bffhq/")
    for raw in (root, tmp_path, zipped, zipped.parent):
        dataset = load("bffhq", raw, conflict_percent=percent)
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert sizes(dataset) == {"train": 8 + conflicting, "val": 4, "test": 4}
        assert train.names[0] == f"{percent.removesuffix('pct')}pct/align/0/0_0_0.png"
        assert train.label.tolist() == [0] * 4 + [1] * 4 + [0] + [1] * (conflicting - 1)
        assert train.attribute.tolist() == [0] * 4 + [1] * 4 + [1] + [0] * (conflicting - 1)
        assert dataset.spec.is_aligned(train.label, train.attribute).sum() == 8
        assert (test.label.tolist(), test.attribute.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
        assert dataset.spec.group_names == ("young, female", "young, male", "old, female", "old, male")
        assert ("train" in dataset.expected) == (conflicting == 2)


def test_bffhq_finds_the_validation_split_and_the_training_rows_of_other_copies(tmp_path):
    inside = [name.replace("valid/", "0.5pct/valid/") for name in FACES]
    assert sizes(load("bffhq", write_images(tmp_path / "a", inside))) == {"train": 10, "val": 4, "test": 4}
    older = [name.replace("0.5pct/", "train/") for name in FACES if not name.startswith("2pct")]
    assert sizes(load("bffhq", write_images(tmp_path / "b", older))) == {"train": 10, "val": 4, "test": 4}
    with pytest.raises(MissingDataError, match="there is no 2pct in"):
        load("bffhq", tmp_path / "b", conflict_percent="2")


def test_bffhq_survives_a_round_trip_pixel_by_pixel(tmp_path):
    root = write_images(tmp_path / "bffhq", FACES)
    beton = round_trip(load("bffhq", root), "train", tmp_path / "f.beton", "raw")
    stored = beton.path.read_bytes()
    for name in load("bffhq", root).splits["train"].names:
        assert np.asarray(Image.open(root / name)).tobytes() in stored


@pytest.mark.parametrize(
    ("extra", "options", "error", "message"),
    [
        ("test/5_1.png", {}, DataError, "test/5_1.png in .* is not called ID_TARGET_BIAS.png"),
        ("test/5_2_1.png", {}, DataError, "with a label of 0 to 1"),
        ("0.5pct/align/0/7_0_1.png", {}, DataError, "7_0_1.png in .* lies in align/0, which contradicts its name"),
        ("0.5pct/conflict/0/7_1_0.png", {}, DataError, "lies in conflict/0, which contradicts its name"),
        ("test/6_1_1.png", {"conflict_percent": "3"}, UsageError, "'3' is unknown.* known: 0.5, 1, 2, 5"),
    ],
)
def test_bad_bffhq_is_explained(tmp_path, extra, options, error, message):
    with pytest.raises(error, match=message):
        load("bffhq", write_images(tmp_path, [*FACES, extra]), **options)


# --- All three -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bar", "waterbirds", "bffhq"])
def test_missing_files_are_named_with_their_place_and_their_source(tmp_path, name):
    with pytest.raises(MissingDataError, match=f"{name}: there is no .* in {tmp_path}.*; .*https://"):
        load(name, tmp_path)
    with pytest.raises(MissingDataError, match=f"{name} needs --raw; .*https://"):
        load(name, None)
    tarfile.open(tmp_path / "set.tar.gz", "w:gz").close()
    with pytest.raises(MissingDataError, match=f"in {tmp_path}.*, only set.tar.gz, which must be unpacked; "):
        load(name, tmp_path)
    with pytest.raises(MissingDataError, match=r"set\.tar\.gz, which is a file; name the folder around it"):
        load(name, tmp_path / "set.tar.gz")
