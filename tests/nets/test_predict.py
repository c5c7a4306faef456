"""trained.py: the same predictions on image files as in the run, exported or not."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.running import folder_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.commands import predict
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.views.view import View
from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.nets.trained import load_trained
from debeton.nets.trained import predict as predict_files
from debeton.system.errors import run_command


def command(*words: Any) -> int:
    return run_command(lambda: predict.main([str(word) for word in words]))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_image_files_are_predicted_as_the_run_predicted_its_test_rows(trained_toy, capsys, tmp_path):
    run_folder, images = trained_toy
    expected = load_checkpoint(run_folder / "results.pt")["results"]["results_standard"]["preds"]
    assert command("--checkpoint", run_folder, "--images", images, "--probabilities") == 0
    rows = rows_of(capsys.readouterr().out)
    classes = load_trained(run_folder).classes
    assert [row["path"] for row in rows][-1] == "z/deeper/last.png"
    assert [classes.index(row["prediction"]) for row in rows] == expected.tolist()
    for row in rows:
        probabilities = [float(row[name]) for name in classes]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert float(row["confidence"]) == max(probabilities)

    best = run_folder / "checkpoints" / "checkpoint_best.pt"
    assert command("--checkpoint", best, "--images", images, "--out", tmp_path / "p.csv", "--batch-size", "7") == 0
    again = rows_of((tmp_path / "p.csv").read_text())
    assert [(row["path"], row["prediction"]) for row in again] == [(row["path"], row["prediction"]) for row in rows]


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "jpg", "quality": 4, "chroma": "4:2:0"},
        {"mode": "jpg", "quality": 50},
        {"mode": "auto", "max_resolution": 11, "raw_pixels": 5, "quality": 30},
        {"mode": "auto"},
    ],
    ids=str,
)
def test_a_file_is_given_to_the_network_in_the_way_its_runs_beton_gave_it(
    options, toy_betons, toy_args, tmp_path, capsys
):
    root, images = tmp_path / "betons", tmp_path / "images"
    shutil.copytree(toy_betons, root)
    images.mkdir()
    rows = toy_rows(96, 0.5, 2)
    files = [images / f"{row:03d}.png" for row in range(96)]
    for row, file in enumerate(files):
        Image.fromarray(rows.image(row)).save(file)
    write_beton(
        root / "toy_test.beton",
        replace(rows, image=lambda row: files[row]),
        TOY_SPEC,
        "test",
        WriteOptions(**options),
    )
    assert run([*toy_args, "--training.data_root", root, "--training.epochs", 1, "--resolution.val_res", 16]) == 0
    folder = folder_of(tmp_path / "runs")
    expected = load_checkpoint(folder / "results.pt")["results"]["results_standard"]["preds"].tolist()
    trained = load_trained(folder)
    of_beton = trained.probabilities(View.whole(open_beton(root / "toy_test.beton")), torch.device("cpu"))
    ((_, of_files),) = predict_files(trained, files, torch.device("cpu"))
    np.testing.assert_array_equal(of_files, of_beton)
    capsys.readouterr()
    assert command("--checkpoint", folder, "--images", images) == 0
    shown = capsys.readouterr()
    assert [trained.classes.index(row["prediction"]) for row in rows_of(shown.out)] == expected
    assert "note" not in shown.err
    as_pixels = replace(trained, inputs={**trained.inputs, "images": None})
    ((_, without_loss),) = predict_files(as_pixels, files, torch.device("cpu"))
    assert np.array_equal(without_loss, of_beton) == (options == {"mode": "auto"})


def test_a_network_whose_images_were_stored_in_an_unknown_way_says_so(trained_toy, capsys, tmp_path):
    run_folder, images = trained_toy
    content = load_checkpoint(run_folder / "checkpoints" / "checkpoint_best.pt")
    lines = {}
    for name, known in (("unknown", None), ("random", WriteOptions(mode="proportion").of_images())):
        content["inputs"]["images"] = known
        save_checkpoint(tmp_path / f"{name}.pt", content)
        assert command("--checkpoint", tmp_path / f"{name}.pt", "--images", images) == 0
        lines[name] = capsys.readouterr().err
    assert lines["unknown"].startswith("note: it is not recorded how the beton of this classifier's run stored images;")
    assert lines["random"].startswith("note: the beton of this classifier's run stored a random share of 0.5 as JPEG;")


def test_an_exported_model_predicts_the_same_and_its_card_says_what_was_measured(trained_toy, capsys, tmp_path):
    run_folder, images = trained_toy
    assert command("--checkpoint", run_folder, "--export", tmp_path / "model") == 0
    for name in (run_folder, tmp_path / "model"):
        assert command("--checkpoint", name, "--images", images) == 0
    text = capsys.readouterr().out
    assert text[: len(text) // 2] == text[len(text) // 2 :]

    card = json.loads((tmp_path / "model" / "model.json").read_text())
    results = json.loads((run_folder / "results.json").read_text())
    assert card["run"]["test"] == results["test"]
    assert card["inputs"] == {
        "dataset": "toy",
        "classes": list(load_trained(run_folder).classes),
        "resolution": 224,
        "decoder": "simple",
        "tta": True,
        "images": WriteOptions(mode="raw").of_images(),
    }
    readme = (tmp_path / "model" / "README.md").read_text()
    test = results["test"]
    assert f"The worst group is '{test['worst_group']}': {100 * test['worst_group_accuracy']:.1f} % accuracy" in readme
    for group, accuracy in test["group_accuracy"].items():
        rows, count = results["train_groups"][group], test["group_count"][group]
        assert f"| {group} | {rows} | {count} | {100 * accuracy:.1f} |" in readme


def test_a_refitted_head_predicts_the_same_apart_from_its_run(toy_betons, tmp_path, trained_toy, capsys):
    run_folder, images = trained_toy
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": tmp_path / "runs",
        "model.arch": "small_resnet",
        "training.method": "dfr",
        "dfr.normalise_features": "true",
        "dfr.refits": 2,
        "dfr.checkpoint": run_folder / "checkpoints" / "checkpoint_best.pt",
        "training.decoder_val": "simple",
        "logging.tensorboard": "false",
        "training.device": "cpu",
    }
    assert run([word for key, value in settings.items() for word in (f"--{key}", value)]) == 0
    folder = folder_of(tmp_path / "runs")
    expected = load_checkpoint(folder / "results.pt")["results"]["results_standard"]["preds"]
    capsys.readouterr()
    assert command("--checkpoint", folder, "--export", tmp_path / "model") == 0
    assert command("--checkpoint", tmp_path / "model", "--images", images) == 0
    classes = load_trained(folder).classes
    assert [classes.index(row["prediction"]) for row in rows_of(capsys.readouterr().out)] == expected.tolist()


def without(key: str, path: Path, run_folder: Path) -> Path:
    content = load_checkpoint(run_folder / "checkpoints" / "checkpoint_best.pt")
    content.pop(key)
    save_checkpoint(path, content)
    return path


def test_wrong_checkpoints_and_images_give_one_sentence(trained_toy, capsys, tmp_path):
    run_folder, images = trained_toy
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    torch.save(
        {"model": {"arch": "unet", "num_classes": 2}, "inputs": {"classes": ["a"]}, "state_dict": {}},
        tmp_path / "unet.pt",
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    for words, status, message in (
        (["--checkpoint", run_folder], 2, "nothing to do: give --images DIR, --export MODEL or both"),
        (["--checkpoint", run_folder, "--images", tmp_path / "none"], 2, "holds no image; looked for .bmp, .jpeg"),
        (["--checkpoint", run_folder, "--images", tmp_path / "no"], 2, "no folder of images at"),
        (["--checkpoint", run_folder, "--images", tmp_path / "bad"], 1, "x.png"),
        (["--checkpoint", tmp_path / "none", "--images", images], 1, "no checkpoint at"),
        (["--checkpoint", tmp_path / "unet.pt", "--images", images], 1, "holds a 'unet', which is no classifier"),
        (["--checkpoint", tmp_path / "model", "--images", images], 1, "model.json lacks 'model'"),
        (
            ["--checkpoint", without("inputs", tmp_path / "old.pt", run_folder), "--images", images],
            1,
            "does not describe its classes and the size of its images",
        ),
        (
            ["--checkpoint", without("model", tmp_path / "m.pt", run_folder), "--images", images],
            1,
            "does not say which model it holds",
        ),
    ):
        assert command(*words) == status, words
        error = capsys.readouterr().err
        assert error.count("\n") == 1 or "x.png" in error
        assert message in error
