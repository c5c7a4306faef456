"""The commands of docs/reports.md, run as they stand there."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.pages import block, run_block
from tests.toy import TOY_SPEC

from debeton.data.beton.reading import open_beton


@pytest.fixture
def place(trained_toy, toy_betons, tmp_path, monkeypatch) -> Path:
    """A folder with runs/pets, betons/pets_test.beton, and photos with a metadata.csv."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_toy[0], tmp_path / "runs" / "pets" / "version_0")
    shutil.copytree(trained_toy[1], tmp_path / "photos")
    (tmp_path / "betons").mkdir()
    for suffix in ("", ".json", ".columns.npz"):
        shutil.copy(toy_betons / f"toy_test.beton{suffix}", tmp_path / "betons" / f"pets_test.beton{suffix}")
    beton = open_beton(tmp_path / "betons" / "pets_test.beton")
    with (tmp_path / "photos" / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "attribute"])
        for row, path in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
            names = TOY_SPEC.classes[beton.label[row]], TOY_SPEC.attributes[beton.attribute[row]]
            writer.writerow([path.relative_to(tmp_path / "photos"), *names])
    return tmp_path


def test_evaluate_leaves_rows_that_the_report_shows(place):
    run_block("reports.md", "evaluate")
    summary = pd.read_csv(place / "report" / "summary.csv")
    assert len(summary) == 3  # the run, and what was measured of it on the beton and on the photos
    assert summary["auroc_mean"].nunique() == 1
    rows = pd.read_parquet(place / "runs/pets/version_0/predictions.parquet")
    lines = block("reports.md", "by_row").replace("runs/NAME", "runs/pets")
    shown: list[pd.Series] = []
    exec(lines, {"print": shown.append})
    assert shown[0].to_dict() == rows[rows.split == "test"].groupby("group").correct.mean().to_dict()


def test_predict_writes_the_tables_and_the_exported_model(place):
    run_block("reports.md", "predict")
    one, two = pd.read_csv(place / "predictions.csv"), pd.read_parquet(place / "predictions.parquet")
    assert one["prediction"].tolist() == two["prediction"].tolist()
    assert list(two.columns) == ["path", "prediction", "confidence", *TOY_SPEC.classes]
    assert (place / "model" / "model.safetensors").is_file()
