"""Runs and metrics of a set whose groups are domains: hospitals in training, another to select on, another to test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, recall_score
from tests.running import folder_of, lines_of, run
from tests.toy import toy_rows

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.subsets import balanced, fold
from debeton.data.views.view import View
from debeton.train.metrics import GroupMeter, group_metrics

SITES = ("h0", "h1", "h2", "h3", "h4")
SPEC = DatasetSpec(
    "sites", ("normal", "tumour"), SITES, mean=(0.5,) * 3, std=(0.25,) * 3, group_by="attribute",
    attribute_name="hospital", columns={"shade": ("dark", "light")},
)  # fmt: skip
DOMAINS = {"train": (0, 3, 4), "val": (1,), "test": (2,)}  # as in Camelyon17 of WILDS
SHARES = {"train": (0.6, 0.3, 0.1), "val": (1.0,), "test": (1.0,)}


def site_rows(split: str, n: int, seed: int) -> Rows:
    """The toy images; their domain is drawn by itself, and their old attribute is the column 'shade'."""
    rows = toy_rows(n, 0.7, seed)
    hospital = np.random.default_rng(seed).choice(DOMAINS[split], n, p=SHARES[split])
    return replace(rows, attribute=hospital, columns={"shade": rows.attribute})


@pytest.fixture(scope="module")
def site_betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, (split, n) in enumerate((("train", 400), ("val", 100), ("test", 120))):
        write_beton(folder / f"sites_{split}.beton", site_rows(split, n, seed), SPEC, split, WriteOptions(mode="raw"))
    return folder


@pytest.fixture
def site_args(toy_args: list[str], site_betons: Path) -> list[str]:
    """The settings of the toy runs, on the domain-grouped betons."""
    return [*toy_args, "--data.dataset", "sites", "--training.data_root", str(site_betons), "--training.epochs", "1"]


def results(outdir: Path) -> dict[str, Any]:
    return json.loads((folder_of(outdir) / "results.json").read_text())


def test_metrics_by_domain_equal_those_of_fairlearn_and_scikit_learn():
    rng = np.random.default_rng(0)
    label, attribute, predicted = rng.integers(0, 2, 600), rng.choice((0, 1, 3, 4), 600), rng.integers(0, 2, 600)
    meter = GroupMeter.of(SPEC)
    columns = (torch.from_numpy(column) for column in (predicted, label, SPEC.group(label, attribute)))
    meter.update_predictions(*columns, torch.ones(600))
    metrics = meter.compute(SPEC, np.array([1, 0, 0, 2, 1]))
    frame = MetricFrame(metrics=accuracy_score, y_true=label, y_pred=predicted, sensitive_features=attribute).by_group
    assert metrics["group_accuracy"] == {f"h{k}": None if k == 2 else pytest.approx(frame[k]) for k in range(5)}
    assert metrics["worst_group"] == f"h{frame.idxmin()}"
    assert metrics["mean_group_accuracy"] == pytest.approx(frame.mean())
    assert metrics["adjusted_accuracy"] == pytest.approx((frame[0] + 2 * frame[3] + frame[4]) / 4)
    recalls = recall_score(label, predicted, average=None)
    assert metrics["mean_class_accuracy"] == pytest.approx(recalls.mean())
    assert metrics["worst_class_accuracy"] == pytest.approx(recalls.min())
    assert metrics["bias_aligned_accuracy"] is None
    assert metrics["bias_conflicting_accuracy"] is None


def test_rows_without_a_domain_count_in_their_class_and_in_no_group():
    spec = DatasetSpec("sites", ("a", "b"), ("x", "y"), group_by="attribute")
    #                 a,x a,y b,x b,y | a,? b,?
    correct, total = np.array([2, 1, 0, 1, 3, 1]), np.array([4, 1, 2, 1, 4, 2])
    metrics = group_metrics(correct, total, np.zeros(6), spec)
    assert metrics["group_accuracy"] == {"x": 2 / 6, "y": 1.0}
    assert metrics["mean_class_accuracy"] == pytest.approx((6 / 9 + 2 / 5) / 2)
    assert metrics["attribute_unknown"] == {"count": 6, "accuracy": 4 / 6}


def test_subsets_and_draws_balance_domains_and_parts_share_each_class_of_a_domain(site_betons: Path):
    view = View.whole(open_beton(site_betons / "sites_train.beton"))
    counts = view.group_counts()
    assert counts[[1, 2]].tolist() == [0, 0]
    assert set(balanced(view, "group", 0).group_counts().tolist()) == {0, counts[4]}
    drawn = view.resampled_by_group()
    totals = np.bincount(view.group[view.rows], drawn.weights, 5)
    np.testing.assert_allclose(totals, [1, 0, 0, 1, 1])
    for rest, part in (view.hold_out(0.25, 0, "val"), fold(view, 4, 1, 0)):
        cells, held = (np.bincount(one.cells, minlength=SPEC.num_cells) for one in (view, part))
        assert np.abs(held - cells / 4).max() < 1
        assert len(rest) + len(part) == len(view)


def test_groups_of_domains_crossed_with_another_column_are_their_products(site_betons: Path):
    view = View.whole(open_beton(site_betons / "sites_train.beton")).with_task(attribute="hospital,shade")
    assert view.spec.group_names[6:8] == ("h3 + dark", "h3 + light")
    np.testing.assert_array_equal(view.group, 2 * view.beton.attribute + np.asarray(view.beton.extra["shade"]))


@pytest.mark.parametrize("method", ["erm", "groupdro", "resample", "reweight", "subg", "dfr"])
def test_methods_train_select_and_measure_by_domain(method: str, site_args: list[str], tmp_path: Path):
    extra = ["--dfr.data", "train", "--dfr.tune", "half", "--dfr.refits", "2"] if method == "dfr" else []
    assert run([*site_args, "--training.method", method, "--training.selection", "worst_group", *extra]) == 0
    found = results(tmp_path / "runs")
    assert list(found["train_groups"]) == list(SITES)
    assert found["test"]["worst_group"] == "h2"
    assert found["test"]["worst_group_accuracy"] == found["test"]["accuracy"]
    assert found["test"]["group_count"] == {"h0": 0, "h1": 0, "h2": 120, "h3": 0, "h4": 0}
    assert found["test"]["mean_class_accuracy"] is not None
    assert found["test"]["bias_conflicting_accuracy"] is None


def test_groupdro_weighs_the_domains_that_training_has(site_args: list[str], tmp_path: Path):
    assert run([*site_args, "--training.method", "groupdro", "--training.selection", "last"]) == 0
    (line,) = [one for one in lines_of(folder_of(tmp_path / "runs")) if one["split"] == "train"]
    assert list(line["objective"]["q"]) == ["h0", "h3", "h4"]
    assert sum(line["objective"]["q"].values()) == pytest.approx(1, abs=1e-5)


def test_any_beton_is_grouped_by_its_attribute_alone_and_back(
    toy_args: list[str], site_args: list[str], tmp_path: Path
):
    assert run([*toy_args, "--data.group_by", "attribute", "--training.epochs", "1"]) == 0
    by_shade = results(tmp_path / "runs")["test"]
    assert list(by_shade["group_accuracy"]) == ["dark", "light"]
    back = ["--data.group_by", "label_attribute", "--training.selection", "average"]
    assert run([*site_args, *back, "--training.outdir", tmp_path / "back"]) == 0
    assert results(tmp_path / "back")["test"]["group_count"]["tumour, h2"] > 0


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--data.bias_rate", "0.9"], "data.bias_rate needs bias-aligned rows"),
        (["--data.aligned", "normal:h0,tumour:h1"], "add --data.group_by label_attribute"),
        (["--training.selection", "minority"], "group by --data.group_by label_attribute"),
        (["--data.group_by", "domain"], "'domain' is unknown; known: label_attribute, attribute"),
    ],
    ids=["bias rate", "pairs", "selection", "misspelt"],
)
def test_what_needs_bias_aligned_rows_is_refused(site_args: list[str], capsys, extra: list[str], words: str):
    assert run([*site_args, *extra]) == 2
    assert words in capsys.readouterr().err


def test_a_beton_whose_group_column_belongs_to_another_grouping_is_refused(site_betons: Path, tmp_path: Path, capsys):
    for name in ("sites_train.beton", "sites_train.beton.json", "sites_train.beton.columns.npz"):
        (tmp_path / name).write_bytes((site_betons / name).read_bytes())
    sidecar = json.loads((tmp_path / "sites_train.beton.json").read_text())
    del sidecar["spec"]["group_by"], sidecar["sidecar_hash"]
    (tmp_path / "sites_train.beton.json").write_text(json.dumps(sidecar))
    with pytest.raises(Exception, match=r"the group column is not label \* 5 \+ attribute"):
        open_beton(tmp_path / "sites_train.beton")
