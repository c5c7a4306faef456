"""The rows of the smallest batch are looked at before training: nothing fails in the middle of an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run
from torch import Tensor, nn

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.nets.models import freeze_batch_norm, make_model
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.train.batch_rows import check_smallest_batch, least_rows

# A small ResNet on images of 4 pixels ends with maps of one pixel: one value per channel for each row.
POINTS = ["--training.decoder_train", "resized", "--training.decoder_val", "resized"]
POINTS += ["--training.augment", "none", "--resolution.val_res", "4"]


def loader_of(folder: Path, rows: int, batch_size: int, processes: int, side: int = 4) -> Loader:
    view = View.whole(open_beton(folder / "toy_train.beton")).subset(np.arange(rows))
    options = LoaderOptions("resized", resolution=side, world=processes)
    return make_loader(view, batch_size, options=options)


@pytest.mark.parametrize("write", [65, 66])
def test_a_last_row_joins_the_batch_before_and_the_log_says_so(toy_args, write_toy, tmp_path, write: int):
    write_toy(tmp_path / "odd.beton", write, 0.9)
    args = [*toy_args, *POINTS, "--data.train_path", tmp_path / "odd.beton", "--training.batch_size", 32]
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    (steps,) = {line["step"] for line in lines_of(folder) if line["epoch"] == 1}
    assert steps == {65: 2, 66: 3}[write]
    text = "the last 1 of the 65 rows of an epoch join the batch before, because batch norm needs 2 rows"
    assert (text in (folder / "log.txt").read_text()) is (write == 65)
    seen = next(line for line in lines_of(folder) if line["split"] == "train")["metrics"]["group_count"]
    assert sum(seen.values()) == write


def test_a_batch_of_one_row_is_refused_before_training(toy_args, tmp_path, capsys):
    args = [*toy_args, *POINTS, "--training.batch_size", "1"]
    assert run(args) == 2
    said = capsys.readouterr().err
    assert "phase 'train' takes from view 'train' a batch of 1 row, and batch norm (layer stages.1.bn1 of" in said
    assert "use --training.batch_size 2 or more" in said
    assert not list((tmp_path / "runs").rglob("results.jsonl"))


def test_a_batch_of_one_row_is_accepted_where_batch_norm_can_do_with_it(toy_betons):
    one_row = loader_of(toy_betons, 8, 1, 1)
    check_smallest_batch(make_model("small_resnet", 2), one_row, "train", shared=True, hold=freeze_batch_norm)
    check_smallest_batch(make_model("squeezenet1_1", 2), loader_of(toy_betons, 8, 1, 1, 32), "train", shared=True)
    larger = loader_of(toy_betons, 8, 1, 1, 16)  # maps of 2 x 2 pixels
    check_smallest_batch(make_model("small_resnet", 2), larger, "train", shared=True)
    model = make_model("small_resnet", 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError):
        check_smallest_batch(model, one_row, "train", shared=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("batch_size", "shared", "refused"), [(2, True, False), (2, False, True), (4, False, False)])
def test_one_row_for_each_process_is_too_few_without_shared_statistics(toy_betons, batch_size, shared, refused):
    loader = loader_of(toy_betons, 16, batch_size, 2)
    model = make_model("small_resnet", 2)
    if not refused:
        return check_smallest_batch(model, loader, "train", shared=shared)
    with pytest.raises(UsageError, match=r"batches of 2 rows, one for each of 2 processes,.*batch_size 4 or more"):
        check_smallest_batch(model, loader, "train", shared=shared)


def test_a_network_that_cannot_run_without_rows_is_refused_before_training(toy_betons):
    class Flattening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 2)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(image.reshape(len(image), -1))

    check_smallest_batch(Flattening(), loader_of(toy_betons, 10, 4, 2), "train", shared=True)
    with pytest.raises(UsageError, match="last batch of phase 'train' has 2 rows for 3 processes, and Flattening"):
        check_smallest_batch(Flattening(), loader_of(toy_betons, 10, 4, 3), "train", shared=True)


@pytest.mark.parametrize(("sync_bn", "expected"), [("true", 2), ("false", 6)])
def test_own_statistics_need_two_rows_for_each_process(monkeypatch, sync_bn: str, expected: int):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    assert least_rows(load([], ["--dist.sync_bn", sync_bn])) == expected


@pytest.mark.parametrize("method", ["scale", "mixup", "jtt", "lff"])
def test_methods_train_on_an_epoch_that_ends_with_one_row(toy_args, toy_betons, write_toy, tmp_path, method):
    write_toy(tmp_path / "odd.beton", 33, 0.9)
    args = [*toy_args, *POINTS, "--data.train_path", tmp_path / "odd.beton", "--training.batch_size", 16]
    more = {"scale": ["--data.target_path", toy_betons / "toy_val.beton"], "jtt": ["--jtt.epochs", 1]}.get(method, [])
    assert run([*args, *more, "--training.method", method, "--training.epochs", 1]) == 0
    results = json.loads((folder_of(tmp_path / "runs") / "results.json").read_text())
    assert results["processes"] == 1


def test_a_target_view_of_one_row_is_refused_before_training(toy_args, write_toy, tmp_path, capsys):
    write_toy(tmp_path / "one.beton", 1, 0.9)
    args = [*toy_args, *POINTS, "--data.target_path", tmp_path / "one.beton", "--training.method", "scale"]
    assert run(args) == 2
    assert "takes from view 'target' a batch of 1 row, and batch norm" in capsys.readouterr().err
