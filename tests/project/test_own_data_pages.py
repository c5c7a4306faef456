"""The page on one's own data: its commands run on a small set of photos, made as it says."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from numpy.random import default_rng
from PIL import Image
from tests.pages import ROOT, run_block

from debeton.commands import dispatch
from debeton.system.errors import run_command

EXAMPLE = ROOT / "docs" / "own_data_example.csv"
PLACES = ("indoors", "outdoors")
SHORT = ("--training.epochs", "1", "--training.device", "cpu")


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(default_rng(seed).integers(0, 255, (12, 16, 3), "uint8")).save(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the photos of the example table in the current folder, and the table as pets.csv."""
    monkeypatch.chdir(tmp_path)
    with EXAMPLE.open(newline="") as file:
        for seed, row in enumerate(csv.DictReader(file)):
            write_photo(tmp_path / "photos" / row["file"], seed)
    shutil.copy(EXAMPLE, "pets.csv")
    return tmp_path


def results() -> list[dict[str, Any]]:
    """Return the results of the runs in the current folder, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/version_0/results.json"))]


def printed_command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("next: ")]
    words = line.removeprefix("next: ").split()
    assert words[:2] == ["debeton", "train"]
    return words[1:]


def test_class_folders_train_and_val_is_held_out(photos, capsys):
    run_block("own_data.md", "class-folders", *SHORT)
    said = capsys.readouterr().out
    assert "there is no val: 20% of every group of train (4 rows) are held out and choose the epoch" in said
    assert "there is no test: results are those of val" in said
    (run,) = results()
    assert (run["reported"], run["dataset"]) == (["val"], "pets")


def test_a_test_fraction_is_measured(photos):
    run_block("own_data.md", "test-fraction", *SHORT)
    (run,) = results()
    assert (run["reported"], run["train_groups"]) == (["val", "test"], {"cat": 8, "dog": 8})
    sidecar = json.loads(Path("betons/pets_test.beton.json").read_text())
    assert sidecar["group_counts"] == {"cat": 2, "dog": 2}  # round(0.2 * 12)
    assert sidecar["dataset_options"]["test_fraction"] == 0.2


def test_a_pattern_gives_groups(photos):
    for k, split in enumerate(("train", "val", "test")):
        for j in range(8):
            animal, place = ("cat", "dog")[j % 2], ("indoors", "outdoors")[j // 2 % 2]
            write_photo(Path(f"rooms/{split}/{animal}/{place}/{j}.png"), 8 * k + j)
    run_block("own_data.md", "pattern", *SHORT)
    assert json.loads(Path("betons/rooms_train.beton.json").read_text())["group_counts"] == {
        "cat, indoors": 2,
        "cat, outdoors": 2,
        "dog, indoors": 2,
        "dog, outdoors": 2,
    }


def test_the_table_gives_groups_and_its_further_columns_are_attributes(photos, capsys):
    run_block("own_data.md", "csv", *SHORT)
    said = capsys.readouterr().out
    assert "further columns are kept beside: sex (2 names), age (numbers)" in said
    assert "results are measured on test" in said
    run_block("own_data.md", "other-attribute", *SHORT)
    names = [sorted(run["test"]["group_accuracy"]) for run in results()]
    assert ["cat, indoors", "cat, outdoors", "dog, indoors", "dog, outdoors"] in names
    assert ["cat, f", "cat, m", "dog, f", "dog, m"] in names
    assert [f"{animal}, {sex} + {place}" for animal in ("cat", "dog") for sex in "fm" for place in PLACES] in names
    aligned = next(run for run in results() if "cat, indoors" in run["test"]["group_accuracy"])
    assert aligned["test"]["bias_aligned_accuracy"] is not None


def test_the_printed_command_runs_where_a_group_is_too_small_for_val(photos, capsys):
    """One row of a group stays in train, so the worst group of val has no row of it."""
    lines = ["path,label,attribute", *(f"cat/{k:02}.png,cat,indoors" for k in range(1, 11)), "cat/11.png,cat,outdoors"]
    lines += [f"dog/{k:02}.png,dog,outdoors" for k in range(1, 11)]
    Path("small.csv").write_text("\n".join(lines))
    words = ["write-betons", "--dataset", "folder", "--name", "small", "--raw", "photos", "--csv", "small.csv"]
    assert run_command(lambda: dispatch.main([*words, "--out", "my betons"])) == 0
    said = capsys.readouterr().out
    assert "--training.data_root 'my betons' --training.empty_groups ignore\n" in said
    assert "some groups have no row in val, so the worst group that chooses the epoch is that of the others" in said
    words = printed_command(said.replace("'my betons'", "betons"))
    words[words.index("betons")] = "my betons"
    assert run_command(lambda: dispatch.main([*words, *SHORT])) == 0
