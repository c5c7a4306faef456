"""Tests of DFR: its regressions are scikit-learn's, its last layer is their mean, and a run resumes at once."""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from tests.running import ROOT, run

import debeton.train.features
from debeton.config import load
from debeton.data.spec import DatasetSpec
from debeton.methods import METHODS
from debeton.methods.parts import logistic_head
from debeton.methods.parts.logistic_head import (
    Candidate,
    FeatureSet,
    Logistic,
    Scaling,
    Solver,
    average,
    choose,
    fit_logistic,
    folded,
    grid,
)
from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.nets.heads import RefittedHead, install_head
from debeton.nets.models import make_model
from debeton.system import plugins
from debeton.system.errors import DataError, UsageError
from debeton.train.evaluation import evaluate
from debeton.train.run import open_run
from debeton.train.stop import Preempted

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")

SPEC = DatasetSpec("s", ("a", "b"), ("x", "y"), aligned=((0,), (1,)))
SPEC4 = DatasetSpec("s", ("a", "b", "c", "d"), ("x", "y"))
SOLVER = Solver("l1", 10000, 7)
ONES = (1.0, 1.0)


def features(n: int, size: int, spec: DatasetSpec, seed: int = 0) -> FeatureSet:
    """Return non-negative features: the first few hold the label, and the next few the attribute more strongly."""
    rng = np.random.default_rng(seed)
    label, attribute = rng.integers(0, spec.num_classes, n), rng.integers(0, 2, n)
    x = rng.normal(1, 1, (n, size))
    x[np.arange(n), label] += 1.0
    x[:, 6] += 2.0 * attribute
    x[:, -1] = 3.0  # a dead feature
    return FeatureSet(np.maximum(x, 0).astype(np.float32), label, spec.group(label, attribute), spec)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("weights", [ONES, (1.0, 3.0)])
def test_one_fit_is_scikit_learns_pipeline(penalty, weights):
    data = features(300, 20, SPEC)
    reference = make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=0.3,
            l1_ratio=float(penalty == "l1"),
            solver="liblinear",
            max_iter=10000,
            tol=1e-4,
            class_weight=dict(enumerate(weights)),
            random_state=1,
        ),
    ).fit(data.x, data.label)
    scaling = Scaling.of(data.x, 20)
    scaled = FeatureSet(scaling(data.x), data.label, data.group, SPEC)
    (found,) = fit_logistic([(scaled, Candidate(0.3, weights), "")], Solver(penalty, 10000, 7))
    # The order of coordinates, which the seed draws, moves a converged fit by its tolerance only.
    assert np.abs(found.weight - reference[-1].coef_).max() < 1e-3
    again = LogisticRegression(
        C=0.3,
        l1_ratio=float(penalty == "l1"),
        solver="liblinear",
        max_iter=10000,
        random_state=logistic_head.derive_seed(7, "liblinear", "", 1) % 2**31,
    )
    again.fit(reference[0].transform(data.x), data.label, np.asarray(weights)[data.label])
    np.testing.assert_allclose(found.weight, again.coef_, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.bias, again.intercept_, atol=1e-5, rtol=0)
    weight, bias = folded(found, scaling)
    logits = torch.from_numpy(data.x) @ weight.T + bias
    np.testing.assert_allclose(logits.softmax(1).numpy(), _probabilities(again, reference[0], data.x), atol=1e-5)
    assert (found.predict(scaled.x) == again.predict(reference[0].transform(data.x))).all()


def _probabilities(model, scaler, x):
    return model.predict_proba(scaler.transform(x))


def test_four_classes_are_fitted_one_against_all():
    data = features(400, 20, SPEC4)
    (found,) = fit_logistic([(data, Candidate(0.3, (1.0,) * 4), "")], SOLVER)
    reference = OneVsRestClassifier(
        LogisticRegression(C=0.3, l1_ratio=1.0, solver="liblinear", max_iter=10000, random_state=0, tol=1e-4)
    ).fit(data.x, data.label)
    coefficients = np.concatenate([estimator.coef_ for estimator in reference.estimators_])
    assert found.weight.shape == (4, 20)
    assert np.abs(found.weight - coefficients).max() < 5e-3
    assert (found.predict(data.x) == reference.predict(data.x)).mean() > 0.99
    weight, bias = folded(found, Scaling.of(None, 20))
    assert weight.shape == (4, 20)
    assert ((torch.from_numpy(data.x) @ weight.T + bias).argmax(1).numpy() == found.predict(data.x)).all()


@pytest.mark.parametrize("spec", [SPEC, SPEC4])
def test_processes_give_what_one_process_gives_and_nothing_warns(spec, monkeypatch):
    data = features(200, 10, spec)
    jobs = [(data, Candidate(c, (1.0,) * spec.num_classes), f"refit {c}") for c in (0.03, 0.3, 3.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = fit_logistic(jobs, SOLVER)
        if spec is SPEC:
            monkeypatch.setattr(logistic_head, "WORTH_PROCESSES", 0)
            together = fit_logistic(jobs, Solver("l1", 10000, 7, workers=2))
            for a, b in zip(alone, together, strict=True):
                assert np.array_equal(a.weight, b.weight)
                assert np.array_equal(a.bias, b.bias)
        assert sum(head.unconverged for head in fit_logistic(jobs, Solver("l1", 1, 7))) > 0


def test_folding_and_averaging_in_closed_form():
    heads = [Logistic(np.array([[2.0, 4.0]]), np.array([1.0]), 1), Logistic(np.array([[4.0, 0.0]]), np.array([2.0]))]
    mean = average(heads)
    assert mean.weight.tolist() == [[3.0, 2.0]]
    assert mean.bias.tolist() == [1.5]
    assert mean.unconverged == 1
    weight, bias = folded(mean, Scaling(np.array([1.0, 10.0]), np.array([2.0, 0.5])))
    # z = 3 (f0 - 1) / 2 + 2 (f1 - 10) / 0.5 + 1.5 = 1.5 f0 + 4 f1 - 40; logits (-z/2, z/2)
    assert weight.tolist() == [[-0.75, -2.0], [0.75, 2.0]]
    assert bias.tolist() == [20.0, -20.0]
    weight, bias = folded(Logistic(np.eye(3), np.array([0.0, 1.0, 2.0])), Scaling(np.ones(3), np.full(3, 2.0)))
    assert weight.tolist() == (np.eye(3) / 2).tolist()
    assert bias.tolist() == [-0.5, 0.5, 1.5]


def test_a_head_on_features_of_length_one_normalises_them_and_stays_in_float32():
    torch.manual_seed(0)
    head, x = RefittedHead(8, 3, normalise=True), torch.randn(5, 8) * 100
    unit = torch.from_numpy(normalize(x.numpy()))
    torch.testing.assert_close(head(x), unit @ head.weight.T + head.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), RefittedHead.forward(head, x.float()))
        assert head(x).dtype == torch.float32


def test_balanced_subsets_have_equal_groups_and_halves_split_every_group():
    group = np.repeat([0, 1, 3], [9, 4, 1])
    data = FeatureSet(np.arange(14, dtype=np.float32)[:, None], group // 2, group, SPEC)
    subset = data.subset(np.flatnonzero(group < 3)).balanced(np.random.default_rng(0))
    assert np.bincount(subset.group).tolist() == [4, 4]
    assert len(np.unique(subset.x)) == 8
    fit_on, choose_by = data.halved(np.random.default_rng(0))
    assert np.bincount(fit_on.group, minlength=4).tolist() == [5, 2, 0, 1]
    assert np.bincount(choose_by.group, minlength=4).tolist() == [4, 2, 0, 0]
    assert sorted([*fit_on.x[:, 0], *choose_by.x[:, 0]]) == list(range(14))


@pytest.mark.parametrize("value", [1.1e30, -2e38, np.inf, np.nan])
def test_features_too_large_for_a_fit_are_one_sentence(value):
    x, codes = np.full((4, 3), 0.9e30, np.float32), np.array([0, 1, 0, 1])
    FeatureSet(x, codes, codes, SPEC).check_size("val")
    x[2, 1] = value
    said = r"features of the 'val' rows reach .*, and a logistic .* diverged: train with a lower learning rate"
    with pytest.raises(DataError, match=said):
        FeatureSet(x, codes, codes, SPEC).check_size("val")


def test_the_grid_tries_each_weight_on_each_class():
    assert grid((1.0, 0.1), (), 2) == [Candidate(1.0, ONES), Candidate(0.1, ONES)]
    weights = [candidate.class_weights for candidate in grid((1.0,), (1.0, 5.0), 3)]
    assert weights == [(1, 1, 1), (5, 1, 1), (1, 5, 1), (1, 1, 5)]
    assert len(grid((1.0,) * 1, (1.0, 2.0, 3.0, 10.0, 100.0, 300.0, 1000.0), 2)) == 13  # DFR's 14 with one repeat


def test_the_best_candidate_has_the_best_worst_group_and_the_first_of_equals():
    data, other = features(400, 20, SPEC), features(400, 20, SPEC, seed=1)
    candidates = grid((1e-6, 1.0, 1.0), (), 2)  # the first fits nothing
    best, table = choose(candidates, data, other, "worst_group", SOLVER)
    assert best is candidates[1]
    assert [line["c"] for line in table] == [1e-6, 1.0, 1.0]
    heads = fit_logistic([(data, c, "tune") for c in candidates], SOLVER)
    right = heads[1].predict(other.x) == other.label
    assert table[1]["worst_group_accuracy"] == min(right[other.group == g].mean() for g in range(4))
    aligned = other.subset(np.flatnonzero((other.group == 0) | (other.group == 3)))
    with pytest.raises(DataError, match=r"dfr\.criterion is 'minority', undefined on the"):
        choose(candidates, data, aligned, "minority", SOLVER)


def test_a_head_inside_the_network_cannot_be_replaced():
    with pytest.raises(UsageError, match="the head of SqueezeNet is a Conv2d"):
        install_head(make_model("squeezenet1_1", 2), 2, normalise=False)
    model = make_model("maxvit_t", 2)  # its head has no bias
    assert install_head(model, 3, normalise=False) is model.classifier[-1]


# --- whole runs ----------------------------------------------------------------------------------

DFR = ["--training.method", "dfr", "--dfr.c_grid", "1,0.1,0.01", "--dfr.refits", "3"]


def _without_dfr(args: list[str]) -> list[str]:
    """Return the arguments without DFR's own, which a preset gives."""
    start = args.index(DFR[0])
    return args[:start] + args[start + len(DFR) :]


def results(outdir: Path, method: str = "dfr") -> tuple[dict, Path]:
    found = [p for p in outdir.rglob("results.json") if json.loads(p.read_text())["method"] == method]
    (path,) = found
    return json.loads(path.read_text()), path.parent


@pytest.fixture(scope="module")
def finished(toy_betons, tmp_path_factory):
    """Return the arguments and the folder of an ERM run and a DFR run on top of it."""
    outdir = tmp_path_factory.mktemp("dfr")
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": outdir,
        "model.arch": "small_resnet",
        "training.epochs": 1,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.lr_scheduler": "cosine",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "none",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.selection": "last",
    }
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run(args) == 0
    assert run([*args, *DFR]) == 0
    return args, outdir


@pytest.fixture(scope="module")
def on_erm(finished) -> list[str]:
    """Return the arguments of a DFR run on the ERM run's checkpoint, which trains nothing."""
    args, outdir = finished
    return [*args, *DFR, "--dfr.checkpoint", str(results(outdir, "erm")[1] / "checkpoints/checkpoint_best.pt")]


def test_dfr_beats_the_worst_group_of_its_base(finished):
    _, outdir = finished
    (erm, _), (dfr, _) = results(outdir, "erm"), results(outdir)
    assert dfr["test"]["worst_group_accuracy"] > erm["test"]["worst_group_accuracy"] + 0.3
    assert dfr["selected_epoch"] == erm["selected_epoch"] == 1
    assert set(dfr["timing"]["phases"]) == {"train", "dfr"}


def test_the_notes_say_how_the_head_was_chosen(finished):
    notes = results(finished[1])[0]["notes"]["dfr"]
    assert [line["c"] for line in notes["tuning"]] == [1.0, 0.1, 0.01]
    best = max(notes["tuning"], key=lambda line: (line["worst_group_accuracy"], line["mean_group_accuracy"]))
    assert notes["c"] == best["c"]
    assert (notes["base"], notes["fitted_on"], notes["tuned_on"]) == ("erm", "val", "half of val")
    assert (notes["refits"], notes["unconverged"]) == (3, 0)
    assert len(set(notes["rows_of_a_refit"].values())) == 1


def test_the_saved_model_is_the_mean_of_refits_on_the_cached_features(finished):
    args, outdir = finished
    _, folder = results(outdir)
    saved = load_checkpoint(folder / "checkpoints/phase_dfr.pt")["state_dict"]
    base = load_checkpoint(folder / "checkpoints/phase_train.pt")["state_dict"]
    assert all(torch.equal(saved[name], base[name]) for name in base if not name.startswith("fc."))
    with ExitStack() as stack:
        opened = stack.enter_context(
            open_run(load([], [*args, *DFR, "--training.outdir", str(outdir / "again"), "--dfr.max_iter", "9999"]))
        )
        val = opened.views["val"]
        train, fit = (
            torch.load(next((outdir / "features").glob(f"toy_{split}_*")), weights_only=True)["features"].numpy()
            for split in ("train", "val")
        )
        data = FeatureSet(Scaling.of(train, 128)(fit), val.label[val.rows], val.group[val.rows], val.spec)
    candidate = Candidate(json.loads((folder / "results.json").read_text())["notes"]["dfr"]["c"], ONES)
    heads = fit_logistic(
        [(data.balanced(_dfr_rng(i)), candidate, f"refit {i}") for i in range(3)], Solver("l1", 10000, 0)
    )
    weight, bias = folded(average(heads), Scaling.of(train, 128))
    torch.testing.assert_close(saved["fc.weight"], weight)
    torch.testing.assert_close(saved["fc.bias"], bias)


def _dfr_rng(i: int) -> np.random.Generator:
    from debeton.system.seed import make_rng

    return make_rng(0, "dfr refit", i)


def test_another_grid_takes_the_features_from_disk_and_a_finished_fit_is_taken_over(on_erm, monkeypatch):
    other = [*on_erm, "--dfr.c_grid", "0.3"]

    def no_forward_pass(*arguments, **settings):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(debeton.train.features, "extract_features", no_forward_pass)
    config = load([], other)
    with open_run(config) as opened:
        first = METHODS.get("dfr").run(opened)
        notes = opened.notes
    assert notes["dfr"]["c"] == 0.3
    assert notes["dfr"]["tuning"] == []

    def no_fit(*arguments):
        raise AssertionError("the head was fitted again")

    monkeypatch.setattr("debeton.methods.dfr.fit_logistic", no_fit)
    with open_run(config) as opened:
        second = METHODS.get("dfr").run(opened)
        assert opened.notes == notes
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_a_stop_during_the_phase_leaves_before_the_fit_and_the_run_resumes(finished, tmp_path, monkeypatch):
    args, outdir = finished
    again = [*args, *DFR, "--training.outdir", str(tmp_path)]
    config = load([], again)
    extract = debeton.train.features.extract_features
    with open_run(config) as opened:

        def stopped(*arguments, **settings):
            opened.stop.signum = 15
            return extract(*arguments, **settings)

        monkeypatch.setattr(debeton.train.features, "extract_features", stopped)
        with pytest.raises(Preempted):
            METHODS.get("dfr").run(opened)
    monkeypatch.undo()
    assert run(again) == 0
    (ours, one), (theirs, two) = results(tmp_path), results(outdir)
    assert ours["test"] == theirs["test"]
    assert ours["notes"] == theirs["notes"]
    left, right = (load_checkpoint(f / "checkpoints/phase_dfr.pt")["state_dict"] for f in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_two_processes_refit_the_head_of_one(finished, on_erm, two_processes, tmp_path):
    assert run([*on_erm, "--training.outdir", str(tmp_path / "one")]) == 0
    two_processes([*on_erm, "--training.outdir", tmp_path / "two"])
    (one, _), (two, _) = results(tmp_path / "one"), results(tmp_path / "two")
    assert one["notes"]["dfr"]["c"] == two["notes"]["dfr"]["c"]
    assert one["test"]["group_accuracy"] == pytest.approx(two["test"]["group_accuracy"], abs=0.02)
    for file in (tmp_path / "one/features").iterdir():
        left, right = (
            torch.load(f / "features" / file.name, weights_only=True)["features"]
            for f in (tmp_path / "one", tmp_path / "two")
        )
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    reference, _ = results(finished[1])
    assert one["test"] == reference["test"]  # the same network, from a checkpoint
    assert one["selected_epoch"] is None


def test_scales_variant_fits_the_target_as_it_is_and_chooses_by_the_minority(on_erm, toy_betons, tmp_path):
    preset = ["--config-file", str(ROOT / "dataset_configs/methods/dfr_scale.yaml")]
    target = ["--data.target_path", str(toy_betons / "toy_train.beton"), "--training.outdir", str(tmp_path)]
    assert run([*_without_dfr(on_erm), *preset, *target]) == 0
    notes = results(tmp_path)[0]["notes"]["dfr"]
    assert (notes["fitted_on"], notes["tuned_on"], notes["refits"]) == ("target", "val", 1)
    assert sum(notes["rows_of_a_refit"].values()) == 512
    best = max(line["bias_conflicting_accuracy"] for line in notes["tuning"])
    assert {line["c"]: line for line in notes["tuning"]}[notes["c"]]["bias_conflicting_accuracy"] == best
    assert len(notes["tuning"]) == 9


def test_ffrs_variant_ends_in_a_head_on_features_of_length_one(on_erm, tmp_path):
    preset = ROOT / "dataset_configs/methods/dfr_ffr.yaml"
    config = load([preset], [*_without_dfr(on_erm), "--training.outdir", str(tmp_path), "--dfr.refits", "2"])
    with open_run(config) as opened:
        model = METHODS.get("dfr").run(opened)
        assert model.fc.normalise
        val = evaluate(opened, model, "val").metrics
        assert val["worst_group_accuracy"] > 0.6


def test_the_training_rows_with_class_weights(on_erm, tmp_path):
    preset = str(ROOT / "dataset_configs/methods/dfr_train.yaml")
    extra = [
        "--training.outdir",
        str(tmp_path),
        "--dfr.refits",
        "2",
        "--dfr.class_weights",
        "1,10",
        "--dfr.c_grid",
        "0.1",
        "--dfr.cache",
        "false",
    ]
    assert run([*_without_dfr(on_erm), "--config-file", preset, *extra]) == 0
    notes = results(tmp_path)[0]["notes"]["dfr"]
    assert [line["class_weights"] for line in notes["tuning"]] == [[1, 1], [10, 1], [1, 10]]
    assert not (tmp_path / "features").exists()


def test_an_untrained_base_is_refused_and_a_published_one_is_not_trained(finished, tmp_path, capsys):
    args, _ = finished
    args = [*args, *DFR, "--dfr.base", "pretrained", "--dfr.scaler", "data", "--training.outdir", str(tmp_path)]
    assert run(args) == 2
    assert "add --model.pretrained true" in capsys.readouterr().err
    assert run([*args, "--model.arch", "efficientnet_lite0", "--model.pretrained", "true"]) == 0
    found, folder = results(tmp_path)
    assert found["selected_epoch"] is None
    assert set(found["timing"]["phases"]) == {"dfr"}
    assert not (folder / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        (["--dfr.c_grid", "1,0,0.1"], 2, ["dfr.c_grid is '1,0,0.1'", "numbers above 0 separated by commas"]),
        (["--dfr.c_grid", ""], 2, ["dfr.c_grid"]),
        (["--dfr.class_weights", "-1"], 2, ["dfr.class_weights is '-1'"]),
        (["--dfr.tune", "val"], 2, ["C would be chosen on the rows that were fitted"]),
        (["--dfr.data", "target"], 2, ["dfr.data is 'target'", "--data.target_path"]),
        (["--dfr.base", "ermm"], 2, ["unknown method 'ermm'", "did you mean 'erm'"]),
        (["--dfr.base", "dfr"], 2, ["dfr.base is 'dfr' itself"]),
        (["--dfr.checkpoint", "gone.pt"], 1, ["no checkpoint at gone.pt"]),
        (["--model.arch", "squeezenet1_1"], 2, ["the head of SqueezeNet"]),
    ],
)
def test_wrong_use_is_one_sentence_and_its_status(toy_args, capsys, extra, status, words):
    assert run([*toy_args, *DFR, *extra]) == status
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": {"arch": "resnet18"}}, 2, ["its arch is resnet18, this run's is small_resnet"]),
        ({"model": {"mean": [0.0, 0.0, 0.0]}}, 2, ["its mean is [0.0, 0.0, 0.0]", "--model.normalisation"]),
        ({"model": {"num_classes": 9}}, 2, ["its num_classes is 9, this run's is 2"]),
        ({"model": None, "state_dict": {"a": torch.zeros(2)}}, 1, ["45 missing: stem.0.weight"]),
        ({"state_dict": {"fc.weight": torch.zeros(2, 128)}}, 1, ["does not hold the weights of small_resnet"]),
        (None, 1, ["cannot be read as a checkpoint"]),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(finished, tmp_path, capsys, change, status, words):
    args, outdir = finished
    content = load_checkpoint(results(outdir, "erm")[1] / "checkpoints/checkpoint_best.pt")
    path = tmp_path / "base.pt"
    if change is None:
        path.write_bytes(b"no checkpoint")
    else:
        for key, value in change.items():
            merged = {**content[key], **value} if key == "model" and value is not None else value
            content[key] = merged
        save_checkpoint(path, content)
    assert run([*args, *DFR, "--dfr.checkpoint", str(path), "--training.outdir", str(tmp_path)]) == status
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error


def test_an_empty_group_is_named_with_its_count(toy_args, write_toy, tmp_path, capsys):
    write_toy(tmp_path / "only.beton", 128, 1.0)
    args = [*toy_args, *DFR, "--data.val_path", str(tmp_path / "only.beton"), "--training.epochs", "1"]
    assert run(args) == 1
    error = capsys.readouterr().err
    assert "2 of 4 groups of view 'val' have fewer rows than the 2 that halves of balanced groups need" in error
    assert "left, light: 0; right, dark: 0" in error
    assert not list((tmp_path / "runs").rglob("phase_train.pt"))  # said before training
    assert run([*args, "--training.empty_groups", "ignore"]) == 0
    assert set(results(tmp_path / "runs")[0]["notes"]["dfr"]["rows_of_a_refit"]) == {"left, dark", "right, light"}


@pytest.mark.parametrize("dry", [True, False])
def test_a_checkpoint_that_is_not_there_is_named_before_anything_is_trained(toy_args, tmp_path, capsys, dry):
    words = ["--training.method", "dfr", "--dfr.checkpoint", tmp_path / "none.pt", *(["--dry-run"] if dry else [])]
    assert run([*toy_args, *words]) == 1
    assert f"no checkpoint at {tmp_path / 'none.pt'}" in capsys.readouterr().err


def test_changed_settings_of_the_last_layer_keep_the_base_of_an_earlier_run(toy_args, tmp_path):
    """The second run takes phase 'train' from the first, and ends as a run from scratch does."""
    args = [*toy_args, "--training.method", "dfr", "--dfr.refits", "2", "--dfr.cache", "false"]
    weights = {}
    for out, grids in (("a", ("1.0", "0.1")), ("b", ("0.1",))):
        for value in grids:
            assert run([*args, "--training.outdir", tmp_path / out, "--dfr.c_grid", value]) == 0
    for out in "ab":
        (folder,) = [
            f for f in (tmp_path / out).glob("*/version_0") if load([f / "config.yaml"])["dfr.c_grid"] == (0.1,)
        ]
        records = json.loads((folder / "checkpoints" / "phases.json").read_text())
        assert [bool(record["taken_from"]) for record in records.values()] == [out == "a", False]
        weights[out] = load_checkpoint(folder / "checkpoints" / "checkpoint_best.pt")["state_dict"]
    assert all(torch.equal(weights["a"][name], weights["b"][name]) for name in weights["b"])


def test_a_base_is_trained_again_where_the_code_of_a_plugin_changed(toy_args, tmp_path, monkeypatch):
    args = [*toy_args, "--training.method", "dfr", "--dfr.refits", "2", "--training.outdir", tmp_path]
    for value, sha256 in (("1.0", "a" * 64), ("0.1", "a" * 64), ("10.0", "b" * 64)):
        monkeypatch.setattr(plugins, "_LOADED", {"p.py": plugins.Plugin("p.py", "p.py", sha256)})
        assert run([*args, "--dfr.c_grid", value]) == 0
    records = [json.loads(file.read_text())["train"] for file in tmp_path.rglob("phases.json")]
    assert sorted(bool(record["taken_from"]) for record in records) == [False, False, True]


def test_a_base_with_another_seed_or_rate_or_rows_is_trained(toy_args, tmp_path):
    args = [*toy_args, "--training.method", "dfr", "--dfr.refits", "2", "--dfr.c_grid", "1.0"]
    for changes in ([], ["--training.seed", "1"], ["--training.lr", "0.3"], ["--data.mini_dataset", "0.5"]):
        assert run([*args, "--training.outdir", tmp_path, "--training.exp_name", "one", *changes]) == 0
    records = [json.loads(file.read_text())["train"] for file in tmp_path.rglob("phases.json")]
    assert [record["taken_from"] for record in records] == [""] * 4
    assert len({record["identity"] for record in records}) == 4
