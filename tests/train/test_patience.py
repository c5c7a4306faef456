"""Early stopping and the schedule plateau: counted in evaluations, and resumed to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed
from torch import nn

from debeton.nets.checkpoint import load_checkpoint
from debeton.train.keeper import PhaseKeeper
from debeton.train.loop import TrainState
from debeton.train.metrics import GroupMeter
from debeton.train.objective import CrossEntropy, Precision
from debeton.train.pace import Pace
from debeton.train.results import ResultLog

CPU = torch.device("cpu")


def train_on(folder: Path, scores: list[float], **options: int | None) -> PhaseKeeper:
    """Go through epochs whose validation accuracies are given, until the keeper ends the phase."""
    model = nn.Linear(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    state = TrainState(model, CrossEntropy(), optimizer, Precision("fp32", CPU), GroupMeter(4, 2, CPU))

    def measured(_: nn.Module) -> dict[str, float | None]:
        score = scores[state.epoch - 1]
        names = ("accuracy", "worst_group_accuracy", "mean_group_accuracy")
        others = ("bias_aligned_accuracy", "bias_conflicting_accuracy")
        return {**dict.fromkeys(names, score), **dict.fromkeys(others)}

    folder.mkdir(exist_ok=True)
    log = ResultLog(folder / "results.jsonl")
    keeper = PhaseKeeper(
        "train",
        state,
        folder,
        log,
        {},
        measured,
        "worst_group",
        epochs=len(scores),
        pace=Pace(len(scores)),
        **options,  # type: ignore[arg-type]
    )
    while state.epoch < len(scores) and not keeper.reason_to_end:
        state.epoch += 1
        keeper.after_epoch({"loss": 1.0, "accuracy": 0.5}, 1.0)
    return keeper


@pytest.mark.parametrize(
    ("scores", "eval_epochs", "patience", "last"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.1, 0.9], 1, 2, 4),  # an equal accuracy is not better
        ([0.1, 0.3, 0.2, 0.4, 0.1, 0.2], 1, 2, 6),  # the last epoch is the last anyway
        ([0.5, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1], 1, 3, 4),
        ([0.0, 0.5, 0.0, 0.4, 0.0, 0.4, 0.0, 0.9], 2, 2, 6),  # evaluations at 2, 4, 6
        ([0.5, 0.4, 0.3], 1, None, 3),
    ],
)
def test_training_ends_after_patience_evaluations_without_a_better_one(tmp_path, scores, eval_epochs, patience, last):
    keeper = train_on(tmp_path, scores, patience=patience, eval_epochs=eval_epochs)
    assert keeper.state.epoch == last
    assert bool(keeper.reason_to_end) == (last < len(scores))
    assert load_checkpoint(tmp_path / "checkpoint_latest.pt")["epoch"] == last


@pytest.mark.parametrize("lr_patience", [1, 2, 3])
def test_plateau_drops_where_torchs_schedule_does(tmp_path, lr_patience):
    """torch reduces at the first epoch beyond its patience, so its patience is one less."""
    scores = torch.randint(20, (40,), generator=torch.Generator().manual_seed(lr_patience)).div(20).tolist()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.5, patience=lr_patience - 1, threshold=0, eps=0
    )
    drops = []
    for epoch, score in enumerate(scores, 1):
        before = optimizer.param_groups[0]["lr"]
        schedule.step(score)
        drops += [epoch] if optimizer.param_groups[0]["lr"] < before else []
    assert len(drops) > 3
    assert train_on(tmp_path, scores, lr_patience=lr_patience).state.drops == drops


# --- whole runs ----------------------------------------------------------------------------------

# A learning rate so small that no epoch is better than the first.
STILL = ["--training.lr", "1e-9", "--training.momentum", 0, "--model.bn_mode", "eval"]
PLATEAU = ["--training.lr_scheduler", "plateau", "--training.lr_patience", 1, "--training.warmup_epochs", 0.5]


def test_a_run_that_ends_early_says_where_and_why_and_its_rates_have_dropped(toy_args, tmp_path, capsys):
    words = [*STILL, *PLATEAU, "--training.patience", 2, "--training.epochs", 9]
    assert run([*toy_args, *words, "--training.batch_size", 256]) == 0
    folder = folder_of(tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text())
    train = [line for line in lines_of(folder) if line["split"] == "train"]
    best = results["selected_epoch"]
    assert [line["epoch"] for line in train] == list(range(1, best + 3))
    assert results["ended_early"]["train"].startswith(f"epoch {best + 2} of 9: 2 evaluations without a better ")
    assert [line["lr"] for line in train][best - 1 :] == pytest.approx([1e-9, 1e-9, 1e-10])
    assert "ended early, at epoch" in capsys.readouterr().err


@pytest.mark.parametrize("step", [5, 7])
def test_plateau_and_early_stopping_resume_to_the_bit(toy_args, tmp_path, monkeypatch, step):
    words = [
        *PLATEAU,
        "--training.patience",
        3,
        "--training.epochs",
        6,
        "--training.batch_size",
        256,
        "--training.lr",
        1,
    ]
    outcomes = []
    for name in ("whole", "stopped"):
        args = [*toy_args, *words, "--training.outdir", tmp_path / name]
        if name == "stopped":
            stopped_and_resumed(args, monkeypatch, step)
        else:
            assert run(args) == 0
        folder = folder_of(tmp_path / name)
        content = load_checkpoint(folder / "checkpoints" / "checkpoint_latest.pt")
        outcomes.append((content["drops"], content["epoch"], [line["lr"] for line in lines_of(folder)], content))
    assert outcomes[0][:3] == outcomes[1][:3]
    weights = [outcome[3]["state_dict"] for outcome in outcomes]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--training.patience", 2, "--training.selection", "last"], "training.selection is last"),
        (["--training.lr_scheduler", "plateau", "--training.method", "cdpm"], "trains no classifier"),
        (["--training.lr_scheduler", "cyclic", "--training.warmup_epochs", 2], "rises until epoch 5"),
    ],
)
def test_what_has_no_evaluation_or_two_warm_ups_is_refused_before_training(toy_args, capsys, words, sentence):
    assert run([*toy_args, *words, "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_validation_split_patience_is_refused(toy_args, toy_betons, tmp_path, capsys):
    for path in toy_betons.glob("toy_train.beton*"):
        shutil.copy(path, tmp_path)
    words = ["--training.data_root", tmp_path, "--training.patience", 2, "--dry-run"]
    assert run([*toy_args, *words]) == 2
    assert "there is no validation split" in capsys.readouterr().err
