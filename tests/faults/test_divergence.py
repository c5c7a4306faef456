"""Training that diverges ends with one sentence and status 1: nothing that is not finite is kept or reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.running import folder_of, run
from torch import Tensor, nn

from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.nets.finite import all_finite, describe_non_finite
from debeton.system.json_text import json_text
from debeton.train import evaluation, objective
from debeton.train.objective import Objective

STEPS = 8  # of an epoch: 512 rows in batches of 64
KEPT = ("checkpoint_latest.pt", "checkpoint_best.pt")


def breaking(change: Callable[[nn.Module], None], step: int) -> Callable[..., Any]:
    """Objective.backward that changes the network in its step number `step`, after the loss is computed."""
    backward, steps = Objective.backward, []

    def changed(self: Objective, model: nn.Module, *arguments: Any) -> Any:
        steps.append(1)
        output = backward(self, model, *arguments)
        if len(steps) == step:
            with torch.no_grad():
                change(model)
        return output

    return changed


def first_weight(model: nn.Module, value: float) -> None:
    set_first(next(model.parameters()), value)


def first_statistic(model: nn.Module, value: float) -> None:
    set_first(next(one for name, one in model.named_buffers() if name.endswith("running_var")), value)


def set_first(tensor: Tensor, value: float) -> None:
    tensor[(0,) * tensor.ndim] = value


def strict_lines(folder: Path) -> list[dict[str, Any]]:
    """results.jsonl, read by a reader that takes no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"results.jsonl holds {word}")

    text = (folder / "results.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def finite(weights: Mapping[str, Any]) -> bool:
    return all_finite(*(value for value in weights.values() if isinstance(value, Tensor)))


def one_sentence(said: str) -> str:
    """The error of a run, which is one line."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said
    return errors[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("change", "name"), [(first_weight, "stem.0.weight"), (first_statistic, "stem.1.running_var")])
def test_a_network_broken_in_the_very_last_step_leaves_no_result_and_the_epoch_before_whole(
    toy_args: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[nn.Module, float], None],
    name: str,
    value: float,
) -> None:
    monkeypatch.setattr(Objective, "backward", breaking(lambda model: change(model, value), 2 * STEPS))
    args = [*toy_args, "--training.selection", "average", "--training.eval_epochs", "1"]
    assert run(args) == 1
    said, folder = one_sentence(capsys.readouterr().err), folder_of(tmp_path / "runs")
    assert said.startswith("error: phase 'train': after step 16 (epoch 2), ")
    assert f"first '{name}' with {'nan' if change is first_weight or math.isnan(value) else value} in " in said
    assert "--training.lr" in said
    assert "--training.clip_grad" in said
    assert said.endswith(f"the state after epoch 1 is in {folder}/checkpoints/checkpoint_latest.pt")
    assert not (folder / "results.json").exists()
    assert not (folder / "checkpoints" / "phases.json").exists()
    assert {line["epoch"] for line in strict_lines(folder)} == {1}
    for kept in KEPT:
        content = load_checkpoint(folder / "checkpoints" / kept)
        assert content["epoch"] == 1
        assert finite(content["state_dict"])
    assert finite(load_checkpoint(folder / "checkpoints" / KEPT[0])["meter"])


def test_without_a_finished_epoch_the_run_leaves_nothing(
    toy_args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*toy_args, "--training.epochs", "1", "--training.lr", "1e5"]) == 1
    said = one_sentence(capsys.readouterr().err)
    assert "error: phase 'train': the loss is nan at step " in said
    assert said.endswith("no epoch is finished, so there is no checkpoint of it yet")
    assert not list((tmp_path / "runs").rglob("*.*"))


@example(exponent=37.9, optimizer="adamw", log_every=1)
@given(exponent=st.floats(-4, 38), optimizer=st.sampled_from(["sgd", "adamw"]), log_every=st.sampled_from([1, 3, 50]))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_every_learning_rate_a_run_ends_with_finite_results_or_with_one_sentence(
    toy_args: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    exponent: float,
    optimizer: str,
    log_every: int,
) -> None:
    outdir = tmp_path_factory.mktemp("rates")
    rate = ["--training.lr", f"{10**exponent!r}", "--training.optimizer", optimizer, "--training.epochs", "1"]
    status = run([*toy_args, *rate, "--training.log_every", log_every, "--training.outdir", outdir])
    said, found = capsys.readouterr().err, list(outdir.rglob("results.json"))
    if status == 1:
        assert one_sentence(said).startswith("error: phase 'train': ")
        assert not found
        assert not list(outdir.rglob("phase_train.pt"))
        return
    assert status == 0
    folder = folder_of(outdir)
    json_text(json.loads((folder / "results.json").read_text()), "results.json")
    assert strict_lines(folder)
    assert finite(load_checkpoint(folder / "checkpoints" / "checkpoint_best.pt")["state_dict"])


TRAINED = ["debian", "dfr", "eiil", "erm", "groupdro", "jtt", "lff", "mixup", "reweight"]
DIFFUSION = {"cdpm.widths": "8,16", "cdpm.layers": 1, "cdpm.attention": 0, "cdpm.batch_size": 64}


@pytest.mark.parametrize("method", [*TRAINED, "cdpm"])
def test_no_method_goes_on_with_a_network_that_diverged(
    toy_args: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    steps: list[int] = []
    own = DIFFUSION if method == "cdpm" else {}
    args = [*toy_args, "--training.method", method, "--training.epochs", "1"]
    step = torch.optim.Optimizer.zero_grad

    def zero_grad(self: torch.optim.Optimizer, *arguments: Any, **options: Any) -> None:
        steps.append(1)
        if len(steps) == 2:  # in the middle: methods of few steps in their first phase see it too
            set_first(self.param_groups[0]["params"][0].data, math.inf)
        step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", zero_grad)
    assert run([*args, *(word for key, value in own.items() for word in (f"--{key}", value))]) == 1
    said = one_sentence(capsys.readouterr().err)
    assert "nan at step" in said or "not finite" in said
    assert "--training.lr" in said
    assert not list((tmp_path / "runs").rglob("results.json"))
    assert not list((tmp_path / "runs").rglob("phase*"))


class Overflowing(nn.Module):
    """A network whose answer to its last row is infinite."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).clone()
        logits[-1, 0] = math.inf
        return logits


def overflowing_on(split: str) -> Callable[..., Any]:
    measure = evaluation.measure

    def measured(model: nn.Module, loader: Any, *arguments: Any, **options: Any) -> Any:
        broken = loader.view.name == split
        return measure(Overflowing(model) if broken else model, loader, *arguments, **options)

    return measured


def test_a_validation_loss_that_is_not_finite_ends_the_run_with_the_rows(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "measure", overflowing_on("val"))
    assert run([*toy_args, "--training.eval_batch_size", "128"]) == 1
    said, folder = one_sentence(capsys.readouterr().err), folder_of(tmp_path / "runs")
    assert "phase 'train': after step 8 (epoch 1), the loss of view 'val' is " in said
    assert "on 1 of 128 rows of" in said
    assert "first row 127" in said
    assert [path.name for path in (folder / "checkpoints").iterdir()] == []


def test_a_test_loss_that_is_not_finite_leaves_no_results(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*toy_args, "--training.epochs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "measure", overflowing_on("test"))
        assert run(args) == 1
    said, folder = one_sentence(capsys.readouterr().err), folder_of(tmp_path / "runs")
    assert "error: the loss of view 'test' is " in said
    assert "its training diverged" in said
    assert not list(folder.glob("results.json")) + list(folder.glob("results.pt"))
    assert not list(folder.glob("*.csv"))
    assert run(args) == 0  # the phase itself is whole
    assert "epoch 1 of it is used" in capsys.readouterr().err


@pytest.fixture
def broken_weights(trained_toy: tuple[Path, Path], tmp_path: Path) -> Path:
    """A checkpoint of a trained run with one NaN, as versions before could leave it."""
    content = load_checkpoint(trained_toy[0] / "checkpoints" / "checkpoint_best.pt")
    first_weight_of(content["state_dict"], math.nan)
    path = tmp_path / "broken.pt"
    save_checkpoint(path, content)
    return path


def first_weight_of(weights: Mapping[str, Tensor], value: float) -> None:
    set_first(next(tensor for name, tensor in weights.items() if name.endswith("conv1.weight")), value)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--checkpoint", "BROKEN", "--data", "TEST"],
        ["predict", "--checkpoint", "BROKEN", "--images", "IMAGES", "--out", "OUT/p.csv"],
        ["train", "--model.checkpoint", "BROKEN"],
        ["train", "--training.method", "dfr", "--dfr.checkpoint", "BROKEN"],
    ],
    ids=["evaluate", "predict", "model.checkpoint", "dfr.checkpoint"],
)
def test_weights_of_a_network_that_diverged_are_refused_wherever_they_are_read(
    command: list[str],
    broken_weights: Path,
    trained_toy: tuple[Path, Path],
    toy_betons: Path,
    toy_args: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from debeton.commands.dispatch import main as debeton
    from debeton.system.errors import run_command

    stands_for = {"BROKEN": broken_weights, "TEST": toy_betons / "toy_test.beton", "IMAGES": trained_toy[1]}
    words = [str(stands_for.get(word, word)).replace("OUT", str(tmp_path)) for word in command]
    words += toy_args if command[0] == "train" else []
    words += ["--outdir", str(tmp_path / "runs")] if command[0] == "evaluate" else []
    assert run_command(lambda: debeton(words)) == 1
    said = one_sentence(capsys.readouterr().err)
    assert f"{broken_weights}: 1 of " in said
    assert "weights and statistics hold values that are not finite, first 'stages.0.conv1.weight' with nan in 1" in said
    assert not list(tmp_path.rglob("results.json"))
    assert not list(tmp_path.rglob("p.csv"))


def test_a_finished_phase_of_an_older_version_is_not_taken_over_with_broken_weights(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*toy_args, "--training.epochs", "1"]
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    (folder / "results.json").unlink()
    path = folder / "checkpoints" / "phase_train.pt"
    content = load_checkpoint(path)
    first_weight_of(content["state_dict"], math.inf)
    save_checkpoint(path, content)
    capsys.readouterr()
    assert run(args) == 1
    said = one_sentence(capsys.readouterr().err)
    assert "phase 'train': 1 of " in said
    assert f"remove {folder} and train again with a lower --training.lr" in said


def test_steps_that_a_gradient_scaler_skips_are_no_divergence(
    toy_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers = []

    class Scaled(objective.Precision):
        def __init__(self, name: str, device: torch.device):
            super().__init__(name, device)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            scalers.append(self.scaler)

    def overflow(model: nn.Module) -> None:
        set_first(next(p.grad for p in model.parameters() if p.grad is not None), math.inf)

    monkeypatch.setattr(Objective, "backward", breaking(overflow, 2 * STEPS))  # the very last step
    monkeypatch.setattr("debeton.train.phase_setup.Precision", Scaled)
    assert run([*toy_args, "--training.selection", "last"]) == 0
    assert scalers[0].get_scale() == 2.0**9  # one step was skipped
    state = load_checkpoint(folder_of(tmp_path / "runs") / "checkpoints" / "checkpoint_latest.pt")
    assert finite(state["state_dict"])


PLUGIN = """
import os
from debeton.methods import register_method
from debeton.train.objective import CrossEntropy
from debeton.train.training import fit

class Breaking(CrossEntropy):
    def backward(self, model, batch, precision):
        output = super().backward(model, batch, precision)
        if int(os.environ["RANK"]) == 1:
            next(b for name, b in model.named_buffers() if name.endswith("running_mean"))[0] = float("nan")
        return output

@register_method("faults_breaking", "breaks in one process", paper="none", needs="label")
def breaking(run):
    return fit(run, run.views["train"], Breaking())
"""


def test_processes_of_which_one_diverges_end_together_with_the_same_sentence(
    toy_args: list[str], two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "faults_breaking.py").write_text(PLUGIN)
    own = ["--plugins", tmp_path / "faults_breaking.py", "--training.method", "faults_breaking"]
    said = two_processes([*toy_args, *own, "--training.epochs", "1"], 1)
    first, second = (one_sentence(text) for text in said)
    assert first == second
    assert "first 'stem.1.running_mean' with nan in 1 of " in first
    assert not list((tmp_path / "runs").rglob("phase*"))


@given(
    st.lists(st.lists(st.floats(width=32), max_size=5), max_size=5),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_weights_are_called_finite_exactly_if_each_number_is(values: list[list[float]], dtype: torch.dtype) -> None:
    tensors = {str(k): torch.tensor(one, dtype=torch.float32).to(dtype) for k, one in enumerate(values)}
    broken = [name for name, tensor in tensors.items() if not all(map(math.isfinite, tensor.tolist()))]
    assert all_finite(*tensors.values()) is not bool(broken)
    said = describe_non_finite(tensors)
    assert bool(said) is bool(broken)
    if broken:
        assert said.startswith(f"{len(broken)} of {len(tensors)} weights")
        assert f"first '{broken[0]}'" in said
