"""The report of `--check` before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from debeton.data.raw.check import check_split, count_differences
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.spec import DatasetSpec

SPEC = DatasetSpec("birds", ("land", "water"), ("forest", "sea"), aligned=((0,), (1,)))


def photos(folder: Path, names: list[str]) -> ImageTree:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return ImageTree(folder)


def test_a_complete_split_has_no_problem(tmp_path: Path) -> None:
    names = [f"x/{i}.jpg" for i in range(4)]
    rows = file_rows(photos(tmp_path, names), names, [0, 0, 1, 1], [0, 1, 1, 1])
    lines, problems = check_split("train", SPEC, rows, (1, 1, 0, 2), 1, False)
    assert problems == 0
    assert lines == [
        "birds/train: 4 rows",
        "  classes: land 2 · water 2",
        "  groups: land, forest 1 · land, sea 1 · water, sea 2",
        "  bias-aligned: 3 (75.00%)",
        "  every image decodes",
    ]


def test_missing_files_broken_images_and_wrong_counts_are_listed_separately(tmp_path: Path) -> None:
    names = [f"x/{i}.jpg" for i in range(6)]
    tree = photos(tmp_path, names)
    (tmp_path / "x/1.jpg").unlink()
    (tmp_path / "x/4.jpg").write_bytes(b"\xff\xd8 no photo")
    rows = file_rows(tree, names, [0, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 1])
    lines, problems = check_split("train", SPEC, rows, (2, 3, 0, 3), 1, False)
    text = "\n".join(lines)
    assert problems == 4
    assert "    6 rows, its owners count 8\n    land, sea: 1 rows, expected 3" in text
    assert "  1 of 6 files are missing:\n    x/1.jpg" in text
    assert "  1 of 6 images cannot be decoded:\n    row 4: x/4.jpg cannot be decoded" in text


def test_a_missing_folder_is_counted_and_only_its_first_files_are_listed(tmp_path: Path) -> None:
    names = [f"gone/{i}.jpg" for i in range(50)]
    rows = file_rows(photos(tmp_path, ["x/0.jpg"]), names, [0] * 50)
    lines, problems = check_split("train", SPEC, rows, None, 1, False)
    assert problems == 50
    assert "  50 of 50 files are missing:" in lines
    assert lines[-1] == "    and 30 more"


def test_synthetic_rows_do_not_count_against_published_counts(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(4)]
    rows = file_rows(ImageTree(tmp_path), names, [0, 0, 1, 1])
    rows.__dict__["source"] = np.array([0, 0, 1, 1])
    assert count_differences(SPEC, rows, 2) == []
    assert count_differences(SPEC, rows, (2, 0, 0, 0)) == []
