"""Bits that flip on a disk: each is noticed when the file is read, or is harmless, as in padding."""

from __future__ import annotations

import json
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.flips import check_flips, flip
from tests.running import run

from debeton.data.views.row_lists import read_marks
from debeton.diffusion.model import Conditions, Shape, load_model, make_network, make_schedule, save_model
from debeton.methods.parts.marked_rows import read_or_write_table
from debeton.nets.checkpoint import (
    BEST_NAME,
    CHECKPOINT_FOLDER,
    LATEST_NAME,
    load_checkpoint,
    load_counters,
    save_checkpoint,
)
from debeton.nets.models import make_model
from debeton.nets.trained import load_trained
from debeton.nets.weight_files import CARD, WEIGHTS, read_weight_file
from debeton.system.digests import KEY, digest_beside, file_digest, keep_digest
from debeton.system.errors import DamagedFile
from debeton.tools.export import export
from debeton.train.phase import PhaseFiles, PhaseRecord

CONTENT = {
    "state_dict": {"a": torch.arange(60.0).reshape(20, 3), "b": torch.arange(7), "none": torch.zeros(0)},
    "optimizer": {0: {"m": torch.ones(5, dtype=torch.bfloat16)}},
    "epoch": 3,
    "best": [1.5, "hé"],
}


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(is_same(one[k], other[k]) for k in one)
    return bool(one == other)


# --- checkpoints and phase files -----------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "version_0" / CHECKPOINT_FOLDER / BEST_NAME
    save_checkpoint(path, CONTENT)
    return path


def test_every_flipped_bit_of_a_checkpoint_is_noticed_or_harmless(checkpoint):
    noticed, harmless = check_flips(
        checkpoint, 37, lambda: load_checkpoint(checkpoint), lambda found: is_same(CONTENT, found)
    )
    assert noticed > 250
    assert harmless > 100  # padding between the tensors, and dates


def test_every_flipped_bit_is_noticed_where_only_the_numbers_are_read(checkpoint):
    counters = {"epoch": 3}
    check_flips(checkpoint, 61, lambda: load_counters(checkpoint), lambda found: found == counters)


def storage_start(path: Path, name: str) -> int:
    """Return the position of the first byte of a member in a zip file."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(name).header_offset
    return header + 30 + sum(int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28))


def test_a_flipped_weight_is_told_with_its_file_and_what_to_do(checkpoint):
    inside = storage_start(checkpoint, "archive/data/0")
    flip(checkpoint, inside + 2, 6)
    run = re.escape(str(checkpoint.parents[1]))
    message = (
        rf"^{re.escape(str(checkpoint))} is damaged: its part '.*/data/0' is not what was written there; put back a "
        rf"copy of it; or remove the run's folder {run}, and the same command trains it again$"
    )
    for read in (load_checkpoint, read_weight_file):
        with pytest.raises(DamagedFile, match=message):
            read(checkpoint)
    assert load_counters(checkpoint) == {"epoch": 3}  # it reads no weight
    latest = checkpoint.with_name(LATEST_NAME)
    checkpoint.rename(latest)
    with pytest.raises(DamagedFile, match=r"or remove it, and the same command trains its phase again; or remove the"):
        load_checkpoint(latest)
    elsewhere = latest.rename(checkpoint.parents[1] / "other.pt")
    with pytest.raises(DamagedFile, match=r"is not what was written there; take another copy of it$"):
        load_checkpoint(elsewhere)


def test_a_bit_that_makes_torch_take_weights_for_a_folder_is_noticed(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive:
        directory, start = archive.infolist(), archive.start_dir
    entry = start + sum(46 + len(m.filename) + len(m.extra) for m in directory[: _place(directory, "archive/data/0")])
    flip(checkpoint, entry + 38, 4)
    with pytest.raises(DamagedFile, match="its part 'archive/data/0' is not what was written there"):
        load_checkpoint(checkpoint)


def _place(members: list[zipfile.ZipInfo], name: str) -> int:
    return [member.filename for member in members].index(name)


def test_files_without_checksums_stay_readable(tmp_path):
    path = tmp_path / "other.pt"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert is_same(CONTENT, load_checkpoint(path))
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert is_same(CONTENT, load_checkpoint(path))


def test_every_flipped_bit_of_an_older_format_is_one_sentence_or_none(tmp_path):
    """The format before torch 1.6 has no checksum. No damage may end in a traceback."""
    path = tmp_path / "old.pt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    noticed, _ = check_flips(path, 61, lambda: load_checkpoint(path), lambda found: True)
    assert noticed > 50


def finished_phase(folder: Path) -> Path:
    """Leave a finished phase in a run folder, and return the file of its weights."""
    checkpoints = folder / CHECKPOINT_FOLDER
    save_checkpoint(checkpoints / BEST_NAME, CONTENT)
    PhaseFiles(checkpoints).finish("train", PhaseRecord(1.0, identity="same"))
    return checkpoints / "phase_train.pt"


def test_a_finished_phase_with_a_flipped_weight_is_not_taken_over_from_another_run(tmp_path, caplog):
    folders = [tmp_path / "version_0", tmp_path / "version_1"]
    weights = [finished_phase(folder) for folder in folders]
    files = PhaseFiles(tmp_path / "version_2" / CHECKPOINT_FOLDER)
    assert files.find("train", "same", folders) == folders[0]
    flip(weights[0], storage_start(weights[0], "archive/data/0"))
    assert files.find("train", "same", folders) == folders[1]
    assert f"phase 'train' is not taken from there: {weights[0]} is damaged" in caplog.text
    with pytest.raises(DamagedFile, match=r"phase_train\.pt is damaged"):
        PhaseFiles(folders[0] / CHECKPOINT_FOLDER).take_over("train", torch.nn.Linear(1, 1), torch.device("cpu"))


@pytest.mark.parametrize("name", [LATEST_NAME, "phase_train.pt"])
def test_a_damaged_run_is_not_continued_by_more_epochs(toy_args, tmp_path, capsys, name):
    words = [*toy_args, "--training.lr_scheduler", "constant", "--data.mini_dataset", "0.1"]
    words += ["--training.outdir", str(tmp_path), "--training.epochs"]
    assert run([*words, "1"]) == 0
    (shorter,) = [path.parent for path in tmp_path.rglob("config.yaml")]
    damaged = shorter / CHECKPOINT_FOLDER / name
    flip(damaged, storage_start(damaged, "archive/data/0"))
    capsys.readouterr()
    assert run([*words, "2"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"phase 'train' is not continued from there: {damaged} is damaged" in said
    assert "epoch 1/2" in said


# --- exported models, diffusion models and tables --------------------------------------------------------------


@pytest.fixture
def exported(tmp_path) -> Path:
    model = make_model("small_resnet", 2)
    network = {"arch": "small_resnet", "num_classes": 2, "mean": [0.5] * 3, "std": [0.25] * 3, "blurpool": False}
    inputs = {"dataset": "toy", "classes": ["a", "b"], "resolution": 16, "decoder": "simple", "tta": False}
    save_checkpoint(tmp_path / "c.pt", {"model": network, "inputs": inputs, "state_dict": model.state_dict()})
    return export(tmp_path / "c.pt", tmp_path / "model")


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_every_flipped_bit_of_an_exported_model_is_noticed_or_harmless(exported, name):
    """The bits of the description that are harmless are in white space, or in the names of its digests."""

    def read() -> dict[str, Any]:
        file = read_weight_file(exported)
        return {"weights": dict(file.weights), **{key: value for key, value in file.content.items() if key != KEY}}

    right, path = read(), exported / name
    step = 8 * path.stat().st_size // 300 // 2 * 2 + 1

    def is_right(found: dict[str, Any]) -> bool:
        return all(is_same(value, found[key]) for key, value in right.items())

    noticed, harmless = check_flips(path, step, read, is_right)
    assert noticed > 200
    assert harmless == 0 or name == CARD


def test_weights_and_description_of_two_exports_do_not_pass_for_one_model(exported, tmp_path):
    first = (exported / WEIGHTS).read_bytes()
    content = load_checkpoint(tmp_path / "c.pt")
    content["state_dict"]["fc.bias"] += 1
    save_checkpoint(tmp_path / "c.pt", content)
    export(tmp_path / "c.pt", exported)
    (exported / WEIGHTS).write_bytes(first)
    weights = re.escape(str(exported / WEIGHTS))
    with pytest.raises(DamagedFile, match=rf"^{weights} is not what was written: .* export the model again$"):
        load_trained(exported)
    (exported / WEIGHTS).unlink()
    with pytest.raises(DamagedFile, match=rf"^{weights} is missing, and model\.json names it; export the model again$"):
        load_trained(exported)


def test_a_description_that_was_edited_is_refused_unless_its_digests_are_removed(exported):
    card = json.loads((exported / CARD).read_text())
    card["inputs"]["classes"] = ["cat", "dog"]
    (exported / CARD).write_text(json.dumps(card))
    with pytest.raises(DamagedFile, match="if you changed it on purpose, remove 'sha256' from it"):
        load_trained(exported)
    del card[KEY]  # as older versions wrote it
    (exported / CARD).write_text(json.dumps(card))
    assert load_trained(exported).classes == ("cat", "dog")


def test_weights_of_another_program_are_compared_with_the_digest_that_is_kept_beside_them(exported, tmp_path):
    weights = (exported / WEIGHTS).rename(tmp_path / "other.safetensors")
    keep_digest(weights, file_digest(weights))
    assert len(read_weight_file(weights).weights) > 10
    flip(weights, weights.stat().st_size - 3)
    with pytest.raises(DamagedFile, match=rf"its SHA-256 is not that in {digest_beside(weights).name}; take another"):
        read_weight_file(weights)


def test_every_flipped_bit_of_a_diffusion_model_is_noticed_or_harmless(tmp_path):
    conditions = Conditions("group", (("left", "dark"), ("left", "light")), (True, True), "toy", "abc")
    save_model(tmp_path, make_network(2, (8, 8), Shape((8, 16), 1, 1)), make_schedule("v", 100), conditions)

    def read() -> tuple[Any, ...]:
        network, schedule, found = load_model(tmp_path)
        return network.state_dict(), dict(network.unet.config), dict(schedule.config), found

    right = read()

    def is_right(found: tuple[Any, ...]) -> bool:
        return all(is_same(one, other) for one, other in zip(right, found, strict=True))

    read_files = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "model_index.json"}
    assert len(read_files) == 4
    for path in sorted(read_files):
        step = 8 * path.stat().st_size // 30 // 2 * 2 + 1
        noticed, harmless = check_flips(path, step, read, is_right)
        assert noticed > 20, path
        assert harmless == 0 or path.name == "conditions.json"
    older = {key: value for key, value in json.loads((tmp_path / "conditions.json").read_text()).items() if key != KEY}
    (tmp_path / "conditions.json").write_text(json.dumps(older))
    assert is_right(read())


def test_every_flipped_bit_of_a_table_of_marked_rows_is_noticed(tmp_path, paper_view):
    view, path, network = paper_view([0, 1, 0, 1], [0, 0, 1, 1]), tmp_path / "error_set.csv", torch.nn.Linear(2, 2)

    def read() -> list[bool]:
        marks = partial(read_marks, column="error")
        return read_or_write_table(path, view, network, lambda: {"error": [0, 1, 1, 0]}, marks).tolist()

    right = read()
    assert right == [False, True, True, False]
    noticed, harmless = check_flips(path, 3, read, lambda found: found == right)
    assert harmless == 0
    assert noticed > 200
    check_flips(path.with_suffix(".made_of.json"), 5, read, lambda found: found == right)
