"""debeton predict: betons and CSVs as well as folders, broken and hidden files, and tables by suffix."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.running import folder_of

from debeton.commands import predict
from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.nets.trained import load_trained
from debeton.system.errors import run_command
from debeton.tools.prediction import Predicted, prediction_columns


def command(*words: Any) -> int:
    return run_command(lambda: predict.main([str(word) for word in words]))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def expected(trained_toy) -> list[str]:
    """The predictions of the run on its 256 test rows."""
    codes = load_checkpoint(trained_toy[0] / "results.pt")["results"]["results_standard"]["preds"].tolist()
    return [load_trained(trained_toy[0]).classes[code] for code in codes]


def test_a_beton_is_predicted_as_in_its_run(trained_toy, toy_betons, expected, capsys):
    assert command("--checkpoint", trained_toy[0], "--images", toy_betons / "toy_test.beton") == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row["prediction"] for row in rows] == expected
    assert [row["path"] for row in rows[:2]] == ["2/0", "2/1"]


def test_a_csv_lists_images_beside_it_in_any_sequence(trained_toy, expected, tmp_path):
    folder, images = trained_toy
    shutil.copytree(images, tmp_path / "photos")
    table = tmp_path / "list.csv"
    table.write_text("id,path\n1,photos/z/deeper/last.png\n2,photos/003.png\n3,photos/003.png\n")
    assert command("--checkpoint", folder, "--images", table, "--out", tmp_path / "p.parquet", "--probabilities") == 0
    found = pd.read_parquet(tmp_path / "p.parquet")
    assert found["path"].tolist() == ["photos/z/deeper/last.png", "photos/003.png", "photos/003.png"]
    assert found["prediction"].tolist() == [expected[255], expected[3], expected[3]]
    assert found["confidence"].tolist() == found[["left", "right"]].max(axis=1).tolist()


def test_broken_images_are_listed_and_the_others_predicted(trained_toy, tmp_path, capsys):
    folder, images = trained_toy
    photos = tmp_path / "photos"
    (photos / ".cache").mkdir(parents=True)
    for name in ("000.png", "001.png"):
        shutil.copy(images / name, photos)
        shutil.copy(images / name, photos / ".cache")
        shutil.copy(images / name, photos / f"._{name}")  # macOS writes such files beside its images
    (photos / "torn.png").write_bytes((images / "002.png").read_bytes()[:60])
    (photos / "text.jpg").write_text("no image")
    assert command("--checkpoint", folder, "--images", photos, "--out", tmp_path / "p.csv") == 1
    error = capsys.readouterr().err
    assert "2 of 4 images could not be read and have no prediction: text.jpg" in error
    assert "; torn.png" in error
    assert [row["path"] for row in rows_of((tmp_path / "p.csv").read_text())] == ["000.png", "001.png"]

    (tmp_path / "list.csv").write_text("path\nphotos/000.png\nphotos/none.png\n")
    assert command("--checkpoint", folder, "--images", tmp_path / "list.csv") == 1
    shown = capsys.readouterr()
    assert [row["path"] for row in rows_of(shown.out)] == ["photos/000.png"]
    assert "1 of 2 images could not be read and have no prediction: photos/none.png" in shown.err


def test_weights_alone_are_predicted_with_their_architecture(trained_toy, tmp_path, capsys):
    folder, images = trained_toy
    weights = load_checkpoint(folder / "checkpoints" / "checkpoint_best.pt")["state_dict"]
    save_checkpoint(tmp_path / "weights.pth", {"state_dict": weights})
    foreign = ["--checkpoint", tmp_path / "weights.pth", "--arch", "small_resnet"]
    assert command(*foreign, "--classes", "left,right", "--images", images) == 0
    assert {row["prediction"] for row in rows_of(capsys.readouterr().out)} <= {"left", "right"}
    assert command(*foreign, "--export", tmp_path / "model") == 2
    assert "leave one out" in capsys.readouterr().err


def test_a_run_is_named_with_or_without_its_version(trained_toy, tmp_path):
    folder, images = trained_toy
    for name in (folder, folder.parent, folder.parent.parent):
        assert command("--checkpoint", name, "--images", images, "--out", tmp_path / f"{len(name.parts)}.csv") == 0
    texts = {file.read_text() for file in tmp_path.glob("*.csv")}
    assert len(list(tmp_path.glob("*.csv"))) == 3
    assert len(texts) == 1
    assert folder_of(folder.parent.parent) == folder


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--out", "p.txt"], 2, "ends in none of .parquet, .csv"),
        (["--images", "list.txt"], 2, "is no folder, no .beton and no .csv"),
        (["--images", "list.csv"], 1, "has no column path or img_filename"),
    ],
)
def test_wrong_words_give_one_sentence(words, status, message, trained_toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("a.png\n")
    Path("list.csv").write_text("file\na.png\n")
    assert command("--checkpoint", trained_toy[0], "--images", trained_toy[1], *words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_class_named_like_a_column_keeps_both(trained_toy):
    trained = load_trained(trained_toy[0])
    trained = replace(trained, inputs={**trained.inputs, "classes": ["path", "b"]})
    part = Predicted(["x.png"], np.array([[0.25, 0.75]]), {})
    assert list(prediction_columns(trained, [part], all_classes=True)) == [
        "path",
        "prediction",
        "confidence",
        "p_path",
        "b",
    ]
