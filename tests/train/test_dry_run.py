"""The dry run on one screen: it fits there, says what would run, measures, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.running import folder_of, run

from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.methods import outline, run_method
from debeton.train import trial
from debeton.train.dry_run import prepare
from debeton.train.time_guess import final_seconds, phase_seconds
from debeton.train.trial import Speed, first_rows, rehearse, together

HEADINGS = [
    "run folder",
    "method",
    "settings",
    "device",
    "network",
    "phases",
    "groups",
    "selection",
    "time",
    "warnings",
]


def screen(args: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run([*args, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def section(lines: list[str], heading: str) -> str:
    """The text of one heading, with single spaces."""
    first = next(k for k, line in enumerate(lines) if line.startswith(heading))
    last = next((k for k in range(first + 1, len(lines)) if not lines[k].startswith(" ")), len(lines))
    return " ".join(" ".join(lines[first:last]).split())


def test_the_screen_has_every_part_and_writes_nothing(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = screen(toy_args, capsys)
    assert [line[:13].strip() for line in lines if not line.startswith(" ")] == HEADINGS
    assert len(lines) <= 40
    assert max(len(line.replace(str(tmp_path), "")) for line in lines) <= 100
    assert section(lines, "run folder").endswith("version_0 (new)")
    assert "lr_scheduler cosine" in section(lines, "settings")
    assert "lr 0.05" in section(lines, "settings")
    assert "seed" not in section(lines, "settings")  # as it is by default
    assert "small_resnet, 307,618 parameters, all trained" in section(lines, "network")
    assert re.search(r"1 of 1 train 2 8 512 64 0\.05 cosine [\d.]+ m?s", section(lines, "phases"))
    assert re.search(r"all 512 128 256$", section(lines, "groups"))
    assert re.search(r"time about [\d.]+ m?s .* one step of 64 rows takes [\d.]+ m?s", section(lines, "time"))
    assert section(lines, "warnings") == "warnings none"
    assert not (tmp_path / "runs").exists()


def test_the_screen_says_where_a_run_stands_and_what_differs_from_an_unfinished_one(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from debeton.train.stop import StopRequest

    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "agreed", lambda self, step, every, device: 15 if step == 11 else 0)
        assert run(toy_args) == 143
    folder = folder_of(tmp_path / "runs")
    lines = screen(toy_args, capsys)
    assert section(lines, "run folder") == (
        f"run folder {folder} (resumed: phase 'train' has 1 epoch and 3 steps of the next)"
    )
    assert " left of about " in section(lines, "time")
    other = [*toy_args, "--training.lr", "0.1", "--training.clip_grad", "1"]
    said = section(screen(other, capsys), "run folder")
    assert f"note: {folder} is unfinished: phase 'train' has 1 epoch and 3 steps of the next." in said
    assert "This command differs in training.lr: 0.05 -> 0.1, training.clip_grad: null -> 1.0, so it begins" in said
    assert run([*other, "--training.epochs", "1"]) == 0
    assert f"note: {folder} is unfinished" in capsys.readouterr().err
    assert run(toy_args) == 0
    assert "(finished: this command would do nothing)" in section(screen(toy_args, capsys), "run folder")
    assert "unfinished" not in section(screen(other, capsys), "run folder")


def test_warnings_of_a_run_are_on_the_screen(toy_args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = screen([*toy_args, "--data.mini_dataset", "0.1", "--training.order", "quasi_random"], capsys)
    without_test = [
        *toy_args,
        "--data.test_path",
        toy_args[toy_args.index("--training.data_root") + 1] + "/toy_val.beton",
    ]
    assert section(lines, "warnings") == "warnings none"
    assert "rows of test are also in val" in section(screen(without_test, capsys), "warnings")


def test_whole_settings_belong_to_a_dry_run(toy_args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*toy_args, "--all"]) == 2
    assert "--all belongs to --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "names"),
    [("jtt", ["1 of 2 identify", "2 of 2 train"]), ("dfr", ["1 of 2 train", "2 of 2 dfr"]), ("lff", ["1 of 1 train"])],
)
def test_the_phases_of_a_method_are_on_the_screen(
    method: str, names: list[str], toy_args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    phases = section(screen([*toy_args, "--training.method", method], capsys), "phases")
    assert re.findall(r"\d of \d \w+", phases) == names
    assert ("512+" in phases) == (method == "jtt")


def test_the_first_phase_is_tried_as_the_method_begins_it(toy_args: list[str]) -> None:
    run = prepare(load([], [*toy_args, "--training.method", "lff"]))
    start = rehearse(run, run_method)
    assert start is not None
    assert (start.phase, type(start.objective).__name__, start.view.name) == ("train", "LearningFromFailure", "train")
    assert sum(p.numel() for p in start.objective.parameters()) == sum(p.numel() for p in start.model.parameters())


def test_steps_and_evaluations_add_up_to_the_time(toy_args: list[str]) -> None:
    words = ["--training.eval_epochs", "2", "--training.epochs", "5", "--training.oracle", "true"]
    run = prepare(load([], [*toy_args, *words]))
    (phase,) = outline(run)
    # 5 epochs of 8 steps of 2 s; after epochs 2, 4 and 5, 128 validation and 256 test rows of 0.01 s
    assert phase_seconds(run, phase, Speed(2.0, 64, 64, 0.0), 0.01) == pytest.approx(5 * 8 * 2 + 3 * 384 * 0.01)
    assert phase_seconds(run, phase, Speed(0, 0, 64, 0, on_features=True), 0.01) == pytest.approx((512 + 384) * 0.01)
    assert final_seconds(run, 0.01) == pytest.approx(384 * 0.01)


def test_decoding_shares_the_cores_of_a_cpu_and_runs_beside_a_gpu() -> None:
    assert together(3.0, 2.0, torch.device("cpu")) == 5.0
    assert together(3.0, 2.0, torch.device("cuda")) == 3.0


def test_a_step_that_takes_too_long_is_tried_on_a_part_of_the_batch(
    toy_args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(load([], toy_args))
    clock = iter(float(t) for t in range(0, 10_000, 2))  # every look at the clock is 2 seconds later
    monkeypatch.setattr(trial, "_now", lambda device: next(clock))
    start = rehearse(run, run_method)
    assert start is not None
    speed = trial.measure_training(run, start)
    assert (speed.rows, speed.batch) == (8, 64)  # 4 rows in 2 s: 8 rows in the 4 s of LONGEST_STEP
    assert speed.step - speed.decode == pytest.approx(2 * 64 / 8)


def test_the_first_rows_of_a_batch_keep_their_columns() -> None:
    numbers = torch.arange(5)
    batch = Batch(
        torch.rand(5, 3, 2, 2), numbers, numbers, numbers, numbers, numbers, triggered=(torch.rand(5, 3, 2, 2),)
    )
    few = first_rows(batch, 2)
    assert len(few) == 2
    assert few.image.shape == few.triggered[0].shape == (2, 3, 2, 2)
    assert few.group.tolist() == [0, 1]


def test_a_method_that_does_not_declare_its_phases_is_named(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], plugins_end_here: None
) -> None:
    plugin = tmp_path / "warm.py"
    plugin.write_text(
        "import debeton\n\n"
        '@debeton.register_method("warm", "warms up first", paper="-", needs="label")\n'
        "def warm(run):\n"
        '    model = debeton.fit_phase(run, run.views["train"], debeton.CrossEntropy(), phase="warm_up")\n'
        '    return debeton.fit_phase(run, run.views["train"], debeton.CrossEntropy(), model=model)\n'
    )
    args = [*toy_args, "--plugins", str(plugin), "--training.method", "warm", "--training.epochs", "1"]
    assert "method 'warm' begins with phase 'warm_up' and declares 'train'" in section(screen(args, capsys), "warnings")
    assert run(args) == 0
    said = capsys.readouterr().err
    assert "warning: method 'warm' trains phase 'warm_up' and declares no such phase" in said
    assert "phase 'train' (1 of 1): 1 epoch of 8 steps" in said
