"""celeba, celeba_hq, utkface and fairface: from their owners' layouts to labels, splits and base bias."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.layouts import load, sizes
from torchvision import datasets as torchvision_datasets

from debeton.data.beton.images import to_rgb
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import write_beton
from debeton.data.raw.faces import eighty_ten_ten, read_attributes, rows_after_base_bias
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.other_files import UNKNOWN_SUFFIX
from debeton.data.sources import Dataset
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

# The header of list_attr_celeba.txt.
HEADER = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones
Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young"""
NAMES = HEADER.split()
BLOND, MALE, SMILING, YOUNG = (NAMES.index(name) for name in ("Blond_Hair", "Male", "Smiling", "Young"))


def groups(dataset: Dataset, split: str) -> list[int]:
    rows, spec = dataset.splits[split], dataset.spec
    return np.bincount(spec.group(rows.label, rows.attribute), minlength=spec.num_groups).tolist()


def attribute_text(files: Sequence[str], bits: np.ndarray) -> str:
    """Return a table as CelebA writes it.

    It has the count, names with a blank at the end, and values in columns of two.
    """
    lines = [f"{file} {' '.join(f'{2 * int(bit) - 1:2d}' for bit in row)}" for file, row in zip(files, bits)]
    return "\n".join([str(len(files)), " ".join(NAMES) + " ", *lines]) + "\n"


def bits_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (n, 40))


# --- CelebA --------------------------------------------------------------------------------------------------

FILES = [f"{i:06}.jpg" for i in range(1, 13)]
PARTITION = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2]


@pytest.fixture
def celeba(tmp_path: Path, photo, encoded) -> Path:
    """Write twelve images in torchvision's `celeba/`."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for i, file in enumerate(FILES):
        (folder / "img_align_celeba" / file).write_bytes(encoded(photo(i, 22, 18)))
    (folder / "list_attr_celeba.txt").write_text(attribute_text(FILES, bits_of(12)))
    (folder / "list_eval_partition.txt").write_text("".join(f"{f} {p}\n" for f, p in zip(FILES, PARTITION)))
    return folder


def test_celeba_reads_the_official_files_from_its_folder_or_the_one_around(celeba):
    for raw in (celeba, celeba.parent):
        dataset = load("celeba", raw)
        spec, train = dataset.spec, dataset.splits["train"]
        assert sizes(dataset) == {"train": 8, "val": 2, "test": 2}
        assert train.names[:2] == ["img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg"]
        assert train.label.tolist() == bits_of(12)[:8, BLOND].tolist()
        assert train.attribute.tolist() == bits_of(12)[:8, MALE].tolist()
        assert spec.group_names == (
            "not Blond_Hair, Female",
            "not Blond_Hair, Male",
            "Blond_Hair, Female",
            "Blond_Hair, Male",
        )
        assert (spec.label_name, spec.attribute_name, spec.aligned) == ("Blond_Hair", "Male", ((1,), (0,)))
        assert train.absent is not None
        assert len(train.absent()) == 0


def test_celeba_reads_the_folder_of_wilds(celeba):
    rows = ["image_id," + ",".join(NAMES)]
    rows += [f"{file},{','.join(str(2 * b - 1) for b in row)}" for file, row in zip(FILES, bits_of(12))]
    before = load("celeba", celeba)
    (celeba / "list_attr_celeba.txt").unlink()
    (celeba / "list_eval_partition.txt").unlink()
    (celeba / "list_attr_celeba.csv").write_text("\n".join(rows) + "\n")
    (celeba / "list_eval_partition.csv").write_text(
        "image_id,partition\n" + "".join(f"{file},{part}\n" for file, part in zip(FILES, PARTITION))
    )
    wilds = celeba.rename(celeba.parent / "celebA_v1.0")
    for raw in (wilds, wilds.parent):
        dataset = load("celeba", raw)
        for split, part in before.splits.items():
            assert dataset.splits[split].names == part.names
            assert dataset.splits[split].label.tolist() == part.label.tolist()
            assert dataset.splits[split].attribute.tolist() == part.attribute.tolist()


def test_celeba_has_all_forty_attributes_as_columns_in_every_split(celeba):
    dataset = load("celeba", celeba)
    assert list(dataset.spec.columns) == NAMES
    assert dataset.spec.columns["Male"] == ("Female", "Male")
    assert dataset.spec.columns["Young"] == ("not Young", "Young")
    start = 0
    for rows in dataset.splits.values():
        got = np.stack([rows.columns[name] for name in NAMES], axis=1)
        np.testing.assert_array_equal(got, bits_of(12)[start : start + len(rows)])
        start += len(rows)


def test_celeba_agrees_with_torchvision(celeba, monkeypatch):
    for name in ("identity_CelebA.txt", "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        head = "" if name.startswith("identity") else "12\nx\n"
        (celeba / name).write_text(head + "".join(f"{file} 1\n" for file in FILES))
    monkeypatch.setattr(torchvision_datasets.CelebA, "_check_integrity", lambda self: True)
    dataset = load("celeba", celeba)
    for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
        reference = torchvision_datasets.CelebA(str(celeba.parent), theirs)
        rows = dataset.splits[ours]
        assert rows.label.tolist() == reference.attr[:, reference.attr_names.index("Blond_Hair")].tolist()
        assert rows.attribute.tolist() == reference.attr[:, reference.attr_names.index("Male")].tolist()
        np.testing.assert_array_equal(to_rgb(rows.image(1)), np.asarray(reference[1][0]))


def test_celeba_reads_csv_lists_and_a_zip_in_the_folders_of_the_owners_drive(celeba):
    rows = ["image_id," + ",".join(NAMES)]
    rows += [f"{file},{','.join(str(2 * b - 1) for b in row)}" for file, row in zip(FILES, bits_of(12))]
    for folder in ("Anno", "Eval", "Img"):
        (celeba / folder).mkdir()
    (celeba / "Anno/list_attr_celeba.csv").write_text("\n".join(rows) + "\n")
    (celeba / "Eval/list_eval_partition.csv").write_text(
        "image_id,partition\n" + "".join(f"{f},{p}\n" for f, p in zip(FILES, PARTITION))
    )
    with zipfile.ZipFile(celeba / "Img/img_align_celeba.zip", "w") as archive:
        for file in FILES:
            archive.write(celeba / "img_align_celeba" / file, f"img_align_celeba/{file}")
    before = load("celeba", celeba)
    (celeba / "list_attr_celeba.txt").unlink()
    (celeba / "list_eval_partition.txt").unlink()
    (celeba / "img_align_celeba").rename(celeba / "elsewhere")
    after = load("celeba", celeba)
    for split, rows_after in after.splits.items():
        assert rows_after.names == before.splits[split].names
        assert rows_after.label.tolist() == before.splits[split].label.tolist()
        assert len(rows_after.absent()) == 0
        assert rows_after.image(0) == (celeba / "elsewhere" / rows_after.names[0].split("/")[1]).read_bytes()


@pytest.mark.parametrize("label", ["Smiling", "Young", "Blond_Hair"])
def test_celeba_can_be_written_as_another_task(celeba, label):
    dataset = load("celeba", celeba, label=label)
    assert dataset.splits["train"].label.tolist() == bits_of(12)[:8, NAMES.index(label)].tolist()
    assert dataset.spec.aligned == ((1,), (0,))
    assert dataset.spec.classes == (f"not {label}", label)


def test_celeba_counts_are_known_by_group_only_for_the_blond_hair_task(celeba):
    assert load("celeba", celeba).expected["train"] == (71629, 66874, 22880, 1387)
    assert load("celeba", celeba, label="Male", attribute="Blond_Hair").expected["test"] == (9767, 2480, 7535, 180)
    other = load("celeba", celeba, label="Bald").expected
    assert other == {"train": 162770, "val": 19867, "test": 19962}
    for split, counts in load("celeba", celeba).expected.items():
        assert sum(counts) == other[split]  # type: ignore[arg-type]


def test_celeba_knows_the_folders_of_synthetic_faces(celeba):
    folders = load("celeba", celeba, label="Smiling").spec.generated_folders
    assert folders["celeba/Smiling/0/Female"] == folders["Smiling/0/Female"] == (0, 0)
    assert folders["celeba/Smiling/1/Male"] == (1, 1)
    assert len(folders) == 8
    assert load("celeba", celeba, attribute="Young").spec.generated_folders == {}


def test_celeba_survives_a_round_trip_and_a_view_takes_other_columns(celeba, tmp_path):
    dataset = load("celeba", celeba)
    rows = dataset.splits["train"]
    write_beton(tmp_path / "celeba_train.beton", rows, dataset.spec, "train")
    beton = open_beton(tmp_path / "celeba_train.beton")
    assert beton.spec == dataset.spec
    assert beton.label.tolist() == rows.label.tolist()
    assert beton.group.tolist() == (2 * rows.label + rows.attribute).tolist()
    view = View.whole(beton).with_task("Male", "Blond_Hair")
    assert view.label.tolist() == bits_of(12)[:8, MALE].tolist()
    assert view.spec.group_names[1] == "Female, Blond_Hair"
    assert view.spec.aligned == ((1,), (0,))  # SCALE: (female, blond) and (male, not blond)
    assert beton.extra["path"].tolist() == rows.names
    stored = beton.path.read_bytes()
    assert all(file.read_bytes() in stored for file in sorted((celeba / "img_align_celeba").iterdir())[:8])


@pytest.mark.parametrize("header", [",filename,y,split,a", "img_id,img_filename,y,split,place"])
def test_a_metadata_csv_of_scale_or_dfr_replaces_the_official_split(celeba, header):
    bits = bits_of(12)
    chosen = [(11, 0), (3, 2), (5, 0), (0, 1)]  # row, split
    lines = [f"{k},img_align_celeba/{FILES[r]},{bits[r, BLOND]},{s},{bits[r, MALE]}" for k, (r, s) in enumerate(chosen)]
    (celeba / "metadata_celeba.csv").write_text("\n".join([header, *lines]) + "\n")
    dataset = load("celeba", celeba, metadata=Path("metadata_celeba.csv"))
    assert dataset.splits["train"].names == ["img_align_celeba/000012.jpg", "img_align_celeba/000006.jpg"]
    assert dataset.splits["val"].names == ["img_align_celeba/000001.jpg"]
    assert dataset.splits["test"].label.tolist() == [bits[3, BLOND]]
    assert dataset.expected == {}


def test_a_metadata_csv_that_contradicts_the_attributes_is_refused(celeba):
    bits = bits_of(12)
    text = f"filename,split,y,a\n000001.jpg,0,{bits[0, BLOND]},{1 - bits[0, MALE]}\n"
    (celeba / "m.csv").write_text(text)
    with pytest.raises(DataError, match=r"line 2: a of 000001\.jpg is . but its Male is .*1 of 1 rows differ"):
        load("celeba", celeba, metadata=Path("m.csv"))
    (celeba / "m.csv").write_text("filename,split,y,a\n999999.jpg,0,0,0\n")
    with pytest.raises(DataError, match=r"lists 999999\.jpg, which the list of attributes lacks"):
        load("celeba", celeba, metadata=Path("m.csv"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("list_eval_partition.txt", lambda t: t[: t.rindex("000012")], "11 rows but .*list_attr_celeba.txt has 12"),
        ("list_eval_partition.txt", lambda t: t.replace("000012", "000001"), "000001.jpg is listed twice"),
        ("list_eval_partition.txt", lambda t: t.replace("000012", "000099"), "000099.jpg, which the list"),
        ("list_eval_partition.txt", lambda t: t.replace("000012.jpg 2", "000012.jpg 3"), "000012.jpg is '3', expected"),
        ("list_eval_partition.txt", lambda t: t.replace("jpg 2", "jpg 2 2"), "line 11: 3 fields, expected 2"),
        ("list_attr_celeba.txt", lambda t: t[: t.rindex("000012")], "11 rows but promises 12"),
        ("list_attr_celeba.txt", lambda t: t.replace("000012.jpg", "000011.jpg"), "000011.jpg is listed twice"),
        ("list_attr_celeba.txt", lambda t: t.rstrip()[:-2] + "\n", "line 14: 39 values, expected 40"),
        ("list_attr_celeba.txt", lambda t: t.rstrip()[:-2] + " 2\n", "line 14: values other than -1, 0 and 1"),
        ("list_attr_celeba.txt", lambda t: t.rstrip()[:-2] + "11\n", "line 14: values other than -1, 0 and 1"),
        ("list_attr_celeba.txt", lambda t: "<html>\nno\n", "begins with neither a count nor 'image_id'"),
        ("list_attr_celeba.txt", lambda t: "", "begins with neither a count nor 'image_id'"),
    ],
)
def test_damaged_lists_of_celeba_are_explained(celeba, name, change, message):
    path = celeba / name
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        load("celeba", celeba)


def test_missing_celeba_files_are_named_with_their_source(celeba):
    with pytest.raises(MissingDataError, match=r"celeba needs --raw; get img_align_celeba.zip"):
        load("celeba")
    (celeba / "img_align_celeba").rename(celeba / "images")
    (celeba / "img_celeba.7z").touch()
    with pytest.raises(MissingDataError, match=r"no img_align_celeba/ or .*only img_celeba.7z, which must be unpacked"):
        load("celeba", celeba)
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(MissingDataError, match=r"there is no list_eval_partition.txt or .csv in .*mmlab"):
        load("celeba", celeba)


def test_a_missing_image_is_listed_and_does_not_stop_loading(celeba):
    (celeba / "img_align_celeba/000003.jpg").unlink()
    assert load("celeba", celeba).splits["train"].absent().tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "Blonde_Hair"}, "--label 'Blonde_Hair' is no attribute of celeba; did you mean 'Blond_Hair'"),
        ({"attribute": "male"}, "--attribute 'male' .* did you mean 'Male'"),
        ({"label": "Male"}, "both 'Male'"),
    ],
)
def test_unknown_attributes_name_the_nearest(celeba, options, message):
    with pytest.raises(UsageError, match=message):
        load("celeba", celeba, **options)


# --- CelebA-HQ -----------------------------------------------------------------------------------------------


def hq_bits(n: int = 400) -> np.ndarray:
    """Return attributes in which men who do not smile and women who smile are the majority."""
    bits = bits_of(n, 1)
    rng = np.random.default_rng(2)
    bits[:, SMILING] = rng.random(n) < 0.5
    bits[:, MALE] = rng.random(n) < np.where(bits[:, SMILING], 0.3, 0.7)
    return bits


@pytest.fixture
def celeba_hq(tmp_path: Path, photo, encoded) -> Path:
    folder = tmp_path / "CelebAMask-HQ"
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for i in range(400):
        (folder / f"CelebA-HQ-img/{i}.jpg").write_bytes(encoded(photo(i, 8, 8)) if i < 5 else b"")
    files = [f"{i}.jpg" for i in range(400)]
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text(attribute_text(files, hq_bits()))
    return folder


def test_celeba_hq_splits_the_listing_and_biases_train_and_val(celeba_hq):
    for raw in (celeba_hq, celeba_hq.parent):
        whole = load("celeba_hq", raw, base_bias=0.0)
        assert sizes(whole) == {"train": 320, "val": 40, "test": 40}
        assert whole.splits["test"].names == [f"CelebA-HQ-img/{i}.jpg" for i in range(360, 400)]
        assert whole.splits["test"].label.tolist() == hq_bits()[360:, SMILING].tolist()
        biased = load("celeba_hq", raw)
        assert biased.spec.group_names == (
            "not Smiling, Female",
            "not Smiling, Male",
            "Smiling, Female",
            "Smiling, Male",
        )
        assert biased.spec.aligned == ((1,), (0,))
        assert groups(biased, "test") == groups(whole, "test")
        for split in ("train", "val"):
            (_, male, female, _), kept = groups(whole, split), groups(biased, split)
            assert kept == [int(male * (1 - 0.9) / 0.9), male, female, int(female * (1 - 0.9) / 0.9)]
            assert set(biased.splits[split].names) < set(whole.splits[split].names)
        assert list(biased.spec.columns) == NAMES


def test_the_base_bias_draws_by_the_data_seed_and_nests(celeba_hq):
    def names(**options: Any) -> list[str]:
        return list(load("celeba_hq", celeba_hq, **options).splits["train"].names)

    assert names() == names()
    assert names() != names(data_seed=1)
    assert set(names(base_bias=0.95)) < set(names(base_bias=0.9)) < set(names(base_bias=0.8))


@pytest.mark.parametrize(
    ("counts", "kept"),  # From Fake to Real's shipped splits at 0.9: CelebA-HQ train and val, UTKFace train and val
    [
        ((2000, 5335, 7797, 3000), [592, 5335, 7797, 866]),
        ((300, 666, 989, 400), [73, 666, 989, 109]),
        ((1000, 934, 5731, 5000), [103, 934, 5731, 636]),
        ((100, 119, 724, 300), [13, 119, 724, 80]),
        ((5, 119, 724, 80), [5, 119, 724, 80]),  # too few already: all stay
    ],
)
def test_the_base_bias_keeps_the_published_counts(counts, kept):
    spec = DatasetSpec("faces", ("a", "b"), ("c", "d"), ((1,), (0,)), label_name="y", attribute_name="s")
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))
    columns = {"y": group // 2, "s": group % 2}
    rows = rows_after_base_bias(spec, columns, "train", {"base_bias": 0.9, "data_seed": 0})
    assert np.bincount(group[rows]).tolist() == kept
    assert (np.diff(rows) > 0).all()


def test_thirty_thousand_faces_split_as_published():
    assert eighty_ten_ten(30_000) == {"train": slice(0, 24000), "val": slice(24000, 27000), "test": slice(27000, 30000)}


def test_celeba_hq_is_read_from_the_owners_zip(celeba_hq, tmp_path):
    packed = tmp_path / "other" / "CelebAMask-HQ.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(celeba_hq / "CelebAMask-HQ-attribute-anno.txt", "CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt")
        archive.writestr("CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_hair.png", b"")
        for i in range(400):
            archive.write(celeba_hq / f"CelebA-HQ-img/{i}.jpg", f"CelebAMask-HQ/CelebA-HQ-img/{i}.jpg")
    unpacked = load("celeba_hq", celeba_hq)
    for raw in (packed, packed.parent):
        dataset = load("celeba_hq", raw)
        assert dataset.splits["train"].names == unpacked.splits["train"].names
        assert len(dataset.splits["train"].absent()) == 0
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("CelebAMask-HQ/CelebA-HQ-img/0.jpg", b"")
    with pytest.raises(DataError, match=r"holds no CelebAMask-HQ-attribute-anno\.txt"):
        load("celeba_hq", packed)


def test_another_task_of_celeba_hq_is_biased_towards_the_majority_of_its_train_rows(celeba_hq):
    dataset = load("celeba_hq", celeba_hq, label="Young", attribute="Smiling")
    train = slice(0, 320)
    young = hq_bits()[train, YOUNG] == 1
    smiling = int(hq_bits()[train, SMILING][young].mean() > 0.5)
    assert dataset.spec.aligned == ((1 - smiling,), (smiling,))
    assert load("celeba_hq", celeba_hq, label="Young", attribute="Smiling", base_bias=0.0).spec.aligned == ()


def test_celeba_hq_expects_only_counts_that_do_not_depend_on_the_listing_order(celeba_hq):
    assert load("celeba_hq", celeba_hq).expected == {"test": 3000}
    assert load("celeba_hq", celeba_hq, base_bias=0.0).expected == {"train": 24000, "val": 3000, "test": 3000}


def test_a_base_bias_out_of_range_or_impossible_is_explained(celeba_hq):
    with pytest.raises(UsageError, match=r"--base-bias 1\.0 must be 0, .* or at least 0\.5 and below 1"):
        load("celeba_hq", celeba_hq, base_bias=1.0)
    text = attribute_text([f"{i}.jpg" for i in range(400)], np.zeros((400, 40), int))
    (celeba_hq / "CelebAMask-HQ-attribute-anno.txt").write_text(text)
    with pytest.raises(DataError, match="train: no row of the class 'not Smiling' has the attribute 'Male'"):
        load("celeba_hq", celeba_hq)


def test_missing_celeba_hq_files_are_named(celeba_hq):
    (celeba_hq / "CelebA-HQ-img").rename(celeba_hq / "images")
    with pytest.raises(MissingDataError, match=r"celeba_hq: there is no CelebA-HQ-img/ in .*switchablenorms"):
        load("celeba_hq", celeba_hq)
    with pytest.raises(MissingDataError, match=r"no CelebAMask-HQ-attribute-anno\.txt in"):
        load("celeba_hq", celeba_hq / "images")


def test_celeba_hq_survives_a_round_trip(celeba_hq, tmp_path):
    dataset = load("celeba_hq", celeba_hq, base_bias=0.0)
    rows = dataset.splits["train"]
    first = type(rows)(
        rows.label[:5], rows.attribute[:5], rows.image, rows.names[:5], {k: v[:5] for k, v in rows.columns.items()}
    )
    write_beton(tmp_path / "hq.beton", first, dataset.spec, "train")
    beton = open_beton(tmp_path / "hq.beton")
    assert beton.extra["Young"].tolist() == hq_bits()[:5, YOUNG].tolist()
    assert beton.label.tolist() == hq_bits()[:5, SMILING].tolist()
    assert (celeba_hq / "CelebA-HQ-img/3.jpg").read_bytes() in beton.path.read_bytes()


# --- UTKFace -------------------------------------------------------------------------------------------------


def utk_names(n: int = 600) -> list[str]:
    """Return names with all ages, every third up to five years.

    No test depends on the shares of the real set.
    """
    rng = np.random.default_rng(0)
    return [
        f"{rng.integers(1, 90 if i % 3 else 6)}_{rng.integers(2)}_{rng.integers(5)}_2017{i:013}.jpg.chip.jpg"
        for i in range(n)
    ]


def write_faces(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_utkface_reads_sex_age_and_race_from_the_names(tmp_path):
    odd = ["61_1_20170109142408075.jpg.chip.jpg", "30_3_0_20170109142408075.jpg.chip.jpg", "30_1_9_2017.jpg.chip.jpg"]
    folder = write_faces(tmp_path / "UTKFace", utk_names() + odd)
    for raw in (folder, tmp_path):
        dataset = load("utkface", raw, base_bias=0.0)
        spec = dataset.spec
        assert spec.group_names == ("Male, old", "Male, young", "Female, old", "Female, young")
        assert spec.aligned == ((1,), (0,))
        assert spec.columns["race"] == ("White", "Black", "Asian", "Indian", "Others")
        seen: set[str] = set()
        for rows in dataset.splits.values():
            seen |= set(rows.names)
            assert list(rows.names) == sorted(rows.names)
            for i, name in enumerate(rows.names):
                age, sex, race = (int(field) for field in name.split("_")[:3])
                assert (rows.label[i], rows.columns["race"][i], rows.columns["age"][i]) == (sex, race, age)
                assert rows.attribute[i] == (0 if 20 <= age <= 50 else 1)
                assert age <= 5 or 20 <= age <= 50
        ages = [int(name.split("_")[0]) for name in utk_names()]
        assert len(seen) == sum(age <= 5 or 20 <= age <= 50 for age in ages)


def test_utkface_takes_any_two_of_sex_race_and_age_bands_of_the_whole_set(tmp_path):
    write_faces(tmp_path / "UTKFace", utk_names())
    dataset = load("utkface", tmp_path, attribute="race", age_bands="18,40,60")
    assert dataset.spec.columns["age_band"] == ("under 18", "18 to 39", "40 to 59", "60 and over")
    assert (dataset.spec.label_name, dataset.spec.attributes) == (
        "gender",
        ("White", "Black", "Asian", "Indian", "Others"),
    )
    assert sizes(dataset) == {"train": 480, "val": 60, "test": 60}
    for rows in dataset.splits.values():
        ages = np.array([int(name.split("_")[0]) for name in rows.names])
        assert rows.columns["age"].tolist() == ages.tolist()
        assert rows.columns["age_band"].tolist() == np.digitize(ages, [18, 40, 60]).tolist()
        assert rows.attribute.tolist() == [int(name.split("_")[2]) for name in rows.names]
    assert "no base bias is made" in dataset.notes[0]
    by_age = load("utkface", tmp_path, label="age_band", attribute="race", age_bands="18,40,60").splits["train"]
    assert by_age.label.tolist() == dataset.splits["train"].columns["age_band"].tolist()


def test_utkface_without_the_age_in_its_task_keeps_faces_in_no_band(tmp_path):
    write_faces(tmp_path / "UTKFace", utk_names())
    dataset = load("utkface", tmp_path, label="race", attribute="gender")
    assert sum(sizes(dataset).values()) == 600
    for rows in dataset.splits.values():
        band = np.array(rows.columns["age_band"])
        assert (band[(rows.columns["age"] > 5) & (rows.columns["age"] < 20)] == -1).all()
    beside = load("utkface", tmp_path, label="race")  # the attribute is the age band, so other ages are left out
    assert {part.count for part in beside.left_out} == {600 - sum(sizes(beside).values())}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "sex"}, "--label 'sex' is no attribute of utkface"),
        ({"label": "race", "attribute": "race"}, "both 'race'"),
        ({"age_bands": "20,x"}, "--age-bands '20,x' is no list of rising ages"),
        ({"label": "race", "ffr_splits": Path("data")}, "--ffr-splits has From Fake to Real's task"),
    ],
)
def test_utkface_explains_tasks_that_it_does_not_have(tmp_path, options, message):
    write_faces(tmp_path / "UTKFace", utk_names(30))
    with pytest.raises(UsageError, match=message):
        load("utkface", tmp_path, **options)


def test_utkface_counts_and_names_every_face_that_it_leaves_out(tmp_path):
    names = [
        f"{age}_{sex}_0_{k}.jpg" for k, (age, sex) in enumerate([(3, 0)] * 90 + [(30, 0)] * 60 + [(30, 1), (2, 1)] * 40)
    ]
    odd = ["61_1_2017.jpg", "30_3_0_1.jpg", "x.jpg", "7_0_0_1.jpg", "19_1_1_1.jpg", "70_1_1_1.jpg", "51_1_1_1.jpg"]
    dataset = load("utkface", write_faces(tmp_path / "UTKFace", [*names, *odd, "30_1_0_1.gif", "notes.txt"]))
    left = {entry.reason: (entry.count, entry.fault) for entry in dataset.left_out}
    rows = sum(sizes(dataset).values())
    assert rows < len(names)
    assert left == {
        "faces whose name is not AGE_SEX_RACE_DATE": (3, False),
        "faces of other ages than 0 to 5 and 20 to 50": (4, False),
        "faces that --base-bias leaves out": (len(names) - rows, False),
        UNKNOWN_SUFFIX: (1, True),
        "files that are no images": (1, False),
    }
    assert dataset.left_out[0].examples == ("30_3_0_1.jpg", "61_1_2017.jpg", "x.jpg")
    whole = load("utkface", tmp_path, base_bias=0.0)
    assert sum(sizes(whole).values()) == len(names)
    assert "faces that --base-bias leaves out" not in {entry.reason for entry in whole.left_out}


def test_utkface_is_split_before_ages_are_left_out_and_evenly(tmp_path):
    dataset = load("utkface", write_faces(tmp_path / "UTKFace", utk_names()), base_bias=0.0)
    usable = sum(sizes(dataset).values())
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(sizes(dataset)[split] / usable - share) < 0.05
    again = load("utkface", tmp_path, base_bias=0.0, data_seed=1)
    assert again.splits["test"].names != dataset.splits["test"].names


def test_utkface_is_biased_towards_young_men_and_older_women(tmp_path):
    write_faces(tmp_path / "UTKFace", utk_names())
    whole, biased = load("utkface", tmp_path, base_bias=0.0), load("utkface", tmp_path)
    assert groups(biased, "test") == groups(whole, "test")
    (_, young_men, women, _), kept = groups(whole, "train"), groups(biased, "train")
    assert kept == [
        int(young_men * (1 - 0.9) / 0.9),
        young_men,
        women,
        min(groups(whole, "train")[3], int(women * (1 - 0.9) / 0.9)),
    ]


def test_utkface_reads_the_faces_in_the_wild_from_their_parts(tmp_path):
    names = [name.replace(".chip.jpg", "") for name in utk_names()]
    for k in (1, 2, 3):
        write_faces(tmp_path / f"part{k}", names[k::3])
    dataset = load("utkface", tmp_path)
    assert {name.split("/")[0] for name in dataset.splits["train"].names} == {"part1", "part2", "part3"}


def test_utkface_says_when_only_the_archive_is_there(tmp_path):
    (tmp_path / "UTKFace.tar.gz").touch()
    with pytest.raises(MissingDataError, match=r"only UTKFace.tar.gz, which must be unpacked; get UTKFace.tar.gz"):
        load("utkface", tmp_path)
    with pytest.raises(MissingDataError, match="utkface needs --raw"):
        load("utkface")


def test_utkface_with_no_usable_age_is_an_error(tmp_path):
    write_faces(tmp_path / "UTKFace", [f"60_0_0_{i}.jpg.chip.jpg" for i in range(10)])
    with pytest.raises(DataError, match="utkface/train: none of the 10 names has an age of 0 to 5 or 20 to 50"):
        load("utkface", tmp_path)


def test_utkface_knows_the_folders_of_synthetic_faces(tmp_path):
    folders = load("utkface", write_faces(tmp_path / "UTKFace", utk_names())).spec.generated_folders
    assert folders["utk_face/Male/old"] == (0, 0)
    assert folders["utk_face/Female/young"] == (1, 1)


def test_utkface_survives_a_round_trip(tmp_path, photo, encoded):
    names = ["3_0_1_1.jpg.chip.jpg", "25_1_4_2.jpg.chip.jpg", "50_0_0_3.jpg.chip.jpg", "20_1_2_4.jpg.chip.jpg"] * 5
    names = [name.replace(".jpg", f"{i}.jpg", 1) for i, name in enumerate(names)]
    folder = write_faces(tmp_path / "UTKFace", names)
    for i, name in enumerate(names):
        (folder / name).write_bytes(encoded(photo(i, 20, 20)))
    dataset = load("utkface", tmp_path, base_bias=0.0)
    rows = dataset.splits["train"]
    write_beton(tmp_path / "utk.beton", rows, dataset.spec, "train")
    beton = open_beton(tmp_path / "utk.beton")
    assert beton.label.tolist() == rows.label.tolist()
    assert beton.extra["age"].tolist() == [int(name.split("_")[0]) for name in rows.names]
    by_race = View.whole(beton).with_task("gender", "race")
    assert by_race.attribute.tolist() == [int(name.split("_")[2]) for name in rows.names]
    assert (folder / rows.names[0]).read_bytes() in beton.path.read_bytes()


# --- FairFace ------------------------------------------------------------------------------------------------

TRAIN = """file,age,gender,race,service_test
train/1.jpg,50-59,Male,East Asian,True
train/2.jpg,20-29,Female,Indian,False
train/3.jpg,more than 70,Female,Black,False
"""
VAL = """file,age,gender,race,service_test
val/1.jpg,3-9,Male,Latino_Hispanic,False
"""


@pytest.fixture
def fairface(tmp_path: Path, photo, encoded) -> Path:
    folder = tmp_path / "raw"
    for part, n in (("train", 3), ("val", 1)):
        (folder / part).mkdir(parents=True)
        for i in range(1, n + 1):
            (folder / part / f"{i}.jpg").write_bytes(encoded(photo(i, 24, 24)))
    (folder / "fairface_label_train.csv").write_text(TRAIN)
    (folder / "fairface_label_val.csv").write_text(VAL)
    return folder


def test_fairface_is_young_by_gender_and_its_val_list_is_the_test_split(fairface):
    dataset = load("fairface", fairface)
    spec, train = dataset.spec, dataset.splits["train"]
    assert sizes(dataset) == {"train": 3, "test": 1}
    assert train.names == ["train/1.jpg", "train/2.jpg", "train/3.jpg"]
    assert (train.label.tolist(), train.attribute.tolist()) == ([0, 1, 0], [1, 0, 0])
    assert spec.group_names[1] == "not young, Male"
    assert spec.aligned == ((1,), (0,))
    assert train.columns["age"].tolist() == [6, 3, 8]
    assert [spec.columns["race"][code] for code in train.columns["race"]] == ["East Asian", "Indian", "Black"]
    assert train.columns["service_test"].tolist() == [1, 0, 0]
    assert dataset.expected == {"train": 86744, "test": 10954}


def test_fairface_can_be_written_as_another_task(fairface):
    dataset = load("fairface", fairface, label="race", attribute="age")
    assert dataset.spec.num_groups == 63
    assert dataset.spec.aligned == ()
    assert dataset.splits["test"].label.tolist() == [6]
    with pytest.raises(UsageError, match="--label 'gendre' is no attribute of fairface; did you mean 'gender'"):
        load("fairface", fairface, label="gendre")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("margin", ["025", "125"])
def test_fairface_reads_the_images_from_the_owners_archive(fairface, margin, packed):
    top = fairface / f"fairface-img-margin{margin}-trainval"
    if packed:
        with zipfile.ZipFile(top.with_suffix(".zip"), "w") as archive:
            for file in ("train/1.jpg", "train/2.jpg", "train/3.jpg", "val/1.jpg"):
                archive.write(fairface / file, file)
    else:
        top.mkdir()
    for part in ("train", "val"):
        (fairface / part).rename((fairface if packed else top) / (f"old {part}" if packed else part))
    rows = load("fairface", fairface).splits["train"]
    assert len(rows.absent()) == 0
    assert to_rgb(rows.image(2)).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TRAIN.replace("20-29", "20-92"),
            "age '20-92' of train/2.jpg is unknown or out of range; did you mean '20-29'",
        ),
        (TRAIN.replace("Indian", "Inidan"), "race 'Inidan' .* did you mean 'Indian'"),
        (TRAIN.replace("train/3", "train/1"), "train/1.jpg is listed twice"),
        (TRAIN.replace("race", "rasse"), "lacks the column race"),
        (TRAIN.replace("train/2.jpg,20-29", "train/2.jpg,"), "line 3: no age"),
    ],
)
def test_a_damaged_list_of_fairface_is_explained(fairface, text, message):
    (fairface / "fairface_label_train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load("fairface", fairface)


def test_missing_fairface_files_are_named(fairface):
    for part in ("train", "val"):
        (fairface / part).rename(fairface / f"old {part}")
    with pytest.raises(MissingDataError, match=r"no train/ or fairface-img-margin025-trainval.zip in .*joojs"):
        load("fairface", fairface)
    (fairface / "fairface_label_val.csv").unlink()
    with pytest.raises(MissingDataError, match=r"there is no fairface_label_val\.csv in"):
        load("fairface", fairface)


def test_fairface_survives_a_round_trip(fairface, tmp_path):
    dataset = load("fairface", fairface)
    write_beton(tmp_path / "fairface.beton", dataset.splits["train"], dataset.spec, "train")
    beton = open_beton(tmp_path / "fairface.beton")
    assert beton.group.tolist() == [1, 2, 0]
    assert beton.extra["age"].tolist() == [6, 3, 8]
    assert (fairface / "train/2.jpg").read_bytes() in beton.path.read_bytes()


def test_attributes_given_as_0_and_1_are_read():
    table = read_attributes("image_id,A,Male\nx.jpg,0,1\ny.jpg,-1,0\n", "list.csv")
    assert table.values.tolist() == [[0, 1], [0, 0]]
    assert table.values_by_name() == {"A": ("not A", "A"), "Male": ("Female", "Male")}


def test_a_half_downloaded_celeba_hq_archive_raises_a_clear_message(tmp_path):
    (tmp_path / "CelebAMask-HQ.zip").write_bytes(b"PK\x03\x04 the first half")
    with pytest.raises(DataError, match=r"CelebAMask-HQ\.zip is not a readable zip file .*; fetch it again"):
        load("celeba_hq", tmp_path)
