"""Tests of the finders cnc and lff: predictions and failures against references, whole runs, resuming, bad input."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.data.views.row_lists import grouped_by_values
from debeton.methods.finders.lff import AmplifiedCrossEntropy, fails
from debeton.methods.parts.marked_rows import minority_rows
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import DataError
from debeton.train.run import open_run
from debeton.train.run_loaders import eval_loader

SPEC = DatasetSpec("toy", ("a", "b", "nan"), ("x", "y"))
FINDERS = ["cnc", "lff"]


def words_of(finder: str, toy_args: list[str], outdir: Path, *more: str) -> list[str]:
    return [*toy_args, "--training.outdir", str(outdir), "--training.method", "groups", "--groups.from", finder, *more]


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "groups.csv").open() as file:
        return list(csv.DictReader(file))


def network_of(folder: Path, args: list[str]) -> tuple[torch.nn.Module, torch.Tensor, np.ndarray]:
    """The network of a finished finder, the training images as an evaluation sees them, and their labels."""
    with open_run(load([], [*args, "--training.outdir", str(folder / "again")])) as opened:
        model, view = opened.network(), opened.views["train"]
        model.load_state_dict(load_checkpoint(folder / "checkpoints/phase_identify.pt")["state_dict"])
        batches = [batch.image.clone() for batch in eval_loader(view, opened.config, opened.device)]
        return model.double().eval(), torch.cat(batches).double(), view.label[view.rows]


@pytest.fixture(scope="module", params=FINDERS)
def finished(request, toy_betons, tmp_path_factory) -> tuple[str, list[str], Path]:
    """(finder, words, run folder) of a finder that has run alone."""
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
    }
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    outdir = tmp_path_factory.mktemp(request.param)
    assert run(words_of(request.param, args, outdir)) == 0
    return request.param, args, folder_of(outdir)


# --- what is marked, and how it is grouped ----------------------------------------------------------


def test_a_prediction_is_one_attribute_over_all_classes_and_aligned_where_it_is_the_label(paper_view):
    view = paper_view([0, 0, 1, 1, 2, 2], spec=SPEC)
    values = ["a", "b", "b", "b", "nan", "a"]
    grouped = grouped_by_values(view, values, Path("groups.csv"), "group", "prediction").without_empty_groups()
    assert grouped.attribute[grouped.rows].tolist() == [0, 1, 1, 1, 2, 0]
    assert grouped.spec.attributes == ("predicted a", "predicted b", "predicted nan")
    assert minority_rows(grouped).tolist() == [False, True, False, False, False, True]
    counts = {name: n for name, n in grouped.counts_by_name().items() if n}
    assert counts == {
        "a, predicted a": 1,
        "a, predicted b": 1,
        "b, predicted b": 2,
        "nan, predicted a": 1,
        "nan, predicted nan": 1,
    }


def test_a_prediction_that_is_no_class_is_refused_by_name(paper_view):
    view = paper_view([0, 1], spec=SPEC)
    with pytest.raises(DataError, match=r"g\.csv: group has 'c', which is no class of toy; expected a, b, nan"):
        grouped_by_values(view, ["a", "c"], Path("g.csv"), "group", "prediction")


def test_a_row_is_a_failure_where_its_weight_against_a_coin_toss_is_above_one_half():
    probability = np.array([0.0, 0.1, 0.499, 0.501, 0.9, 1.0])
    with np.errstate(divide="ignore"):
        loss = -np.log(probability).astype(np.float32)
    assert fails(loss).tolist() == (probability < 0.5).tolist()
    weight = loss[1:-1] / (loss[1:-1] + math.log(2))  # W = L_B / (L_B + L_D)
    assert fails(loss[1:-1]).tolist() == (weight > 0.5).tolist()


def test_a_step_of_the_biased_network_is_the_mean_of_q_p_to_the_q_times_the_cross_entropy():
    torch.manual_seed(0)
    model, image, label = torch.nn.Linear(3, 4).double(), torch.randn(5, 3).double(), torch.tensor([0, 3, 1, 2, 3])
    zeros = torch.zeros_like(label)
    batch = Batch(image=image, label=label, attribute=zeros, group=zeros, source=zeros, row=zeros)
    loss = AmplifiedCrossEntropy(0.7)(model, batch).loss
    (ours,) = torch.autograd.grad(loss, model.weight)
    weight, logits = np.zeros((4, 3)), (image @ model.weight.T + model.bias).detach().numpy()
    total = 0.0
    for x, z, y in zip(image.numpy(), logits, label.tolist()):
        p = np.exp(z) / np.exp(z).sum()
        total += 0.7 * p[y] ** 0.7 * -np.log(p[y]) / 5
        weight += np.outer(0.7 * p[y] ** 0.7 * (p - np.eye(4)[y]), x) / 5
    assert loss.item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(ours.numpy(), weight, rtol=1e-5)


# --- whole runs -----------------------------------------------------------------------------------


def test_the_table_is_that_of_the_networks_last_weights_in_float64_and_one_batch(finished):
    finder, args, folder = finished
    model, image, label = network_of(folder, args)
    with torch.no_grad():
        logits = model(image)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label), reduction="none").numpy()
    table = table_of(folder)
    np.testing.assert_allclose([float(line["score"]) for line in table], loss, rtol=1e-3, atol=1e-5)
    sure = np.abs(loss - math.log(2)) > 1e-3
    if finder == "cnc":
        expected = np.array(["left", "right"])[logits.argmax(1).numpy()]
    else:
        expected = (loss > math.log(2)).astype(int).astype(str)
    assert (np.array([line["group"] for line in table]) == expected)[sure].all()
    assert sure.mean() > 0.95


def test_the_groups_find_the_shortcut_and_results_say_how_well(finished, toy_betons):
    finder, _, folder = finished
    notes = json.loads((folder / "results.json").read_text())["notes"]["groups"]
    beton, table = open_beton(toy_betons / "toy_train.beton"), table_of(folder)
    conflicting = beton.label != beton.attribute
    aligned_value = np.array(["left", "right"])[beton.label] if finder == "cnc" else np.array(["0"] * len(table))
    marked = np.array([line["group"] for line in table]) != aligned_value
    assert notes["recall"] == pytest.approx(marked[conflicting].mean())
    assert notes["precision"] == pytest.approx(conflicting[marked].mean())
    assert notes["recall"] > 2 * marked.mean()  # of chance
    assert notes["kind"] == {"cnc": "prediction", "lff": "bias"}[finder]


def test_the_groups_of_a_stopped_and_resumed_run_are_the_same_bytes(finished, tmp_path, monkeypatch):
    finder, args, folder = finished
    words = words_of(finder, args, tmp_path)
    stopped_and_resumed(words, monkeypatch, 5)
    resumed = folder_of(tmp_path)
    assert (resumed / "groups.csv").read_bytes() == (folder / "groups.csv").read_bytes()


def test_two_processes_find_the_groups_of_one(toy_args, two_processes, tmp_path):
    for finder in FINDERS:
        words = [*toy_args, "--training.method", "groups", "--groups.from", finder, "--model.bn_mode", "eval"]
        assert run([*words, "--training.outdir", tmp_path / finder / "one"]) == 0
        two_processes([*words, "--training.outdir", str(tmp_path / finder / "two")])
        one, two = (table_of(folder_of(tmp_path / finder / name)) for name in ("one", "two"))
        assert [line["group"] for line in one] == [line["group"] for line in two]
        assert len({line["group"] for line in one}) == 2


# --- bad input ------------------------------------------------------------------------------------


def test_a_preference_of_0_is_refused_because_the_biased_network_would_learn_nothing(toy_args, tmp_path, capsys):
    assert run(words_of("lff", toy_args, tmp_path / "q", "--lff.q", "0")) == 2
    assert "lff.q is 0" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("finder", FINDERS)
def test_a_network_that_has_learnt_nothing_divides_no_class_or_is_said_to(finder, toy_args, tmp_path, capsys):
    words = words_of(finder, toy_args, tmp_path, "--finder.lr", "0", "--groups.single", "error")
    status, said = run(words), capsys.readouterr().err
    groups = {(line["label"], line["group"]) for line in table_of(folder_of(tmp_path))}
    assert (status, "found one group in each class" in said) == ((1, True) if len(groups) == 2 else (0, False))
