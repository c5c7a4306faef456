"""debeton evaluate: the numbers of a run's own evaluation, on betons, folders and CSVs, without training."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.running import folder_of
from tests.toy import TOY_SPEC

from debeton.commands import dispatch
from debeton.data.beton.reading import open_beton
from debeton.data.raw.imagenet_classes import imagenet_class_names
from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.system.errors import run_command


def command(*words: Any) -> int:
    return run_command(lambda: dispatch.main(["evaluate", *map(str, words)]))


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def without_training(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that need no training rows."""
    return {name: value for name, value in metrics.items() if name != "adjusted_accuracy"}


@pytest.fixture
def toy_csv(toy_betons, trained_toy, tmp_path) -> Path:
    """A folder with the 256 test images as PNG files, and metadata.csv."""
    folder = tmp_path / "photos"
    shutil.copytree(trained_toy[1], folder)
    beton, files = open_beton(toy_betons / "toy_test.beton"), sorted(folder.rglob("*.png"))
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "attribute", "split"])
        for row, path in enumerate(files):
            names = TOY_SPEC.classes[beton.label[row]], TOY_SPEC.attributes[beton.attribute[row]]
            writer.writerow([path.relative_to(folder), *names, "test"])
    return folder


def test_a_run_measured_again_on_its_test_rows_has_its_own_numbers(trained_toy, toy_betons, tmp_path, capsys):
    folder, _ = trained_toy
    test = toy_betons / "toy_test.beton"
    for checkpoint in (folder, folder / "checkpoints" / "checkpoint_best.pt"):
        assert command("--checkpoint", checkpoint, "--data", test, "--outdir", tmp_path) == 0
    found, own = results_of(folder_of(tmp_path)), results_of(folder)
    assert without_training(found["test"]) == without_training(own["test"])
    assert found["test"]["adjusted_accuracy"] is None
    assert (found["method"], found["seed"], found["selection"]) == (own["method"], own["seed"], own["selection"])
    shown = capsys.readouterr()
    assert "worst group" in shown.out
    assert "is measured again" in shown.err
    rows = pd.read_parquet(folder_of(tmp_path) / "predictions.parquet")
    own_rows = pd.read_parquet(folder / "predictions.parquet")
    own_rows = own_rows[own_rows["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, own_rows)


def test_a_report_has_the_measured_model_as_a_row_beside_its_run(trained_toy, toy_betons, tmp_path):
    folder, _ = trained_toy
    shutil.copytree(folder, tmp_path / "toy_erm_seed0" / "version_0")
    test = toy_betons / "toy_test.beton"
    assert command("--checkpoint", tmp_path / "toy_erm_seed0", "--data", test, "--outdir", tmp_path) == 0
    first, second = group_settings(load_runs([tmp_path]))
    assert first.stat("accuracy", "test") == second.stat("accuracy", "test")
    assert first.label != second.label
    assert not first.repeats
    assert run_command(lambda: dispatch.main(["report", str(tmp_path), "--out", str(tmp_path / "report")])) == 0


def test_images_in_a_csv_give_the_numbers_of_the_beton(trained_toy, toy_csv, tmp_path):
    folder, _ = trained_toy
    assert command("--checkpoint", folder, "--data", toy_csv, "--outdir", tmp_path / "a") == 0
    assert command("--checkpoint", folder, "--data", toy_csv / "metadata.csv", "--outdir", tmp_path / "b") == 0
    own = results_of(folder)["test"]
    for name in ("a", "b"):
        found = results_of(folder_of(tmp_path / name))["test"]
        for metric in ("accuracy", "group_accuracy", "group_count", "worst_group", "auroc", "group_brier"):
            assert found[metric] == own[metric]
        assert found["bias_aligned_accuracy"] is None  # a CSV does not say what goes with a class
    rows = pd.read_parquet(folder_of(tmp_path / "a") / "predictions.parquet")
    assert rows["path"].iloc[-1] == "z/deeper/last.png"


def test_class_folders_with_a_part_of_the_classes_are_measured_among_these(trained_toy, toy_csv, tmp_path, capsys):
    folder, _ = trained_toy
    (tmp_path / "rooms" / "right").mkdir(parents=True)
    for file in sorted(toy_csv.glob("*.png"))[1:40:2]:  # every second row is 'right'
        shutil.copy(file, tmp_path / "rooms" / "right")
    assert command("--checkpoint", folder, "--data", tmp_path / "rooms", "--outdir", tmp_path / "out") == 0
    found = results_of(folder_of(tmp_path / "out"))
    assert found["test"]["accuracy"] == 1.0  # no other class is left to be predicted
    assert "1 of the model's 2 classes" in found["evaluated"]["classes"]
    assert "note: the data has 1 of the model's 2 classes" in capsys.readouterr().err


def test_settings_choose_columns_groups_and_triggers(trained_toy, toy_betons, tmp_path):
    folder, _ = trained_toy
    beton = open_beton(toy_betons / "toy_test.beton")
    marks = tmp_path / "marks.csv"
    lines = [f"{path},{int(k % 3 == 0)}" for k, path in enumerate(beton.extra["path"])]
    marks.write_text("\n".join(["path,ddb", *lines]) + "\n")
    base = ["--checkpoint", folder, "--data", beton.path]
    assert command(*base, "--outdir", tmp_path / "a", "--data.pseudo_groups", marks) == 0
    found = results_of(folder_of(tmp_path / "a"))["test"]
    assert sum(n for name, n in found["group_count"].items() if "conflicting" in name) == 86
    trigger = ["--spurious.spurious_type", "square", "--spurious.size", "8px", "--resolution.val_res", 16]
    assert command(*base, "--outdir", tmp_path / "b", *trigger, "--name", "with_square") == 0
    found = results_of(folder_of(tmp_path / "b"))
    assert found["name"] == "with_square"
    assert found["triggers"]["test"]["square"]["clean"]["accuracy"] == found["test"]["accuracy"]
    assert command(*base, "--outdir", tmp_path / "c", "--data.group_by", "attribute") == 0
    by_domain = results_of(folder_of(tmp_path / "c"))["test"]
    assert list(by_domain["group_count"]) == list(beton.spec.attributes)
    assert by_domain["accuracy"] == found["test"]["accuracy"]
    clusters = ["--data.pseudo_groups", marks, "--data.pseudo_kind", "cluster"]
    assert command(*base, "--outdir", tmp_path / "d", *clusters) == 0
    counts = results_of(folder_of(tmp_path / "d"))["test"]["group_count"]
    assert sum(n for name, n in counts.items() if name.endswith("ddb 1")) == 86


def test_a_file_of_weights_alone_needs_its_architecture_and_names(trained_toy, toy_betons, tmp_path, capsys):
    folder, _ = trained_toy
    weights = load_checkpoint(folder / "checkpoints" / "checkpoint_best.pt")["state_dict"]
    save_checkpoint(tmp_path / "weights.pth", {"state_dict": weights})
    test = ["--data", toy_betons / "toy_test.beton", "--outdir", tmp_path / "out", "--training.decoder_val", "simple"]
    given = ["--checkpoint", tmp_path / "weights.pth", "--arch", "small_resnet"]
    assert command(*given[:2], *test) == 1
    assert "name the architecture" in capsys.readouterr().err
    as_trained = ["--mean", "0.5,0.5,0.5", "--std", ".25,.25,.25", "--training.tta", "true", "--batch-size", 64]
    assert command(*given, "--classes", "left,right", *test, *as_trained) == 0
    found = results_of(folder_of(tmp_path / "out"))
    assert found["method"] == "evaluate"
    assert found["test"]["group_accuracy"] == results_of(folder)["test"]["group_accuracy"]
    assert command(*given, "--classes", "up,down", *test) == 1
    assert "no classes of the model: 'left'; 'right'" in capsys.readouterr().err


def test_an_exported_model_keeps_the_name_of_its_method(trained_toy, toy_betons, tmp_path):
    folder, _ = trained_toy
    words = ["predict", "--checkpoint", str(folder), "--export", str(tmp_path / "model")]
    assert run_command(lambda: dispatch.main(words)) == 0
    test = ["--data", toy_betons / "toy_test.beton", "--outdir", tmp_path / "out", "--batch-size", 64]
    assert command("--checkpoint", tmp_path / "model", *test) == 0
    found = results_of(folder_of(tmp_path / "out"))
    assert found["method"] == "erm"
    assert found["test"]["group_accuracy"] == results_of(folder)["test"]["group_accuracy"]


def test_rows_of_the_models_own_training_are_no_held_out_result(trained_toy, toy_betons, tmp_path):
    folder, _ = trained_toy
    assert command("--checkpoint", folder, "--data", toy_betons / "toy_val.beton", "--outdir", tmp_path) == 0
    (record,) = load_runs([tmp_path])
    assert record.remarks == ["measured on the rows of 'val' of the model's own run; not a held-out result"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--training.lr", "0.1"], 2, "--training.lr has no effect on an evaluation"),
        (["--data.attribute", "nothing"], 2, "no column 'nothing'"),
        (["--split", "val"], 2, "is one split"),
        (["--arch", "resnet18"], 2, "holds a small_resnet, not a resnet18"),
        (["--class-map", "none.csv"], 2, "there is no file none.csv"),
        (["--mean", "0.5"], 2, "expected three numbers R,G,B"),
        (["--std", "0,1,1"], 2, "expected numbers above 0"),
    ],
)
def test_wrong_words_are_said_before_anything_is_written(
    words, status, message, trained_toy, toy_betons, tmp_path, capsys
):
    test = ["--data", toy_betons / "toy_test.beton", "--outdir", tmp_path / "out"]
    assert command("--checkpoint", trained_toy[0], *test, *words) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none.beton", "folder", "table.txt"])
def test_data_that_cannot_be_measured_is_named(name, trained_toy, tmp_path, capsys):
    if name == "table.txt":
        (tmp_path / name).write_text("path,label\n")
    assert command("--checkpoint", trained_toy[0], "--data", tmp_path / name, "--outdir", tmp_path / "out") == 2
    assert str(tmp_path / name) in capsys.readouterr().err


def photos() -> Path:
    shared = Path(__file__).parents[3] / "shared/data"
    return Path(os.environ.get("DEBETON_DATA", shared)) / "in1k_256.zip"


@pytest.mark.slow
@pytest.mark.skipif(not photos().is_file(), reason="no in1k_256.zip in $DEBETON_DATA or ../shared/data")
def test_published_weights_recognise_1000_photos_without_a_training_beton(tmp_path):
    classes = imagenet_class_names()
    with zipfile.ZipFile(photos()) as archive:
        names = sorted(name for name in archive.namelist() if name.upper().endswith(".JPEG"))
        for name in names:  # class folders by wnid, as ImageNet has them
            target = tmp_path / "photos" / name[:9] / name
            target.parent.mkdir(parents=True)
            target.write_bytes(archive.read(name))
    published = ["--arch", "efficientnet_lite0", "--pretrained", "--device", "cpu", "--batch-size", 100]
    assert command(*published, "--data", tmp_path / "photos", "--outdir", tmp_path / "out") == 0
    folder = folder_of(tmp_path / "out")
    found = results_of(folder)["test"]
    # 87.5 % with the crop of the owners; Pillow's bicubic resampling of the same crop gives 875 of 1,000 too.
    assert found["accuracy"] == pytest.approx(0.875, abs=0.004)
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert rows["label"].iloc[1] == "n01443537"
    assert len([name for name in rows.columns if name.startswith("p_")]) == len(classes) == 1000
