"""A run belongs to the betons that it saw: other data under their names is an error."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.reading import open_beton
from debeton.data.beton.sidecar import sidecar_path
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import Rows
from debeton.nets.checkpoint import LATEST_NAME, load_checkpoint
from debeton.report.pictures import worst_mistakes
from debeton.system.errors import DataError
from debeton.tools.probe import probe_run
from debeton.train.objective import Objective
from debeton.train.run_data import DATA_NAME, recorded_data

SPLITS = ("train", "val", "test")
ROWS = {"train": (128, 0.9, 0), "val": (64, 0.5, 1), "test": (64, 0.5, 2)}


def write(folder: Path, split: str, seed: int | None = None, rows: Rows | None = None) -> None:
    count, share, usual = ROWS[split]
    rows = rows or toy_rows(count, share, usual if seed is None else seed)
    write_beton(folder / f"toy_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a training, a validation and a test beton that the test may rewrite."""
    for split in SPLITS:
        write(tmp_path / "data", split)
    return tmp_path / "data"


@pytest.fixture
def args(toy_args: list[str], data: Path) -> list[str]:
    """Settings of a run on these betons: two epochs of two steps."""
    return [*toy_args, "--training.data_root", str(data)]


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> pytest.MonkeyPatch:
    """Call `act` in the backward pass number `step`."""
    backward, steps = Objective.backward, []

    def acting(self, *arguments):
        steps.append(1)
        if len(steps) == step:
            act()
        return backward(self, *arguments)

    monkeypatch.setattr(Objective, "backward", acting)
    return monkeypatch


def test_results_and_checkpoints_name_the_data_of_each_split(args, data, tmp_path):
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    named = {s: {"file": f"toy_{s}.beton", **open_beton(data / f"toy_{s}.beton").content} for s in SPLITS}
    assert json.loads((folder / "results.json").read_text())["data"] == named
    assert json.loads((folder / DATA_NAME).read_text()) == named
    for checkpoint in (folder / "checkpoints").glob("*.pt"):
        assert load_checkpoint(checkpoint)["data"] == named


# --- while the run goes on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("step", [1, 3])
def test_a_beton_rewritten_during_a_run_ends_it_and_nothing_of_that_epoch_is_kept(
    args, data, tmp_path, monkeypatch, capsys, split, step
):
    with monkeypatch.context() as patched:
        in_step(patched, step, lambda: write(data, split, seed=9))
        assert run(args) == 1
    assert f"another file lies at {data}/toy_{split}.beton now: its rows" in capsys.readouterr().err
    if not list((tmp_path / "runs").rglob("config.yaml")):  # an error before anything is saved leaves no folder
        assert (step, split) == (1, "train")
        write(data, split)
        assert run(args) == 0
        return
    folder = folder_of(tmp_path / "runs")
    assert not (folder / "results.json").exists()
    latest = folder / "checkpoints" / LATEST_NAME
    assert (load_checkpoint(latest)["epoch"] if latest.exists() else 0) == step // 2
    measured = [line for line in lines_of(folder) if line["split"] == "val"] if step == 3 else []
    assert len(measured) == step // 2 + (step == 3 and split == "test")  # rewound when the run goes on
    write(data, split)
    assert run(args) == 0
    assert sorted((line["epoch"], line["split"]) for line in lines_of(folder)) == [
        (1, "train"),
        (1, "val"),
        (2, "train"),
        (2, "val"),
    ]


def test_a_beton_cut_in_place_during_a_run_is_one_sentence(args, data, monkeypatch, capsys):
    in_step(monkeypatch, 1, lambda: os.truncate(data / "toy_val.beton", 2_100_000))
    assert run(args) == 1
    said = capsys.readouterr().err
    assert f"error: {data}/toy_val.beton was cut while it was open: it had" in said
    assert "Traceback" not in said


def test_a_beton_rewritten_alike_during_a_run_changes_nothing(args, data, tmp_path, monkeypatch):
    assert run([*args, "--training.outdir", str(tmp_path / "other")]) == 0
    with monkeypatch.context() as patched:
        in_step(patched, 1, lambda: [write(data, split) for split in SPLITS])
        assert run(args) == 0
    left, right = (lines_of(folder_of(tmp_path / name)) for name in ("runs", "other"))
    assert left == right


def test_a_stop_in_an_epoch_of_changed_data_saves_nothing(args, data, tmp_path, monkeypatch):
    def stop_and_rewrite() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(data, "train", seed=9)

    in_step(monkeypatch, 1, stop_and_rewrite)
    assert run(args) == 1
    assert not list((tmp_path / "runs").rglob("*"))  # nothing was saved, so no folder stays


# --- the next command ------------------------------------------------------------------------------------------------


def with_one_change(part: str, split: str) -> Rows:
    """The rows of a split with another label, attribute, name or pixel in row 5."""
    rows = toy_rows(*ROWS[split])
    label, attribute, names = rows.label.copy(), rows.attribute.copy(), list(rows.names)
    label[5] ^= part == "labels"
    attribute[5] ^= part == "attributes"
    names[5] = "another" if part == "rows" else names[5]
    return Rows(label, attribute, lambda i: rows.image(i) ^ np.uint8(part == "images" and i == 5), names)


@pytest.mark.parametrize(("part", "split"), [("labels", "train"), ("images", "test"), ("rows", "val")])
def test_a_run_on_rewritten_betons_is_neither_resumed_nor_finished(args, data, capsys, tmp_path, part, split):
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    for unfinished in (False, True):
        if unfinished:
            (folder / "results.json").unlink()
        write(data, split, rows=with_one_change(part, split))
        capsys.readouterr()
        assert run(args) == 1
        said = capsys.readouterr().err
        assert f"the {part} of '{split}' (toy_{split}.beton) are not the same" in said
        assert "another --training.exp_name" in said
        assert "is finished" not in said
        write(data, split)
        assert run(args) == 0
    write(data, split, rows=with_one_change(part, split))
    assert run([*args, "--training.exp_name", "new"]) == 0


def test_a_stopped_run_goes_on_after_its_betons_were_written_alike(args, data, tmp_path, monkeypatch):
    stopped_and_resumed(args, monkeypatch, 3)
    plain = [*args, "--training.outdir", str(tmp_path / "other")]
    with monkeypatch.context() as patched:
        in_step(patched, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(plain) == 128 + signal.SIGTERM
    for split in SPLITS:
        write(data, split)
    assert run(plain) == 0
    assert lines_of(folder_of(tmp_path / "runs")) == lines_of(folder_of(tmp_path / "other"))


def test_a_checkpoint_of_other_data_is_refused_though_the_folder_has_no_record(args, data, tmp_path, capsys):
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    for name in ("results.json", DATA_NAME, "checkpoints/phases.json"):
        (folder / name).unlink()
    write(data, "train", seed=9)
    assert run(args) == 1
    assert f"{LATEST_NAME} belongs to other data: the rows, attributes and images" in capsys.readouterr().err


def test_a_folder_in_which_nothing_was_trained_takes_other_data(args, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        in_step(patched, 1, lambda: write(data, "train", seed=9))
        assert run(args) == 1  # before the first checkpoint
    assert run(args) == 0
    assert (
        recorded_data(folder_of(tmp_path / "runs"))["train"]["images"]
        == open_beton(data / "toy_train.beton").content["images"]
    )


def test_a_run_of_an_older_version_is_finished_or_resumed_without_a_record(args, data, tmp_path):
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    (folder / DATA_NAME).unlink()
    results = json.loads((folder / "results.json").read_text())
    del results["data"]
    (folder / "results.json").write_text(json.dumps(results))
    write(data, "test", seed=9)
    assert run(args) == 0
    assert recorded_data(folder) is None


def test_an_old_beton_is_named_by_its_bytes_and_the_same_beton_with_a_name_goes_on(args, data, tmp_path):
    for split in SPLITS:
        sidecar = sidecar_path(data / f"toy_{split}.beton")
        content = json.loads(sidecar.read_text())
        del content["content"], content["sidecar_hash"]
        sidecar.write_text(json.dumps(content))
    assert run(args) == 0
    for split in SPLITS:
        write(data, split)
    assert run(args) == 0
    write(data, "test", seed=9)
    assert run(args) == 1


def test_a_beton_whose_images_are_not_those_of_its_sidecar_is_refused(args, data, capsys):
    with (data / "toy_test.beton").open("r+b") as file:
        file.seek(int(open_beton(data / "toy_test.beton").offsets[3]))
        file.write(b"\x01\x02\x03")
    assert run(args) == 1
    assert "toy_test.beton: the images are not those that its sidecar names" in capsys.readouterr().err


def test_a_test_set_may_be_added_later_and_a_missing_split_is_named(args, data, capsys):
    assert run(args) == 0
    for file in data.glob("toy_test.beton*"):
        shutil.copy(file, data / file.name.replace("toy_test", "toy_test_other"))
    assert run(args) == 0
    for file in data.glob("toy_val.beton*"):
        file.unlink()
    assert run([*args, "--training.selection", "last"]) == 0  # another configuration, another folder
    write(data, "val", seed=9)
    assert run(args) == 1
    assert "of 'val' (toy_val.beton) are not the same" in capsys.readouterr().err


def test_a_finished_run_is_probed_and_pictured_on_its_own_data_only(args, data, tmp_path):
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    probe_run(folder, 8)
    write(data, "test", seed=9)
    with pytest.raises(DataError, match=r"version_0 belongs to other data: the rows, attributes and images of 'test'"):
        probe_run(folder, 8)
    with pytest.raises(DataError, match="belongs to other data"):
        worst_mistakes(folder, "test", torch.device("cpu"))
