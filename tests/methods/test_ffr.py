"""Tests of ffr: the published counts in --dry-run, two phases of one seed, and the first phase by itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.running import ROOT, folder_of, lines_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.sources.spuco_animals import CELLS
from debeton.data.sources.spuco_animals import SPEC as SPUCO
from debeton.data.sources.utkface import SPEC as UTKFACE
from debeton.data.spec import DatasetSpec, Rows
from debeton.methods import train
from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.train.finish import finish
from debeton.train.run import open_run
from debeton.train.stop import Preempted, StopRequest

CELEBA = DatasetSpec(
    "celeba_hq",
    ("not Smiling", "Smiling"),
    ("Female", "Male"),
    ((1,), (0,)),
    label_name="Smiling",
    attribute_name="Male",
)


# --- counts -------------------------------------------------------------------------------------------------------


def write_cells(path: Path, spec: DatasetSpec, split: str, real: list[int], synthetic: int = 0) -> None:
    """Write a beton of 1 x 1 images with these many real rows of each existing cell.

    Each cell also gets the same number of synthetic rows.
    """
    cells = [g for g in range(spec.num_groups) if g not in spec.missing]
    group = np.concatenate([np.repeat(cells, real), np.repeat(cells, synthetic)])
    source = np.repeat([0, 1], [sum(real), synthetic * len(cells)])
    pixel = np.zeros((1, 1, 3), np.uint8)
    names = [str(k) for k in range(len(group))]
    label, attribute = np.divmod(group, len(spec.attributes))
    rows = Rows(label, attribute, lambda row: pixel, names, source=source)
    write_beton(path / f"{spec.name}_{split}.beton", rows, spec, split, WriteOptions(mode="raw"))


def counts_shown(text: str) -> dict[str, list[int]]:
    """Return the counts of every view in --dry-run's text."""
    counts_by_view: dict[str, list[int]] = {}
    for line in text.splitlines():
        if match := re.match(r"view (\w+): ", line):
            counts = counts_by_view.setdefault(match[1], [])
        elif counts_by_view and (match := re.match(r"  .*\s(\d+)$", line)):
            counts.append(int(match[1]))
    return counts_by_view


def dry_run(folder: Path, spec: DatasetSpec, capsys, **settings: Any) -> dict[str, list[int]]:
    words = [word for key, value in settings.items() for word in (f"--{key.replace('__', '.')}", value)]
    common = ["--data.dataset", spec.name, "--training.data_root", folder, "--training.decoder_train", "simple"]
    assert run(["--dry-run", "--all", *common, "--training.batch_size", 8, *words]) == 0
    return counts_shown(capsys.readouterr().out)


# (rate, real train cells, real validation cells, USB's additions, m) of the fact sheet's tables A.5
FACES = {
    "celeba_hq": [
        ("0.95", (281, 5335, 7797, 411), (36, 666, 989, 53), (7516, 2462, 0, 7386), 4341),
        ("0.97", (166, 5335, 7797, 242), (21, 666, 989, 31), (7631, 2462, 0, 7555), 4412),
        ("0.99", (54, 5335, 7797, 79), (10, 666, 989, 10), (7743, 2462, 0, 7718), 4480),
        ("0.999", (6, 5335, 7797, 8), (10, 666, 989, 10), (7791, 2462, 0, 7789), 4510),
    ],
    "utkface": [
        ("0.95", (50, 934, 5731, 302), (10, 119, 724, 39), (5681, 4797, 0, 5429), 3976),
        ("0.97", (29, 934, 5731, 178), (10, 119, 724, 23), (5702, 4797, 0, 5553), 4013),
        ("0.99", (10, 934, 5731, 58), (10, 119, 724, 10), (5721, 4797, 0, 5673), 4047),
        ("0.999", (1, 934, 5731, 6), (10, 119, 724, 10), (5730, 4797, 0, 5725), 4063),
    ],
}
WHOLE = {
    "celeba_hq": (CELEBA, (592, 5335, 7797, 866), (73, 666, 989, 109), (7205, 2462, 0, 6931), 4149),
    "utkface": (replace(UTKFACE, columns={}), (103, 934, 5731, 636), (13, 119, 724, 80), (5628, 4797, 0, 5095), 3880),
}


@pytest.mark.parametrize("name", list(FACES))
def test_dry_run_shows_the_published_counts_of_every_stage_for_faces(name, tmp_path, capsys):
    spec, train_cells, val_cells, additions, m = WHOLE[name]
    write_cells(tmp_path, spec, "train", list(train_cells), synthetic=8000)
    write_cells(tmp_path, spec, "val", list(val_cells))
    for rate, real, val, more, per_cell in [("0", train_cells, val_cells, additions, m), *FACES[name]]:
        shown = dry_run(tmp_path, spec, capsys, training__method="ffr", data__bias_rate=rate)
        assert shown["train"] == list(real), rate
        assert shown["val"] == list(val), rate
        assert shown["first"] == [per_cell] * 4, rate
        if rate in ("0", "0.999"):
            usb = dry_run(tmp_path, spec, capsys, synthetic__mode="usb", data__bias_rate=rate)["train"]
            assert usb == [a + b for a, b in zip(real, more, strict=True)]
            asb = dry_run(tmp_path, spec, capsys, synthetic__mode="asb", data__bias_rate=rate)["train"]
            assert asb == [n + per_cell for n in real]


def test_dry_run_shows_the_published_counts_of_every_stage_for_spuco(tmp_path, capsys):
    usual = [label == attribute for label, attribute in CELLS]
    write_cells(tmp_path, SPUCO, "train", [10000 if u else 500 for u in usual], synthetic=10000)
    write_cells(tmp_path, SPUCO, "val", [500 if u else 25 for u in usual])
    for rate, minority, val, added, m in (
        ("0.95", 500, 25, 9500, 4750),
        ("0.97", 310, 16, 9690, 4845),
        ("0.99", 102, 10, 9898, 4949),
        ("0.999", 11, 10, 9989, 4994),
    ):
        shown = dry_run(tmp_path, SPUCO, capsys, training__method="ffr", data__bias_rate=rate)
        assert shown["train"] == [10000 if u else minority for u in usual], rate
        assert shown["val"] == [500 if u else val for u in usual], rate
        assert shown["first"] == [m] * 8, rate
        assert added == 10000 - minority
    usb = dry_run(tmp_path, SPUCO, capsys, synthetic__mode="usb", data__bias_rate=rate)["train"]
    assert usb == [10000] * 8


# --- training -----------------------------------------------------------------------------------------------------


def with_source(real: Rows, synthetic: Rows) -> Rows:
    n = len(real)
    return Rows(
        np.concatenate([real.label, synthetic.label]),
        np.concatenate([real.attribute, synthetic.attribute]),
        lambda row: real.image(row) if row < n else synthetic.image(row - n),
        [*(f"real/{x}" for x in real.names), *(f"synthetic/{x}" for x in synthetic.names)],
        source=np.repeat([0, 1], [n, len(synthetic)]),
    )


@pytest.fixture(scope="module")
def betons(tmp_path_factory) -> Path:
    """Return the toy set, 97 % bias-aligned, with 400 balanced synthetic rows of slightly darker images."""
    folder = tmp_path_factory.mktemp("ffr")
    synthetic = toy_rows(400, 0.5, 31)
    darker = Rows(
        synthetic.label, synthetic.attribute, lambda i: (synthetic.image(i) * 0.9).astype(np.uint8), synthetic.names
    )
    rows = with_source(toy_rows(300, 0.97, 30), darker)
    write_beton(folder / "toy_train.beton", rows, TOY_SPEC, "train", WriteOptions(mode="raw"))
    for seed, (split, n) in enumerate((("val", 128), ("test", 256)), start=32):
        write_beton(folder / f"toy_{split}.beton", toy_rows(n, 0.5, seed), TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


@pytest.fixture
def ffr_args(betons, toy_args) -> list[str]:
    args = [*toy_args, "--training.data_root", str(betons), "--training.num_workers", "1"]
    return [*args, "--synthetic.per_cell", "60"]


def results_of(outdir: Path) -> dict[str, Any]:
    return json.loads((folder_of(outdir) / "results.json").read_text())


def test_ffr_trains_on_synthetic_then_on_real_rows_and_reports_the_first_stage(ffr_args, tmp_path):
    args = [*ffr_args, "--training.method", "ffr", "--ffr.epochs", "3", "--ffr.lr", "0.02"]
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    trained = [
        (x["phase"], x["epoch"], sum(x["metrics"]["group_count"].values()))
        for x in lines_of(folder)
        if x["split"] == "train"
    ]
    assert trained == [("first", 1, 240), ("first", 2, 240), ("first", 3, 240), ("train", 1, 300), ("train", 2, 300)]
    results = results_of(tmp_path / "runs")
    assert results["method"] == "ffr"
    first = results["notes"]["first_phase"]
    assert first["rows"] == 240
    evaluations = [x["metrics"] for x in lines_of(folder) if x["phase"] == "first" and x["split"] == "val"]
    assert first["val"]["worst_group_accuracy"] == max(m["worst_group_accuracy"] for m in evaluations)
    assert 0 <= first["test"]["worst_group_accuracy"] <= 1
    assert set(results["timing"]["phases"]) == {"first", "train"}


def test_the_second_stage_begins_with_the_first_stages_weights_head_included(ffr_args, tmp_path):
    args = [*ffr_args, "--training.method", "ffr", "--training.lr", "0", "--ffr.lr", "0.05", "--ffr.freeze_bn", "true"]
    assert run([*args, "--training.weight_decay", "0"]) == 0
    checkpoints = folder_of(tmp_path / "runs") / "checkpoints"
    first, last = (load_checkpoint(checkpoints / f"phase_{name}.pt")["state_dict"] for name in ("first", "train"))
    for name, value in first.items():
        assert torch.equal(value, last[name]), name  # with frozen batch norm and lr 0 nothing moves


def test_without_freezing_the_second_stage_moves_the_batch_norm_statistics(ffr_args, tmp_path):
    args = [*ffr_args, "--training.method", "ffr", "--training.lr", "0", "--ffr.lr", "0.05", "--training.epochs", "1"]
    assert run(args) == 0
    checkpoints = folder_of(tmp_path / "runs") / "checkpoints"
    first, last = (load_checkpoint(checkpoints / f"phase_{name}.pt")["state_dict"] for name in ("first", "train"))
    assert not torch.equal(first["stem.1.running_mean"], last["stem.1.running_mean"])
    assert torch.equal(first["fc.weight"], last["fc.weight"])


def test_ffr_by_method_and_by_mode_are_the_same_training(ffr_args, tmp_path):
    for name, words in (("a", ["--training.method", "ffr"]), ("b", ["--synthetic.mode", "ffr"])):
        assert run([*ffr_args, *words, "--training.outdir", tmp_path / name]) == 0
    a, b = (load_checkpoint(folder_of(tmp_path / n) / "checkpoints/checkpoint_best.pt")["state_dict"] for n in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_of_a_stage_starts_another_run_as_the_second_stage_does(ffr_args, tmp_path):
    stage = [*ffr_args, "--synthetic.mode", "only", "--training.outdir", tmp_path / "stage"]
    assert run(stage) == 0
    best = folder_of(tmp_path / "stage") / "checkpoints" / "checkpoint_best.pt"
    assert run([*ffr_args, "--model.checkpoint", best, "--training.outdir", tmp_path / "second"]) == 0
    assert run([*ffr_args, "--training.method", "ffr", "--training.outdir", tmp_path / "both"]) == 0
    second, both = (
        load_checkpoint(folder_of(tmp_path / n) / "checkpoints/checkpoint_best.pt")["state_dict"]
        for n in ("second", "both")
    )
    assert all(torch.equal(second[key], both[key]) for key in both)


def test_a_checkpoint_whose_head_is_another_is_a_sentence(ffr_args, tmp_path, capsys):
    args = [*ffr_args, "--training.epochs", "1"]
    assert run([*args, "--training.outdir", tmp_path / "first"]) == 0
    path = folder_of(tmp_path / "first") / "checkpoints/checkpoint_best.pt"
    content = load_checkpoint(path)
    del content["state_dict"]["fc.weight"]
    save_checkpoint(tmp_path / "headless.pt", content)
    assert run([*args, "--model.checkpoint", tmp_path / "headless.pt"]) == 1
    assert "headless.pt does not hold the weights of small_resnet" in capsys.readouterr().err


@pytest.mark.parametrize("step", [3, 11])
def test_an_interrupted_run_ends_bit_equal(ffr_args, tmp_path, monkeypatch, step):
    def train_in(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        words = [*ffr_args, "--training.method", "ffr", "--training.outdir", str(tmp_path / name)]
        with open_run(load([], words)) as opened:
            assert opened is not None
            results = finish(opened, train(opened))
            return load_checkpoint(opened.folder / "checkpoints/checkpoint_latest.pt"), results

    whole, results = train_in("whole")
    with monkeypatch.context() as patch:
        left = [step]

        def agreed(self, *_) -> int:
            left[0] -= 1
            return 15 if left[0] == 0 else 0

        patch.setattr(StopRequest, "agreed", agreed)
        with pytest.raises(Preempted):
            train_in("stopped")
    resumed, again = train_in("stopped")
    assert all(torch.equal(whole["state_dict"][key], resumed["state_dict"][key]) for key in whole["state_dict"])
    assert results["notes"] == again["notes"]
    assert results["test"] == again["test"]


def test_ffr_learns_a_task_that_erm_on_the_biased_rows_does_not(ffr_args, tmp_path):
    conflicting = {}
    for method in ("erm", "ffr"):
        words = ["--training.method", method, "--training.epochs", "4", "--training.outdir", tmp_path / method]
        assert run([*ffr_args, "--synthetic.per_cell", "90", "--ffr.epochs", "12", *words]) == 0
        conflicting[method] = results_of(tmp_path / method)["test"]["bias_conflicting_accuracy"]
    assert conflicting["ffr"] > conflicting["erm"] + 0.05, conflicting


def test_the_preset_is_ffr_with_the_papers_settings():
    preset = ROOT / "dataset_configs/methods/ffr.yaml"
    config = load([ROOT / "dataset_configs/celeba_hq.yaml", preset])
    assert (config.training.method, config.synthetic.mode) == ("ffr", "ffr")
    assert (config.training.optimizer, config["ffr.lr"], config.training.lr) == ("adam", 1e-4, 1e-3)


# --- wrong use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--training.method", "ffr", "--synthetic.mode", "usb"], 2, "training.method 'ffr' makes it 'ffr'"),
        (["--synthetic.mode", "ffr", "--synthetic.per_cell", "500"], 1, "500 synthetic images are wanted"),
        (
            ["--synthetic.mode", "ffr", "--synthetic.share", "1.5"],
            2,
            "synthetic.share is '1.5'; expected a number from",
        ),
        (["--synthetic.mode", "ffr_blind"], 2, "has no synthetic rows from prompts without an attribute"),
        (["--model.checkpoint", "none.pt"], 1, "no checkpoint at none.pt"),
        (["--model.checkpoint", "{other}"], 2, "its arch is efficientnet_lite0, this run's is small_resnet"),
    ],
)
def test_wrong_use_is_one_sentence(ffr_args, tmp_path, capsys, words, status, message):
    other = tmp_path / "other.pt"
    described = {"arch": "efficientnet_lite0", "num_classes": 2, "mean": [0.5] * 3, "std": [0.5] * 3}
    torch.save({"model": described, "state_dict": {}}, other)
    assert run([*ffr_args, *(word.format(other=other) for word in words)]) == status
    assert message in capsys.readouterr().err


def test_a_beton_without_synthetic_rows_says_how_to_get_them(toy_args, capsys):
    assert run([*toy_args, "--training.method", "ffr"]) == 2
    assert "has no synthetic rows; write it with --synthetic DIR" in capsys.readouterr().err
