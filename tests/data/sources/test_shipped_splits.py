"""From Fake to Real's split pickles give exactly its rows, wherever the data set lies now."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.layouts import load

from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.shipped_splits import read_shipped_splits
from debeton.data.sources import celeba_hq, utkface
from debeton.system.errors import DataError, UsageError

AUTHOR = "/projectnb/someone/data"
LISTING = [f"spuco_birds/{split}/landbirds/land/{i}.jpg" for split in ("train", "val", "test") for i in range(4)]
SPUCO = {"train": "train", "val": "val", "test": "test"}


def content(files: Any, label: Any, attribute: Any, **changes: Any) -> dict[str, Any]:
    plain = {"filenames": files, "targets": np.array(label), "biases": np.array(attribute)}
    return {**plain, "real_gen": np.zeros(len(files), int), **changes}


def dump(path: Path, value: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def write_spuco(folder: Path, rate: str = "0.95", **train: Any) -> Path:
    """Write the three files of spuco_animals.

    Their filenames are an array (test) or NumPy strings (the thinned ones).
    """
    for k, split in enumerate(("train", "val", "test")):
        paths = np.array([f"{AUTHOR}/spuco/{file}" for file in LISTING[4 * k : 4 * k + 4]])
        files = paths if split == "test" else [paths[i] for i in (2, 0)]
        value = content(files, [0] * len(files), [1] * len(files), **(train if split == "train" else {}))
        dump(folder / f"spuco_animals_{split}_{rate}.pkl", value)
    return folder


def read_spuco(where: Path, rate: str = "0.95") -> Any:
    return read_shipped_splits({"ffr_splits": where, "ffr_rate": rate}, "spuco_animals", LISTING, SPUCO)


def test_absolute_paths_become_paths_of_the_listing_in_the_shipped_order(tmp_path):
    splits = read_spuco(write_spuco(tmp_path))
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].files == [LISTING[2], LISTING[0]]
    assert splits["test"].files == LISTING[8:]
    assert splits["val"].label.tolist() == [0, 0]
    assert splits["val"].attribute.tolist() == [1, 1]
    assert splits["val"].attribute.dtype == np.int64


def test_one_file_stands_for_the_three_of_its_rate(tmp_path):
    write_spuco(tmp_path, "0.95")
    write_spuco(tmp_path, "0.99", targets=np.array([1, 1]))
    assert read_spuco(tmp_path / "spuco_animals_val_0.99.pkl")["train"].label.tolist() == [1, 1]
    assert read_spuco(tmp_path, "0.95")["train"].label.tolist() == [0, 0]


def test_the_longest_known_end_of_a_path_is_taken(tmp_path):
    for split in SPUCO:
        dump(tmp_path / f"spuco_animals_{split}_0.pkl", content(["/x/a/b.jpg"], [0], [0]))
    splits = read_shipped_splits(
        {"ffr_splits": tmp_path, "ffr_rate": "0"}, "spuco_animals", ["b.jpg", "a/b.jpg"], SPUCO
    )
    assert splits["train"].files == ["a/b.jpg"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    write_spuco(tmp_path)
    value = content([np.str_(f"{AUTHOR}/{LISTING[1]}")], [3], [2])
    dump(tmp_path / "spuco_animals_train_0.95.pkl", value, protocol)
    assert read_spuco(tmp_path)["train"].files == [LISTING[1]]


def test_real_gen_may_be_longer_as_the_loader_of_celeba_leaves_it(tmp_path):
    write_spuco(tmp_path, real_gen=np.zeros(9))
    assert len(read_spuco(tmp_path)["train"].files) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.array([1])}, "2 filenames, 1 targets and 2 biases"),
        ({"biases": np.array([0.5, 1])}, "'biases' is no list of whole numbers"),
        ({"biases": np.array(["a", "b"])}, "'biases' is no list of whole numbers"),
        ({"filenames": [1, 2]}, "'filenames' is no list of text"),
        ({"filenames": "ab"}, "'filenames' is no list of text"),
        ({"real_gen": np.array([0, 1])}, "lists 1 synthetic images"),
        ({"filenames": [f"{AUTHOR}/{LISTING[0]}"] * 2}, "lists 1 files twice"),
        (
            {"filenames": [f"{AUTHOR}/{LISTING[0]}", "/x/9.jpg"]},
            "1 of 2 files are not in the data set, the first is /x/9",
        ),
    ],
)
def test_a_wrong_split_is_explained(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_spuco(write_spuco(tmp_path, **changes))


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(tmp_path):
    write_spuco(tmp_path, filenames=Malicious(tmp_path / "ran"))
    with pytest.raises(DataError, match=r"spuco_animals_train_0.95.pkl cannot be read as a pickle of plain data"):
        read_spuco(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [[1, 2], {"filenames": []}])
def test_another_pickle_is_not_a_split(tmp_path, value):
    write_spuco(tmp_path)
    dump(tmp_path / "spuco_animals_val_0.95.pkl", value)
    with pytest.raises(DataError, match="is not a split of From Fake to Real: expected a dict of filenames, targets"):
        read_spuco(tmp_path)


def test_an_absent_rate_lists_those_that_are_there(tmp_path):
    write_spuco(tmp_path, "0.95")
    write_spuco(tmp_path, "0.99")
    with pytest.raises(MissingDataError, match=r"no spuco_animals_train_0.9.pkl, .*rates there: 0.95, 0.99"):
        read_spuco(tmp_path, "0.9")
    with pytest.raises(MissingDataError, match="rates there: none"):
        read_spuco(tmp_path / "nowhere")
    with pytest.raises(
        UsageError, match=r"is not called spuco_animals_SPLIT_RATE\.pkl, SPLIT being train, val or test"
    ):
        read_spuco(dump(tmp_path / "celeba_Smiling_train_0.9.pkl", {}))


# --- The data sets that take them ----------------------------------------------------------------------------


def utk_files(folder: Path) -> list[str]:
    names = [f"{age}_{sex}_0_{i}.jpg.chip.jpg" for i, (age, sex) in enumerate([(30, 0), (2, 0), (20, 1), (5, 1)] * 3)]
    folder.mkdir()
    for name in [*names, "70_0_0_99.jpg.chip.jpg"]:
        (folder / name).touch()
    return names


def test_utkface_takes_exactly_the_shipped_rows(tmp_path):
    names = utk_files(tmp_path / "UTKFace")
    for k, word in enumerate(("train", "valid", "test")):
        files = [f"{AUTHOR}/UTKFace/{name}" for name in reversed(names[4 * k : 4 * k + 4])]
        dump(tmp_path / f"data/utk_face_{word}_0.97.pkl", content(files, [1, 1, 0, 0], [1, 0, 1, 0]))
    dataset = load("utkface", tmp_path, ffr_splits=tmp_path / "data", ffr_rate="0.97")
    for k, split in enumerate(("train", "val", "test")):
        rows = dataset.splits[split]
        assert list(rows.names) == names[4 * k : 4 * k + 4][::-1]
        assert rows.label.tolist() == [1, 1, 0, 0]
        assert rows.columns["age"].tolist() == [5, 20, 2, 30]
    assert dataset.expected["train"] == (29, 934, 5731, 178)
    assert sum(dataset.expected["test"]) == 1657  # type: ignore[arg-type]


def test_labels_that_are_not_the_data_sets_own_are_refused(tmp_path):
    names = utk_files(tmp_path / "UTKFace")
    for word in ("train", "valid", "test"):
        dump(tmp_path / f"utk_face_{word}_0.9.pkl", content([f"/x/{name}" for name in names[:2]], [0, 1], [0, 1]))
    with pytest.raises(
        DataError, match=r"1 of 2 labels are not those of the data set; 2_0_0_1\S* has 1 here and 0 there"
    ):
        load("utkface", tmp_path, ffr_splits=tmp_path)


@pytest.fixture
def hq(tmp_path: Path) -> Path:
    folder = tmp_path / "CelebAMask-HQ"
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    rows = "".join(f"{i}.jpg {1 if i % 2 else -1} {1 if i % 3 else -1}\n" for i in range(9))
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text(f"9\nMale Smiling \n{rows}")
    for k, word in enumerate(("train", "valid", "test")):
        numbers = [3 * k + 2, 3 * k]
        files = [f"{AUTHOR}/CelebAMask-HQ/CelebA-HQ-img/{i}.jpg" for i in numbers]
        value = content(files, [int(i % 3 > 0) for i in numbers], [i % 2 for i in numbers], real_gen=np.zeros(5))
        dump(tmp_path / f"data/celeba_Smiling_{word}_0.9.pkl", value)
    return tmp_path


def test_celeba_hq_takes_exactly_the_shipped_rows(hq):
    dataset = load("celeba_hq", hq, ffr_splits=hq / "data")
    assert dataset.splits["val"].names == ["CelebA-HQ-img/5.jpg", "CelebA-HQ-img/3.jpg"]
    assert dataset.splits["val"].label.tolist() == [1, 0]
    assert dataset.splits["val"].attribute.tolist() == [1, 1]
    assert dataset.expected == {
        "train": (592, 5335, 7797, 866), "val": (73, 666, 989, 109), "test": (914, 693, 943, 450),
    }  # fmt: skip


def test_celeba_hq_has_shipped_splits_only_by_sex_and_for_shipped_rates(hq):
    with pytest.raises(UsageError, match="there are none for --attribute Smiling"):
        load("celeba_hq", hq, ffr_splits=hq / "data", label="Male", attribute="Smiling")
    with pytest.raises(MissingDataError, match=r"no celeba_Smiling_train_0.99.pkl, .* rates there: 0.9\."):
        load("celeba_hq", hq, ffr_splits=hq / "data", ffr_rate="0.99")


@pytest.mark.parametrize(
    ("module", "rate", "train", "val"),
    [
        (celeba_hq, "0.9", 14590, 1837),
        (celeba_hq, "0.95", 13824, 1744),
        (celeba_hq, "0.97", 13540, 1707),
        (celeba_hq, "0.99", 13265, 1675),
        (celeba_hq, "0.999", 13146, 1675),
        (utkface, "0.9", 7404, 936),
        (utkface, "0.95", 7017, 892),
        (utkface, "0.97", 6872, 876),
        (utkface, "0.99", 6733, 863),
        (utkface, "0.999", 6672, 863),
    ],
)
def test_the_published_counts_add_up(module, rate, train, val):
    assert [sum(counts) for counts in module.SHIPPED[rate]] == [train, val]
