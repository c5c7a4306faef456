"""Settings of training, loading and several processes do what their help says, from the command line on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.running import folder_of, lines_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load, phase_settings
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.augment import OPS
from debeton.data.spec import Rows
from debeton.nets.checkpoint import load_checkpoint
from debeton.nets.models import make_model
from debeton.system import distributed
from debeton.system.registry import Entry
from debeton.system.seed import seed_everything
from debeton.train import phase_setup
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run, open_run
from debeton.train.training import train_loader

CPU = torch.device("cpu")


@contextmanager
def opened(*args: object) -> Iterator[Run]:
    with open_run(load([], [str(arg) for arg in args])) as opened_run:
        assert opened_run is not None
        yield opened_run


# --- the optimizer -------------------------------------------------------------------------------


def test_nesterov_moves_the_first_step_by_one_plus_the_momentum(toy_args, tmp_path):
    """As in torch: the first step is lr g without it, and lr (1 + momentum) g with it."""
    steps = {}
    one_step = ["--training.batch_size", "512", "--training.epochs", "1", "--training.lr_scheduler", "constant"]
    for nesterov in ("false", "true"):
        words = ["--training.nesterov", nesterov, "--training.momentum", "0.8", "--training.selection", "last"]
        assert run([*toy_args, *one_step, *words, "--training.outdir", tmp_path / nesterov]) == 0
        folder = folder_of(tmp_path / nesterov)
        weights = load_checkpoint(folder / "checkpoints" / "checkpoint_latest.pt")["state_dict"]
        seed_everything(0)
        fresh = dict(make_model("small_resnet", 2).named_parameters())
        steps[nesterov] = torch.cat([(weights[name] - p.detach()).double().flatten() for name, p in fresh.items()])
    assert float(steps["false"].norm()) > 0
    torch.testing.assert_close(steps["true"], 1.8 * steps["false"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [True, False])
def test_deterministic_asks_torch_for_deterministic_kernels(toy_args, value):
    before = torch.are_deterministic_algorithms_enabled()
    try:
        with opened(*toy_args, "--training.deterministic", value):
            assert torch.are_deterministic_algorithms_enabled() is value
            assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


# --- what is measured ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy beton of 60 rows, of which 50 are of the first class."""
    rows = toy_rows(100, 0.5, seed=4)
    keep = np.concatenate([np.flatnonzero(rows.label == 0), np.flatnonzero(rows.label == 1)[:10]])
    chosen = Rows(
        rows.label[keep], rows.attribute[keep], lambda i: rows.image(int(keep[i])), [rows.names[i] for i in keep]
    )
    path = tmp_path_factory.mktemp("uneven") / "uneven.beton"
    write_beton(path, chosen, TOY_SPEC, "test", WriteOptions(mode="raw"))
    return path


@pytest.mark.parametrize(
    ("granularity", "metric"),
    [("global", "accuracy"), ("per_class", "mean_class_accuracy"), ("auto", "accuracy")],
)
def test_the_log_line_starts_with_the_accuracy_of_the_granularity(toy_args, tmp_path, uneven, granularity, metric):
    words = ["--training.granularity", granularity, "--data.val_path", uneven, "--training.epochs", "1"]
    assert run([*toy_args, *words, "--training.selection", "last"]) == 0
    folder = folder_of(tmp_path / "runs")
    metrics = next(line["metrics"] for line in lines_of(folder) if line["split"] == "val")
    assert metrics["accuracy"] != metrics["mean_class_accuracy"]
    assert f"val acc {100 * metrics[metric]:.1f} " in (folder / "log.txt").read_text()


def test_test_path_is_the_beton_that_is_measured(toy_args, uneven):
    with opened(*toy_args, "--data.test_path", uneven) as other, opened(*toy_args, "--training.seed", 5) as default:
        assert other.views["test"].beton.path == uneven
        assert (len(other.views["test"]), len(default.views["test"])) == (60, 256)


# --- the loader ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_batches_wait_than_batches_ahead_says(toy_args, monkeypatch, ahead):
    batches_made = []

    def count(images: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        batches_made.append(len(rows))
        return images

    monkeypatch.setitem(OPS._entries, "count", Entry("count", lambda: count, ""))
    words = ["--loader.batches_ahead", ahead, "--training.augment", "count", "--training.batch_size", 16]
    with opened(*toy_args, *words, "--loader.residency", "disk") as opened_run:
        with train_loader(opened_run, opened_run.views["train"]).epoch(0) as batches:
            next(batches)
            deadline = time.monotonic() + 20
            while len(batches_made) < ahead + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            assert len(batches_made) == ahead + 2  # one is taken, `ahead` wait, and the thread holds one


# --- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "asked"), [("auto", "gloo"), ("gloo", "gloo"), ("nccl", "nccl")])
def test_the_processes_meet_over_the_backend(toy_args, monkeypatch, backend, asked):
    joined = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: joined.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: joined.append("left"))
    with opened(*toy_args, "--dist.backend", backend):
        assert joined == [asked]
    assert joined == [asked, "left"]


@pytest.mark.parametrize("value", [True, False])
def test_sync_bn_shares_the_batch_norm_statistics_of_several_processes(toy_args, monkeypatch, value):
    shared = []
    monkeypatch.setattr(phase_setup, "share_statistics", shared.append)
    monkeypatch.setattr(distributed, "parallel", lambda model, device, **_: model)
    words = [*toy_args, "--dist.sync_bn", str(value)]
    for processes, expected in ((1, 0), (2, 2)):  # the model, and the networks of its objective
        shared.clear()
        with opened(*words) as opened_run, monkeypatch.context() as patched:
            patched.setattr(distributed, "world_size", lambda processes=processes: processes)
            objective, settings = CrossEntropy(), phase_settings(opened_run.config)
            phase_setup.as_called(opened_run, opened_run.network(), objective, "train", settings)
        assert len(shared) == (expected if value else 0)


# --- the image model -----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "bound"), [("null", None), ("0", None), ("5", 5.0)])
def test_min_snr_bounds_the_weights_of_the_denoising_loss(toy_args, monkeypatch, text, bound):
    """Hang et al. 2023, eq. 6, for the prediction of the noise: min(SNR, bound) / SNR."""
    from debeton.methods import cdpm

    trained = []
    monkeypatch.setattr(cdpm, "fit", lambda run, view, objective, **_: trained.append(objective))
    small = ["--cdpm.widths", "8,16", "--cdpm.layers", 1, "--cdpm.attention", 0]
    with opened(*toy_args, *small, "--training.method", "cdpm", "--cdpm.min_snr", text) as opened_run:
        cdpm.train_diffusion(opened_run, opened_run.views["train"])
    t = torch.arange(0, 1000, 50)
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t]
    snr = abar / (1 - abar)
    expected = torch.ones_like(snr) if bound is None else snr.clamp(max=bound) / snr
    torch.testing.assert_close(trained[0]._weight(t, False).double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("chosen", "rejected"), [("none", 0), ("standard", 2)])
def test_ddb_filter_rejects_images_that_are_drawn_again(toy_args, monkeypatch, tmp_path, chosen, rejected):
    import json

    from debeton.methods.parts import synthetic_set

    rng = np.random.default_rng(0)

    class Drawer:
        """A generator whose first two images are black."""

        identity = {"model": "drawer"}  # noqa: RUF012
        attempts = 5

        def __init__(self, *_: object, **__: object):
            self.drawn = 0

        def sample(self, orders):
            images = rng.integers(0, 256, (len(orders), 16, 16, 3), dtype=np.uint8)
            images[: max(0, 2 - self.drawn)] = 0
            self.drawn += len(orders)
            return images

    monkeypatch.setattr(synthetic_set, "CdpmGenerator", Drawer)
    words = ["--training.method", "ddb1", "--ddb.per_class", 4, "--ddb.filter", chosen]
    with opened(*toy_args, *words) as opened_run:
        folder = synthetic_set.draw_images(opened_run, tmp_path)
    verdicts = [json.loads(line)["verdict"] for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert verdicts.count("black") == rejected
    assert verdicts.count("keep") == 8
