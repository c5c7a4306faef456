"""Tests of resample, reweight, subsample and their common parts: weights, draws, subsets, and refused views."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from debeton.config import Config, load
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.batch import Batch
from debeton.data.loader.order import epoch_order
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.synthetic_modes import Amount, synthetic_view, usb
from debeton.data.views.view import View
from debeton.methods import METHODS
from debeton.methods.cb_loss import effective_numbers, effective_weights
from debeton.methods.parts.balance import balancing_weights
from debeton.methods.parts.weighted_cross_entropy import WeightedCrossEntropy
from debeton.methods.sqrt_reweight import square_root_weights
from debeton.system.errors import DataError, UsageError
from debeton.train import training
from debeton.train.finish import finish
from debeton.train.objective import CrossEntropy
from debeton.train.run import open_run

SPEC = DatasetSpec("toy", ("left", "right"), ("dark", "light"), aligned=((0,), (1,)))
REAL, SYNTHETIC = (40, 5, 10, 25), (20, 60, 60, 20)  # rows by (label, attribute)
BY_GROUP, BY_CLASS = ("resample", "reweight", "subg", "groupdro"), ("resample_class", "reweight_class", "suby")
LOSSES_BY_GROUP, LOSSES_BY_CLASS = ("sqrt_reweight", "cb_loss"), ("cb_loss_class", "ldam", "balanced_softmax")


def write(path: Path, real: tuple[int, ...], synthetic: tuple[int, ...] = (0,) * 4) -> View:
    """Return a training view with these many real and synthetic rows of each group, shuffled; 8x8 noise images."""
    counts = np.array([real, synthetic])
    cell = np.random.default_rng(0).permutation(np.repeat(np.arange(8), counts.reshape(-1)))
    pixels = np.random.default_rng(1).integers(0, 256, (len(cell), 8, 8, 3), dtype=np.uint8)
    group = cell % 4
    rows = Rows(group // 2, group % 2, lambda i: pixels[i], [f"r{i}" for i in range(len(cell))], source=cell // 4)
    write_beton(path, rows, SPEC, "train", WriteOptions(mode="raw"))
    return View.whole(open_beton(path), "train")


@pytest.fixture(scope="module")
def real_view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return write(tmp_path_factory.mktemp("real") / "toy_train.beton", REAL)


@pytest.fixture(scope="module")
def usb_view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Return real rows with synthetic rows added up to 40 of each group."""
    whole = write(tmp_path_factory.mktemp("mixed") / "toy_train.beton", REAL, SYNTHETIC)
    real = whole.subset(whole.beton.source == 0)
    return usb(real, synthetic_view(whole), Amount())


class FakeRun(SimpleNamespace):
    """A run without a folder, with a network that only has a head."""

    def __init__(self, view: View, *overrides: str):
        config: Config = load([], overrides)
        super().__init__(views={"train": view}, config=config, device=torch.device("cpu"), sections=None, phases={})

    def network(self) -> torch.nn.Module:
        return torch.nn.Linear(2, 2)

    def about_to_train(self, start: Any) -> None:
        pass

    def phase(self, name: str, model: torch.nn.Module, work: Callable[[], Any], identity: Callable[[], str]) -> Any:
        return work()


def fitted(method: str, view: View, *overrides: str) -> tuple[View, Any]:
    """Return the view and the objective that a method hands to the training loop."""
    handed_over: list[tuple[View, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        train = training.__name__ + "._train"
        patch.setattr(train, lambda run, view, objective, *_: handed_over.append((view, objective)))
        METHODS.get(method).run(FakeRun(view, *overrides))  # type: ignore[arg-type]
    return handed_over[0]


def rows_of(view: View, rows: np.ndarray, logits: torch.Tensor) -> Batch:
    columns = (view.label, view.attribute, view.group, view.beton.source)
    return Batch(logits, torch.from_numpy(rows), *(torch.from_numpy(np.array(c[rows])) for c in columns))


# --- weights ---------------------------------------------------------------------------------------------------


def test_balancing_weights_have_mean_one_over_the_rows_and_give_groups_equal_totals():
    counts = np.array([40, 0, 3, 1])
    weights = balancing_weights(counts)
    np.testing.assert_allclose(weights * counts, [44 / 3, 0, 44 / 3, 44 / 3])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    np.testing.assert_array_equal(balancing_weights(np.array([7, 7, 7])), 1)


def test_one_reweighted_step_matches_the_closed_form():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-1.0, 3.0]], requires_grad=True)
    label, group, weight = torch.tensor([0, 1, 0]), torch.tensor([0, 3, 1]), torch.tensor([0.5, 2.0, 1.0, 4.0])
    batch = Batch(logits, torch.arange(3), label, group % 2, group, torch.zeros(3, dtype=torch.int64))
    loss = WeightedCrossEntropy(weight, "group")(torch.nn.Identity(), batch).loss
    loss.backward()
    p = torch.softmax(logits.detach().double(), 1)
    w = torch.tensor([0.5, 4.0, 2.0]).double()
    torch.testing.assert_close(loss.double(), -(w * p[torch.arange(3), label].log()).mean())
    expected = w[:, None] * (p - torch.nn.functional.one_hot(label, 2)) / 3
    torch.testing.assert_close(logits.grad.double(), expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9999])
def test_effective_numbers_are_the_geometric_sum_of_the_paper(beta: float):
    counts = np.array([40, 0, 3, 1])
    expected = [sum(beta**k for k in range(n)) for n in counts]  # (1 - beta^n) / (1 - beta)
    np.testing.assert_allclose(effective_numbers(counts, beta), expected, rtol=1e-9)


def test_the_class_balanced_loss_lies_between_plain_training_and_reweighting():
    counts = np.array([40, 0, 3, 1])
    np.testing.assert_allclose(effective_weights(counts, 0.0), [1, 0, 1, 1])
    np.testing.assert_allclose(effective_weights(counts, 1.0), balancing_weights(counts))
    np.testing.assert_allclose(effective_weights(counts, 1 - 1e-12), balancing_weights(counts), rtol=1e-3)
    weights = effective_weights(counts, 0.9)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx((1 - 0.9**40) / (1 - 0.9**3))


def test_square_root_weights_have_mean_one_and_the_ratio_of_the_roots():
    counts = np.array([100, 0, 4, 1])
    weights = square_root_weights(counts)
    np.testing.assert_allclose(weights / weights[0], [1, 0, 5, 10])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    np.testing.assert_array_equal(square_root_weights(np.array([7, 7])), 1)


@pytest.mark.parametrize(
    ("method", "column", "weigh"),
    [
        ("sqrt_reweight", "group", square_root_weights),
        ("cb_loss", "group", lambda counts: effective_weights(counts, 0.9)),
        ("cb_loss_class", "label", lambda counts: effective_weights(counts, 0.9)),
    ],
    ids=["sqrt_reweight", "cb_loss", "cb_loss_class"],
)
def test_weights_are_those_of_the_rows_groups_or_classes(
    method: str, column: str, weigh: Callable[[Any], Any], real_view: View
):
    view, objective = fitted(method, real_view, *(("--cb_loss.beta", "0.9") if "cb" in method else ()))
    np.testing.assert_array_equal(view.rows, real_view.rows)
    logits = torch.randn(len(view), 2, generator=torch.Generator().manual_seed(0))
    batch = rows_of(view, view.rows, logits)
    code = getattr(batch, column).numpy()
    weight = weigh(np.bincount(code))[code]
    losses = torch.nn.functional.cross_entropy(logits.double(), batch.label, reduction="none").numpy()
    expected = sum(w * loss for w, loss in zip(weight, losses, strict=True)) / len(view)
    assert objective(torch.nn.Identity(), batch).loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("method", "column", "size"), [("reweight", "group", 4), ("reweight_class", "label", 2)])
def test_over_all_rows_the_reweighted_loss_is_the_mean_over_groups_of_their_mean_losses(
    method: str, column: str, size: int, real_view: View
):
    view, objective = fitted(method, real_view)
    assert (view.order, view.weights) == ("random", None)  # the loss changes, the sampling does not
    np.testing.assert_array_equal(view.rows, real_view.rows)
    logits = torch.randn(len(view), 2, generator=torch.Generator().manual_seed(0))
    batch = rows_of(view, view.rows, logits)
    losses = torch.nn.functional.cross_entropy(logits, batch.label, reduction="none")
    means = [losses[getattr(batch, column) == g].mean() for g in range(size)]
    torch.testing.assert_close(objective(torch.nn.Identity(), batch).loss, torch.stack(means).mean())


def test_equal_weights_are_plain_cross_entropy_smoothing_included(real_view: View):
    logits = torch.randn(len(real_view), 2, generator=torch.Generator().manual_seed(0))
    batch = rows_of(real_view, real_view.rows, logits)
    ours = WeightedCrossEntropy(torch.ones(4), "group", 0.1)(torch.nn.Identity(), batch)
    torch.testing.assert_close(ours.loss, CrossEntropy(0.1)(torch.nn.Identity(), batch).loss)


# --- sampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "by_class"), [("resample", False), ("resample_class", True), ("groupdro", False)])
def test_groups_and_rows_are_drawn_as_often_as_they_should_be(method: str, by_class: bool, real_view: View):
    view, _ = fitted(method, real_view)
    code = (view.label if by_class else view.group)[view.rows]
    present, counts = np.unique(code, return_counts=True)
    draws = np.concatenate([epoch_order(view, view.order, 0, epoch) for epoch in range(200)])
    assert len(draws) == 200 * len(view)
    by_row = np.bincount(draws, minlength=len(view))
    for g, n in zip(present, counts, strict=True):
        for drawn, p in (
            (by_row[code == g].sum(), 1 / len(present)),
            *((k, 1 / len(present) / n) for k in by_row[code == g]),
        ):
            assert abs(drawn - len(draws) * p) <= 5 * np.sqrt(len(draws) * p * (1 - p))


def test_groupdro_can_leave_the_sampling_alone(real_view: View):
    view, _ = fitted("groupdro", real_view, "--groupdro.sampler", "shuffled")
    assert (view.order, view.weights) == ("random", None)


# --- subsets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "column", "each"), [("subg", "group", 5), ("suby", "label", 35)])
def test_subsampling_keeps_one_subset_of_the_smallest_size_by_the_data_seed(
    method: str, column: str, each: int, real_view: View
):
    view, _ = fitted(method, real_view)
    counts = Counter(getattr(view, column)[view.rows].tolist())
    assert set(counts.values()) == {each}
    assert len(counts) == {"group": 4, "label": 2}[column]
    assert len(set(view.rows)) == len(view)
    again, _ = fitted(method, real_view, "--training.seed", "5")
    np.testing.assert_array_equal(again.rows, view.rows)
    other, _ = fitted(method, real_view, "--data.seed", "5")
    assert len(other) == len(view)
    assert set(other.rows) != set(view.rows)


# --- what is balanced ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*BY_GROUP, *LOSSES_BY_GROUP])
def test_an_empty_group_stops_a_balancing_method_unless_it_is_to_be_ignored(method: str, real_view: View):
    view = real_view.subset(real_view.group[real_view.rows] != 2)
    with pytest.raises(
        DataError,
        match=r"1 of 4 groups of view 'train' have no row \(right, dark\) and cannot be balanced \(counts: left, "
        r"dark 40; left, light 5; right, dark 0; right, light 25\)",
    ):
        fitted(method, view)
    kept, objective = fitted(method, view, "--training.empty_groups", "ignore")
    assert set(kept.group[kept.rows]) == {0, 1, 3}
    if kept.weights is not None:
        assert np.isfinite(kept.weights).all()
    if method in ("reweight", *LOSSES_BY_GROUP):
        assert objective.weight[2] == 0


@pytest.mark.parametrize("method", [*BY_CLASS, *LOSSES_BY_CLASS])
def test_an_empty_class_stops_a_balancing_method_unless_it_is_to_be_ignored(method: str, real_view: View):
    view = real_view.subset(real_view.label[real_view.rows] == 1)
    with pytest.raises(DataError, match=r"1 of 2 classes of view 'train' have no row \(left\) and cannot be balanced"):
        fitted(method, view)
    kept, _ = fitted(method, view, "--training.empty_groups", "ignore")
    assert set(kept.label[kept.rows]) == {1}


@pytest.mark.parametrize("method", ["balanced_softmax", "logit_adjust"])
def test_label_smoothing_is_refused_where_a_class_has_the_prior_0(method: str, real_view: View):
    view, check = real_view.subset(real_view.label[real_view.rows] == 1), METHODS.get(method).check
    words = ("--training.method", method, "--training.label_smoothing", "0.1")
    check(FakeRun(real_view, *words))
    with pytest.raises(UsageError, match=rf"class 'left' has no row in view 'train': {method} gives it the prior 0"):
        check(FakeRun(view, *words, "--training.empty_groups", "ignore"))


@pytest.mark.parametrize("method", [*BY_GROUP, *LOSSES_BY_GROUP])
def test_a_set_without_attribute_labels_stops_a_method_that_needs_them(method: str, paper_view: Callable[..., View]):
    view = paper_view([0, 1, 1], spec=DatasetSpec("plain", ("cat", "dog")))
    with pytest.raises(UsageError, match=r"needs attribute labels, and plain has none: view 'train' of paper.beton"):
        fitted(method, view)
    columns = {"shore": ("land", "water"), "size": ("small", "large")}
    view = paper_view([0, 1, 1], spec=DatasetSpec("plain", ("cat", "dog"), columns=columns))
    with pytest.raises(UsageError, match=r"choose a column with --data.attribute \(shore, size\)"):
        fitted(method, view)


def test_real_and_synthetic_rows_are_groups_of_their_own(usb_view: View):
    existing = {
        "left, dark (real)": 40,
        "left, light (real)": 5,
        "left, light (synthetic)": 35,
        "right, dark (real)": 10,
        "right, dark (synthetic)": 30,
        "right, light (real)": 25,
        "right, light (synthetic)": 15,
    }
    for method in ("resample", "reweight", "groupdro"):
        view, _ = fitted(method, usb_view)
        assert view.counts_by_name() == existing
    view, _ = fitted("subg", usb_view)
    assert view.counts_by_name() == dict.fromkeys(existing, 5)
    view, objective = fitted("reweight", usb_view)
    np.testing.assert_allclose(objective.weight * torch.from_numpy(view.group_counts()), [160 / 7, 0] + 6 * [160 / 7])
    _, objective = fitted("groupdro", usb_view)
    np.testing.assert_allclose(objective.q, [1 / 7, 0] + 6 * [1 / 7])


def test_balancing_by_source_can_be_switched_off_and_does_not_touch_real_data(usb_view: View, real_view: View):
    for method in BY_GROUP:
        view, _ = fitted(method, usb_view, "--balance.by_source", "false")
        assert view.spec == usb_view.spec
        view, _ = fitted(method, real_view)
        assert view.spec == real_view.spec
    for method in BY_CLASS:
        assert fitted(method, usb_view)[0].spec == usb_view.spec


def test_a_cell_without_real_and_synthetic_rows_is_also_an_error_by_source(usb_view: View):
    view = usb_view.subset(usb_view.group[usb_view.rows] != 1)
    with pytest.raises(DataError, match=r"1 of 4 groups .* \(left, light\)"):
        fitted("resample", view)


# --- end to end ------------------------------------------------------------------------------------------------


@pytest.fixture
def train(toy_args: list[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return train(method, *overrides): the results of a run on one thread, with the objective's last summary."""
    torch.set_num_threads(1)

    def run_method(method: str, *overrides: str) -> dict[str, Any]:
        own = ("--training.method", method, "--training.outdir", str(tmp_path / method), "--training.num_workers", "1")
        with open_run(load([], [*toy_args, *own, *overrides])) as run:
            assert run is not None
            results = finish(run, METHODS.get(method).run(run))
            lines = [json.loads(line) for line in run.log.path.read_text().splitlines()]
        return {**results, "objective": [line.get("objective") for line in lines if line["split"] == "train"][-1]}

    return run_method


def test_a_usb_training_set_is_trained_on_by_every_balancing_method(train, usb_view: View):
    folder = usb_view.beton.path.parent
    shared = (
        "--training.data_root",
        str(folder),
        "--synthetic.mode",
        "usb",
        "--training.batch_size",
        "16",
        "--training.epochs",
        "1",
        "--training.selection",
        "last",
        "--training.augment",
        "none",
    )
    for method in (*BY_GROUP, *BY_CLASS):
        results = train(method, *shared)
        assert sum(results["train_groups"].values()) == 160
        if method == "groupdro":
            assert set(results["objective"]["q"]) == set(fitted("groupdro", usb_view)[0].counts_by_name())


def noisy_rows(n: int, aligned_share: float, seed: int) -> Rows:
    """Return the toy set with a third of its signal: noise hides the label, and the attribute is clear."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    attribute = np.where(rng.random(n) < aligned_share, label, 1 - label)
    images = rng.normal(90 + 60 * attribute[:, None, None], 25, (n, 16, 16))
    images[:, :, :8] += 6 * (1 - 2 * label)[:, None, None]
    pixels = np.repeat(np.clip(images, 0, 255).astype(np.uint8)[..., None], 3, axis=3)
    return Rows(label, attribute, lambda i: pixels[i], [f"{seed}/{i}" for i in range(n)])


def test_balancing_methods_beat_erm_in_the_worst_group(train, tmp_path: Path):
    for seed, (split, n, share) in enumerate((("val", 128, 0.5), ("test", 512, 0.5), ("train", 1024, 0.95))):
        rows = noisy_rows(n, share, seed if split != "train" else 9)
        write_beton(tmp_path / f"toy_{split}.beton", rows, SPEC, split, WriteOptions(mode="raw"))
    settings = (
        "--training.data_root",
        str(tmp_path),
        "--training.epochs",
        "4",
        "--training.batch_size",
        "32",
        "--training.selection",
        "last",
    )
    worst = {
        method: train(method, *settings)["test"]["worst_group_accuracy"]
        for method in ("erm", "resample", "reweight", "groupdro")
    }
    assert min(worst["resample"], worst["reweight"], worst["groupdro"]) > worst["erm"] + 0.05, worst
