"""More epochs for a finished run: bit-equal to a run of the full length, where the rates allow it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.pages import run_block
from tests.running import lines_of, run

from debeton.config import load
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.extension import first_other_rate


def command(toy_args: list[str], outdir: Path, epochs: int, *extra: str) -> list[str]:
    words = ["--training.lr_scheduler", "constant", "--data.mini_dataset", "0.2", "--training.batch_size", "32"]
    return [*toy_args, "--training.outdir", str(outdir), *words, "--training.epochs", str(epochs), *extra]


def folder_with(outdir: Path, epochs: int) -> Path:
    """The run folder of so many epochs."""
    (folder,) = [p.parent for p in outdir.rglob("config.yaml") if f"\n  epochs: {epochs}\n" in section(p)]
    return folder


def section(config: Path) -> str:
    text = config.read_text()
    return text[text.index("\ntraining:") :].partition("\nresolution:")[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("scheduler", "extra"),
    [
        ("constant", ["--training.ema", "0.9", "--training.warmup_epochs", "1.5"]),
        ("steplr", ["--training.step_size", "1", "--training.optimizer", "adam"]),
        ("multisteplr", ["--training.lr_milestones", "1,2", "--training.selection", "last"]),
    ],
)
def test_more_epochs_continue_a_finished_run_bit_equal_to_a_run_of_that_length(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str, extra: list[str]
) -> None:
    extra = ["--training.lr_scheduler", scheduler, *extra]
    assert run(command(toy_args, tmp_path / "whole", 3, *extra)) == 0
    assert run(command(toy_args, tmp_path / "parts", 2, *extra)) == 0
    shorter = folder_with(tmp_path / "parts", 2)
    before = contents(shorter)
    capsys.readouterr()
    assert run(command(toy_args, tmp_path / "parts", 3, *extra)) == 0
    said = capsys.readouterr().err
    assert f"phase 'train' continues from epoch 2 of {shorter}" in said
    assert "epoch 2/3" not in said
    assert contents(shorter) == before
    whole, longer = folder_with(tmp_path / "whole", 3), folder_with(tmp_path / "parts", 3)
    assert lines_of(longer) == lines_of(whole)
    for name in ("checkpoint_latest.pt", "phase_train.pt"):
        ours, theirs = (load_checkpoint(f / "checkpoints" / name) for f in (longer, whole))
        assert ours["config_hash"] == theirs["config_hash"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(value, ours["state_dict"][key]), (name, key)
    results, expected = (json.loads((f / "results.json").read_text()) for f in (longer, whole))
    assert {**results, "timing": 0} == {**expected, "timing": 0}
    phases = json.loads((longer / "checkpoints" / "phases.json").read_text())
    assert phases["train"]["continues"] == str(shorter)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--training.lr_scheduler", "cosine"], "the rates of training.lr_scheduler cosine depend on the number of"),
        (["--training.eval_epochs", "2"], "epoch 1 was evaluated there as the last one"),
    ],
)
def test_a_run_that_cannot_continue_says_why_and_starts_anew(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], reason: str
) -> None:
    assert run(command(toy_args, tmp_path, 1, *extra)) == 0
    capsys.readouterr()
    assert run(command(toy_args, tmp_path, 2, *extra)) == 0
    said = " ".join(capsys.readouterr().err.split())
    shorter = folder_with(tmp_path, 1)
    assert f"{shorter} has 1 epoch of phase 'train'; this run starts it anew, because {reason}" in said
    assert "epoch 1/2" in said


def test_another_setting_beside_the_epochs_starts_anew_in_silence(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(toy_args, tmp_path, 1)) == 0
    capsys.readouterr()
    assert run(command(toy_args, tmp_path, 2, "--training.lr", "0.01")) == 0
    said = capsys.readouterr().err
    assert "epoch 1/2" in said
    assert "continues" not in said
    assert "anew" not in said


def test_the_commands_of_the_page_continue_the_shorter_run(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.yaml").write_text(load([], toy_args).dump())
    run_block("usage.md", "more_epochs")
    assert f"phase 'train' continues from epoch 2 of {folder_with(tmp_path, 2)}" in capsys.readouterr().err


def test_the_first_step_with_another_rate_is_found() -> None:
    assert first_other_rate(lambda step: 1.0, lambda step: 1.0 if step < 7 else 0.5, 10) == 7
    assert first_other_rate(lambda step: 1.0, lambda step: 1.0 if step < 10 else 0.5, 10) is None
    assert first_other_rate(lambda step: 1.0, lambda step: step < 3e5, 1_000_000) is not None
