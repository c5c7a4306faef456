"""Run folders: a run that fails before its first step leaves none, and one that was trained keeps its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.running import folder_of, run

from debeton.config import load
from debeton.system.errors import DataError
from debeton.train.objective import Objective
from debeton.train.run_folder import claim_folder, find_folder, next_folder, remove_if_empty
from debeton.train.stop import StopRequest


@pytest.mark.parametrize(
    ("extra", "status", "said"),
    [
        (["--training.method", "scale"], 2, "target split"),  # refused by the method's check
        (["--training.decoder_val", "center_crop_8_4"], 2, "center_crop"),
        (["--model.checkpoint", "nowhere.pt"], 1, "nowhere.pt"),
        (["--training.method", "dfr", "--dfr.base", "pretrained"], 2, "dfr.base is 'pretrained'"),
    ],
)
def test_a_refused_run_leaves_no_folder(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], status: int, said: str
) -> None:
    assert run([*toy_args, "--logging.tensorboard", "true", *extra]) == status
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("step", [1, 11])
def test_an_error_in_the_first_step_leaves_no_folder_and_a_later_one_all_files(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    backward, steps = Objective.backward, []

    def out_of_memory(self, *arguments):
        steps.append(1)
        if len(steps) == step:
            raise RuntimeError("out of memory")
        return backward(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(toy_args)
    if step == 1:
        assert not list((tmp_path / "runs").glob("*"))
    else:
        folder = folder_of(tmp_path / "runs")
        assert (folder / "checkpoints" / "checkpoint_latest.pt").is_file()
        assert (folder / "results.jsonl").is_file()


def test_a_resumed_run_that_fails_in_its_first_step_keeps_its_files(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "agreed", lambda self, step, every, device: 15)
        assert run(toy_args) == 143
    folder = folder_of(tmp_path / "runs")
    kept = sorted(path.name for path in folder.rglob("*"))

    def fail(self, *arguments):
        raise DataError("the disk is gone")

    monkeypatch.setattr(Objective, "backward", fail)
    assert run(toy_args) == 1
    assert sorted(path.name for path in folder.rglob("*")) == kept


def test_a_folder_with_anything_worth_keeping_is_kept(toy_args: list[str]) -> None:
    config = load([], toy_args)
    for name in ("error_set.csv", "results.jsonl", "synthetic/0.png", "checkpoints/phase_first.pt"):
        folder = claim_folder(config)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
        assert not remove_if_empty(folder)
        (folder / name).unlink()
        if (folder / name).parent not in (folder, folder / "checkpoints"):
            (folder / name).parent.rmdir()
    assert next_folder(config) == folder.with_name("version_1")
    assert remove_if_empty(folder)
    assert not folder.parent.exists()


def test_a_copy_of_a_run_folder_under_another_name_is_no_version(toy_args: list[str]) -> None:
    config = load([], [str(word) for word in toy_args])
    folder = claim_folder(config)
    for name in ("version_0_old", "version_x", "version_"):
        shutil.copytree(folder, folder.with_name(name))
    assert find_folder(config) == claim_folder(config) == folder
    assert next_folder(config).name == "version_1"


def test_a_run_goes_on_in_its_folder_after_a_version_of_lower_number_was_removed(toy_args: list[str]) -> None:
    named = [*map(str, toy_args), "--training.exp_name", "mine"]
    first, config = load([], [*named, "--training.seed", "1"]), load([], [*named, "--training.seed", "2"])
    other, own = claim_folder(first), claim_folder(config)
    assert (other.name, own.name) == ("version_0", "version_1")
    shutil.rmtree(other)
    assert claim_folder(config) == own
    assert claim_folder(first) == other  # the number is free again
