"""Outlines: the phases that a method declares are those of a real run, with their steps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import Rows
from debeton.methods import METHODS, outline, train
from debeton.train.outline import PhaseOutline, images_after, place_in
from debeton.train.run import open_run

TINY_DDB = {
    "cdpm.epochs": 1,
    "cdpm.widths": "8,16",
    "cdpm.layers": 1,
    "cdpm.attention": 0,
    "cdpm.batch_size": 32,
    "amplifier.arch": "small_resnet",
    "amplifier.pretrained": "false",
    "amplifier.epochs": 2,
    "amplifier.batch_size": 16,
    "ddb.per_class": 10,
    "ddb.steps": 2,
    "ddb.copy_check": "false",
}
SETTINGS = {
    "afr": {"afr.epochs": 10, "afr.gamma": "4"},
    "cdpm": TINY_DDB,
    "ddb1": TINY_DDB,
    "ddb2": {**TINY_DDB, "ddb.amplifier_data": "real"},
    "dfr": {"dfr.c_grid": "1,0.1", "dfr.refits": 2},
    "dispel": {"dfr.c_grid": "1", "dfr.refits": 2},
    "eiil": {"eiil.steps": 10},
    "ffr": {"ffr.epochs": 2, "synthetic.per_cell": 4},
    "self": {"self.steps": 10, "self.rows": "8"},
    "groups": {"groups.from": "jtt"},
}


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small toy set: 64 real and 32 synthetic training rows, and a target split of 32."""
    folder = tmp_path_factory.mktemp("outline")
    real, synthetic = toy_rows(64, 0.75, 1), toy_rows(32, 0.5, 2)
    both = Rows(
        np.concatenate([real.label, synthetic.label]),
        np.concatenate([real.attribute, synthetic.attribute]),
        lambda row: real.image(row) if row < 64 else synthetic.image(row - 64),
        [*real.names, *synthetic.names],
        source=np.repeat([0, 1], [64, 32]),
    )
    parts = {"train": real, "val": toy_rows(32, 0.5, 3), "test": toy_rows(32, 0.5, 4), "target": toy_rows(32, 0.5, 5)}
    for split, rows in parts.items():
        write_beton(folder / f"toy_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))
    mixed = folder / "mixed"
    mixed.mkdir()
    write_beton(mixed / "toy_train.beton", both, TOY_SPEC, "train", WriteOptions(mode="raw"))
    for split in ("val", "test"):
        for file in folder.glob(f"toy_{split}.beton*"):
            shutil.copy(file, mixed / file.name)
    return folder


def settings_of(method: str, betons: Path, toy_args: list[str]) -> list[str]:
    own = {
        "training.method": method,
        "training.data_root": betons / "mixed" if method == "ffr" else betons,
        "training.batch_size": 16,
        "training.epochs": 1,
        **SETTINGS.get(method, {}),
    }
    return [*toy_args, *(str(word) for key, value in own.items() for word in (f"--{key}", value))]


@pytest.mark.parametrize("method", METHODS.names())
def test_the_phases_of_a_method_are_those_of_a_real_run(method: str, betons: Path, toy_args: list[str]) -> None:
    with open_run(load([], settings_of(method, betons, toy_args))) as run:
        assert run is not None
        declared = outline(run)
        train(run)
    assert list(run.phases) == [phase.name for phase in declared]
    for phase in declared:
        images = phase.epochs * phase.steps * phase.batch_size
        if phase.at_least:
            assert run.phases[phase.name].images >= images > 0
        else:
            assert run.phases[phase.name].images == images


def test_a_base_method_with_phases_of_its_own_comes_before_the_fit(betons: Path, toy_args: list[str]) -> None:
    args = [*settings_of("dfr", betons, toy_args), "--dfr.base", "jtt", "--jtt.epochs", "3", "--jtt.upweight", "5"]
    with open_run(load([], args)) as run:
        assert run is not None
        phases = outline(run)
    assert [(phase.name, phase.epochs) for phase in phases] == [("identify", 3), ("train", 1), ("dfr", 0)]
    assert place_in(phases, "train") == " (2 of 3)"
    assert place_in(phases, "other") == ""
    assert images_after(phases, "identify") is None  # the number of error rows is not known yet
    assert images_after(phases, "train") == 0


def test_results_that_are_given_leave_their_phases_out(betons: Path, toy_args: list[str], tmp_path: Path) -> None:
    given = {"ddb.amplifier": ["train"], "ddb.pseudo_labels": ["train"], "ddb.cdpm": ["amplifier", "train"]}
    for key, names in given.items():
        with open_run(load([], [*settings_of("ddb1", betons, toy_args), f"--{key}", str(tmp_path)])) as run:
            assert run is not None
            assert [phase.name for phase in outline(run)] == names


def test_steps_count_a_last_batch_that_is_not_full_unless_it_is_dropped(betons: Path, toy_args: list[str]) -> None:
    with open_run(load([], [*settings_of("erm", betons, toy_args), "--training.batch_size", "24"])) as run:
        assert run is not None
        (phase,) = outline(run)
    assert (phase.steps, phase.rows_of_epoch, phase.images) == (3, 64, 64)
    assert phase.settings is not None
    dropped = replace(phase, settings=replace(phase.settings, drop_last=True))
    assert (dropped.steps, dropped.rows_of_epoch) == (2, 48)
    assert PhaseOutline("fit").steps == 0
    assert images_after([phase, dropped], "train") == 48
