"""Tests of ddb1 and ddb2: the rows called bias-conflicting, the weights of recipe II, and whole runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run
from torch import nn
from torchvision.models._api import WeightsEnum

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.generate.generators.cdpm import CdpmGenerator
from debeton.methods.finders.ddb import SCORES
from debeton.methods.parts.amplifier import Scores, Selector, describe_scores, loss_outliers, select_conflicting
from debeton.methods.parts.relative_difficulty import RelativeDifficulty
from debeton.methods.parts.row_weights import RowWeights
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.keeper import PhaseKeeper

SPEC = DatasetSpec("toy", ("a", "b"), ("x", "y"), aligned=((0,), (1,)))
TINY = {
    "training.epochs": 1,
    "training.selection": "worst_group",
    "cdpm.epochs": 1,
    "cdpm.widths": "8,16",
    "cdpm.layers": 1,
    "cdpm.attention": 0,
    "cdpm.optimizer": "adamw",
    "cdpm.lr": 1e-3,
    "cdpm.batch_size": 64,
    "amplifier.arch": "small_resnet",
    "amplifier.pretrained": "false",
    "amplifier.epochs": 1,
    "ddb.per_class": 12,
    "ddb.steps": 3,
    "ddb.generation_batch": 8,
}


def given(values: dict[str, object]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


# --- which rows are called conflicting -----------------------------------------------------------


def scores(label: list[int], predicted: list[int], loss: list[float]) -> Scores:
    return Scores(np.array(label), np.array(predicted), np.array(loss, np.float32))


def test_outliers_are_errors_above_the_mean_of_their_class_by_gamma_deviations():
    # class 0: correct losses 0, 1, 2: mean 1, deviation sqrt(2/3) = 0.816; class 1: correct 0.5, 0.5: 0.5, 0
    row_scores = scores([0] * 6 + [1] * 4, [0, 0, 0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 2, 1.8, 1.9, 5, 0.5, 0.5, 0.4, 0.6])
    assert loss_outliers(row_scores, 1.0, "correct").tolist() == [False] * 4 + [True, True] + [False] * 3 + [True]
    # of all rows of class 0: mean 1.95, deviation 1.52, bound 3.47; of class 1: 0.5, 0.07, bound 0.57
    assert loss_outliers(row_scores, 1.0, "all").tolist() == [False] * 5 + [True] + [False] * 3 + [True]
    assert loss_outliers(row_scores, 0.0, "correct").sum() == 4


def test_a_correct_row_of_high_loss_is_no_outlier():
    assert not loss_outliers(scores([0, 0, 0], [0, 0, 0], [0, 0, 9]), 0.5, "all").any()


def test_without_a_correct_row_every_row_of_the_class_is_conflicting():
    assert loss_outliers(scores([0, 0, 1], [1, 1, 1], [1, 2, 0]), 3.0, "correct").tolist() == [True, True, False]


def test_a_class_with_one_outlier_has_its_whole_error_set(caplog):
    row_scores = scores([0] * 5, [0, 0, 1, 1, 1], [1, 1.1, 1, 1, 9])
    assert loss_outliers(row_scores, 3.0, "correct").sum() == 1
    with caplog.at_level("INFO", "debeton"):
        assert select_conflicting(row_scores, Selector(gamma=3.0), ("a",)).tolist() == [False, False, True, True, True]
    assert "class a: fewer than 2 rows" in caplog.text
    assert select_conflicting(row_scores, Selector("error_set"), ("a",)).tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_auroc_is_the_share_of_pairs_in_the_right_order(paper_view):
    label, attribute = [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0, 1]
    view: View = paper_view(label, attribute, SPEC)
    loss = [1.0, 3.0, 2.0, 4.0, 0.1, 0.1, 0.3]
    description = describe_scores(view, scores(label, label, loss))
    conflicting = [0, 0, 1, 1, 0, 1, 0]

    def pairs(rows: list[int]) -> float:
        high = [loss[i] for i in rows if conflicting[i]]
        low = [loss[i] for i in rows if not conflicting[i]]
        return float(np.mean([(h > lo) + 0.5 * (h == lo) for h in high for lo in low]))

    assert description["auroc"] == pytest.approx(pairs(list(range(7))))
    assert description["auroc_by_class"] == {
        "a": pytest.approx(pairs([0, 1, 2, 3])),
        "b": pytest.approx(pairs([4, 5, 6])),
    }
    assert describe_scores(paper_view([0, 1], [0, 1], SPEC), scores([0, 1], [0, 0], [1, 1]))["auroc"] is None


# --- recipe II -----------------------------------------------------------------------------------


class Table(nn.Module):
    """A model whose image is a number, and whose logits are that row of a table."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits[image.long()]


def batch_of(view: View, rows: list[int]) -> Batch:
    row = torch.tensor(rows)
    columns = {name: torch.from_numpy(getattr(view, name))[row] for name in ("label", "attribute", "group")}
    return Batch(image=row.float(), row=row, source=torch.zeros_like(row), share=1.0, **columns)


@pytest.mark.parametrize("ema", [0.0, 0.7])
@pytest.mark.parametrize("class_norm", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_recipe_2_is_the_published_weight_in_float64(paper_view, ema, class_norm, clean):
    label = [0, 0, 0, 1, 1, 1]
    view: View = paper_view(label, [0, 1, 0, 1, 1, 0], SPEC)
    torch.manual_seed(0)
    model, amplifier = Table(torch.randn(6, 2)), Table(3 * torch.randn(6, 2))
    table = nn.functional.cross_entropy(amplifier.logits.detach(), torch.tensor(label), reduction="none")
    objective = RelativeDifficulty(
        view,
        marked=torch.zeros(6, dtype=torch.bool),
        amplifier=None if clean else amplifier,
        losses=table if clean else None,
        ema=ema,
        class_norm=class_norm,
    )
    averages: dict[int, tuple[float, float]] = {}
    for rows in ([0, 1, 3, 4], [2, 5, 0, 3], [1, 0, 4, 5]):
        with torch.no_grad():
            model.logits.mul_(1.3)
        loss = objective(model, batch_of(view, rows)).loss
        model_loss = {}
        for row in rows:
            logits = [net.logits[row].detach().double() for net in (amplifier, model)]
            pair = [-float(values.log_softmax(0)[label[row]]) for values in logits]
            old = averages.get(row)
            moved = pair if old is None else [ema * a + (1 - ema) * b for a, b in zip(old, pair)]
            averages[row], model_loss[row] = (moved[0], moved[1]), pair[1]
        expected = 0.0
        for row in rows:
            largest = [
                max(averages[r][k] for r in averages if label[r] == label[row]) if class_norm else 1.0 for k in (0, 1)
            ]
            hard, own = averages[row][0] / largest[0], averages[row][1] / largest[1]
            expected += hard / (hard + own) * model_loss[row] / len(rows)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_amplifier_is_not_trained_saved_or_put_in_training_mode(paper_view):
    view: View = paper_view([0, 1], [0, 1], SPEC)
    amplifier = nn.Sequential(Table(torch.zeros(2, 2)), nn.BatchNorm1d(2))
    marked = torch.zeros(2, dtype=torch.bool)
    objective, model = RelativeDifficulty(view, marked=marked, amplifier=amplifier), Table(torch.randn(2, 2))
    objective.train()
    objective(model, batch_of(view, [0, 1])).loss.backward()
    assert not amplifier.training
    assert all(p.grad is None and not p.requires_grad for p in amplifier.parameters())
    assert model.logits.grad is not None
    assert not any("amplifier" in name for name in objective.state_dict())
    with pytest.raises(ValueError, match="either an amplifier or its losses"):
        RelativeDifficulty(view, marked=marked)


def test_nearly_all_weight_on_marked_rows_warns_of_an_inverted_shortcut(paper_view, caplog):
    view: View = paper_view([0, 0, 0, 1], [0, 0, 1, 1], SPEC)
    marked, model = torch.tensor([False, False, True, False]), Table(torch.zeros(4, 2))  # a loss of log 2 everywhere
    for sure, inverting in ((1e-3, True), (0.3, False)):
        losses = torch.tensor([sure, sure, 5.0, sure])
        objective = RelativeDifficulty(view, marked=marked, losses=losses)
        objective(model, batch_of(view, [0, 2]))
        objective(model, batch_of(view, [1, 3]))
        weights = losses.double() / (losses.double() + np.log(2))
        caplog.clear()
        with caplog.at_level("WARNING", "debeton"):
            share = objective.summary()["weight_share_of_marked"]
        assert share == pytest.approx(float(weights[2] / weights.sum()), rel=1e-6)
        assert ("% of the weight is on rows called bias-conflicting" in caplog.text) == inverting
        assert objective.summary()["weight_share_of_marked"] is None


def test_a_summary_has_weights_by_group_and_tenth_and_starts_anew(paper_view, caplog):
    view: View = paper_view([0, 0, 1, 1], [0, 1, 1, 0], SPEC)
    weights = RowWeights(view)
    weights.update(torch.tensor([0, 1, 2, 3, 1]), torch.tensor([0.05, 0.95, 0.15, 1.0, 0.85]))
    summary = weights.summary()
    assert summary["weight_aligned"] == pytest.approx(0.1)
    assert summary["weight_conflicting"] == pytest.approx((0.95 + 1.0 + 0.85) / 3)
    assert summary["weight_by_group"] == {
        "a, x": pytest.approx(0.05),
        "a, y": pytest.approx(0.9),
        "b, x": pytest.approx(1.0),
        "b, y": pytest.approx(0.15),
    }
    assert summary["weight_by_tenth"] == {
        "aligned": [1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "conflicting": [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    }  # fmt: skip
    assert not caplog.records
    weights.update(torch.tensor([0, 1]), torch.tensor([0.01, 0.02]))
    with caplog.at_level("WARNING", "debeton"):
        assert weights.summary()["weight_aligned"] == pytest.approx(0.01)
    assert "100.0 % of the weights are below 0.1" in caplog.text


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def amplified(toy_betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of ddb1 that trained every phase itself."""
    out = tmp_path_factory.mktemp("ddb")
    base = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": out,
        "training.batch_size": 64,
        "model.arch": "small_resnet",
        "training.lr": 0.05,
        "training.lr_scheduler": "cosine",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "none",
        "logging.tensorboard": "false",
        "training.device": "cpu",
    }
    assert run(["--training.method", "ddb1", *given({**base, **TINY})]) == 0
    return folder_of(out)


def notes_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["notes"]["ddb"]


def test_one_command_trains_a_diffusion_model_an_amplifier_and_the_debiased_network(amplified):
    phases = json.loads((amplified / "checkpoints" / "phases.json").read_text())
    assert list(phases) == ["cdpm", "amplifier", "train"]
    notes = notes_of(amplified)
    assert notes["given"] == []
    assert notes["images"]["rows"] == 24
    assert len(list((amplified / "synthetic").rglob("*.png"))) == 24 + len(list(amplified.rglob("sheets/*.png")))
    assert (amplified / "nearest_images.png").is_file()
    with (amplified / SCORES).open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 512 == notes["training_rows"]["rows"]
    assert set(records[0]) == {"path", "label", "attribute", "y", "prediction", "loss", "ddb", "score"}
    assert all(r["ddb"] == "0" or r["y"] != r["prediction"] for r in records)  # only errors are conflicting
    assert sum(r["ddb"] == "1" for r in records) == notes["training_rows"]["conflicting_rows"]
    held_out = next(line for line in lines_of(amplified) if line["phase"] == "amplifier" and line["split"] == "val")
    assert sum(held_out["metrics"]["group_count"].values()) == 2  # a tenth of 12 of each class, rounded


def test_an_amplifier_of_another_run_is_taken_instead_of_training_one(amplified, toy_args, tmp_path):
    words = given({**TINY, "ddb.amplifier": amplified / "checkpoints" / "phase_amplifier.pt"})
    for method, extra in (("ddb1", {}), ("ddb2", {"ddb.amplifier_view": "clean"}), ("ddb2", {"ddb.ema": 0.7})):
        out = tmp_path / f"{method}{len(extra)}{''.join(extra)}"
        args = [*toy_args, "--training.outdir", out, *words, *given(extra), "--training.method", method]
        assert run(args) == 0
        folder = folder_of(out)
        assert list(json.loads((folder / "checkpoints" / "phases.json").read_text())) == ["train"]
        assert notes_of(folder)["given"] == ["amplifier"]
        assert (folder / SCORES).read_text() == (amplified / SCORES).read_text()
    summary = next(line["objective"] for line in lines_of(folder) if line["split"] == "train")
    assert sum(map(sum, summary["weight_by_tenth"].values())) == 512


def test_pseudo_labels_from_a_file_are_the_groups_that_a_run_of_its_own_makes(amplified, toy_args, tmp_path):
    weights = []
    checkpoint = amplified / "checkpoints" / "phase_amplifier.pt"
    for name, value in (("pseudo_labels", amplified / SCORES), ("amplifier", checkpoint)):
        out, words = tmp_path / name, given({**TINY, f"ddb.{name}": value, "ddb.validation": "own"})
        assert run([*toy_args, "--training.outdir", out, *words, "--training.method", "ddb1"]) == 0
        weights.append(load_checkpoint(folder_of(out) / "checkpoints" / "checkpoint_best.pt")["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_images_and_a_diffusion_model_of_another_run_are_taken(amplified, toy_args, tmp_path):
    for name, value in (("images", amplified / "synthetic"), ("cdpm", amplified)):
        out = tmp_path / name
        words = given({**TINY, f"ddb.{name}": value})
        assert run([*toy_args, "--training.outdir", out, *words, "--training.method", "ddb2"]) == 0
        phases = json.loads((folder_of(out) / "checkpoints" / "phases.json").read_text())
        assert list(phases) == ["amplifier", "train"]


def test_the_ablation_trains_the_amplifier_on_the_training_rows(toy_args, tmp_path):
    words = given({**TINY, "ddb.amplifier_data": "real", "amplifier.match_resolution": 8})
    assert run([*toy_args, *words, "--training.method", "ddb1"]) == 0
    folder = folder_of(tmp_path / "runs")
    assert not (folder / "synthetic").exists()
    trained = next(x for x in lines_of(folder) if x["phase"] == "amplifier" and x["split"] == "train")
    assert 455 <= sum(trained["metrics"]["group_count"].values()) <= 465  # nine tenths of 512, rounded by group


def test_a_stopped_run_goes_on_where_it_was(amplified, tmp_path):
    """Resume as after a kill in the last phase, which leaves no results and no checkpoint of that phase."""
    copy = tmp_path / amplified.parent.name / amplified.name
    shutil.copytree(amplified, copy)
    before = load_checkpoint(copy / "checkpoints" / "phase_train.pt")["state_dict"]
    for name in ("results.json", "results.pt", "checkpoints/phase_train.pt", "checkpoints/checkpoint_latest.pt"):
        (copy / name).unlink()
    records = copy / "checkpoints" / "phases.json"
    records.write_text(json.dumps({k: v for k, v in json.loads(records.read_text()).items() if k != "train"}))
    drawn = {path: path.stat().st_mtime_ns for path in copy.rglob("0*.png")}
    assert run(["--config-file", amplified / "config.yaml", "--training.outdir", tmp_path]) == 0
    after = load_checkpoint(copy / "checkpoints" / "phase_train.pt")["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("0*.png")} == drawn


def test_a_run_that_is_asked_to_stop_while_it_draws_goes_on_with_the_same_images(amplified, tmp_path, monkeypatch):
    real, batches = CdpmGenerator.sample, []

    def sample(self, requests):
        batches.append(len(requests))
        if len(batches) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, requests)

    monkeypatch.setattr(CdpmGenerator, "sample", sample)
    command = ["--config-file", amplified / "config.yaml", "--training.outdir", tmp_path]
    assert run(command) == 128 + signal.SIGTERM
    assert batches == [8]
    assert run(command) == 0
    assert sum(batches) == 24

    def drawn(folder: Path) -> dict[str, str]:
        lines = (folder / "synthetic" / "manifest.jsonl").read_text().splitlines()
        return {line["path"]: line["sha256"] for line in map(json.loads, lines)}

    assert drawn(folder_of(tmp_path)) == drawn(amplified)


# Changed settings, and the phases that a run then takes over and trains.
MENDED = {
    "loss": ({"ddb.gamma": 1.5}, ["cdpm", "amplifier"], ["train"]),
    "network": ({"training.lr": 0.02, "training.momentum": 0.5}, ["cdpm", "amplifier"], ["train"]),
    "amplifier": ({"amplifier.lr": 2e-3}, ["cdpm"], ["amplifier", "train"]),
    "fewer images": ({"ddb.per_class": 11}, ["cdpm"], ["amplifier", "train"]),
    "more images": ({"ddb.per_class": 13}, ["cdpm"], ["amplifier", "train"]),
    "diffusion": ({"cdpm.dropout": 0.2}, [], ["cdpm", "amplifier", "train"]),
}


@pytest.mark.parametrize("change", MENDED)
def test_a_mended_later_phase_keeps_the_earlier_ones_and_gives_the_result_of_a_run_from_scratch(
    amplified, tmp_path, monkeypatch, change
):
    settings, kept, trained = MENDED[change]
    shutil.copytree(amplified, tmp_path / "mended" / "ddb" / "version_0")
    steps: list[str] = []
    real = PhaseKeeper.save
    monkeypatch.setattr(PhaseKeeper, "save", lambda self: steps.append(self.name) or real(self))
    drawn: list[int] = []
    sample = CdpmGenerator.sample
    monkeypatch.setattr(CdpmGenerator, "sample", lambda self, asked: drawn.append(len(asked)) or sample(self, asked))
    states = {}
    for name in ("mended", "scratch"):
        words = given({**settings, "training.outdir": tmp_path / name, "training.exp_name": "ddb"})
        assert run(["--config-file", amplified / "config.yaml", *words]) == 0
        folder = max((tmp_path / name / "ddb").iterdir())
        records = json.loads((folder / "checkpoints" / "phases.json").read_text())
        weights = {k: load_checkpoint(folder / "checkpoints" / f"phase_{k}.pt")["state_dict"] for k in records}
        lines = [(x["phase"], x["epoch"], x["split"], x["metrics"]) for x in lines_of(folder)]
        states[name] = weights, lines, (folder / SCORES).read_text()
        if name == "mended":
            assert [phase for phase, record in records.items() if record["taken_from"]] == kept
            assert list(dict.fromkeys(steps)) == trained
            assert sum(drawn) == {"fewer images": 22, "more images": 2, "diffusion": 24}.get(change, 0)
    (left, *rest), (right, *expected) = states["mended"], states["scratch"]
    assert rest == expected
    assert list(right) == ["cdpm", "amplifier", "train"]
    assert all(torch.equal(left[phase][name], right[phase][name]) for phase in right for name in right[phase])


def test_images_that_changed_under_a_stopped_run_are_refused(amplified, toy_args, tmp_path, capsys):
    images = shutil.copytree(amplified / "synthetic", tmp_path / "images")
    command = [*toy_args, *given({**TINY, "ddb.images": images, "training.method": "ddb1"})]
    for status in (0, 0, 1):
        if status:
            first, second = sorted(images.rglob("0*.png"))[:2]
            first.unlink()
            shutil.copyfile(second, first)
        capsys.readouterr()
        assert run(command) == status
        (folder_of(tmp_path / "runs") / "results.json").unlink(missing_ok=True)
    assert "was made of other images than those that are in" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "damage",
    [lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0]], lambda lines: lines[:-1]],
    ids=["a line without its last value", "a line less"],
)
def test_changed_scores_of_a_stopped_run_are_refused(amplified, toy_args, tmp_path, capsys, damage):
    words = given({**TINY, "ddb.amplifier": amplified / "checkpoints" / "phase_amplifier.pt"})
    command = [*toy_args, *words, "--training.method", "ddb1"]
    assert run(command) == 0
    folder = folder_of(tmp_path / "runs")
    (folder / "results.json").unlink()
    (folder / SCORES).write_text("\n".join(damage((folder / SCORES).read_text().splitlines())) + "\n")
    capsys.readouterr()
    assert run(command) == 1
    assert "was changed, or belongs to another run: remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"ddb.images": "nowhere"}, "ddb.images: there is no folder nowhere"),
        ({"ddb.amplifier": "nowhere.pt"}, "ddb.amplifier: there is no file nowhere.pt"),
        ({"ddb.cdpm": "nowhere"}, "no diffusion model of ours in nowhere"),
        ({"cdpm.condition": "group"}, "use --cdpm.condition label"),
        ({"ddb.pseudo_labels": __file__, "training.method": "ddb2"}, "ddb.pseudo_labels are groups, and ddb2 needs"),
        ({"training.label_smoothing": 0.1, "training.method": "ddb2"}, "ddb2 compares the plain losses"),
    ],
)
def test_wrong_settings_end_with_a_sentence_and_status_2(toy_args, capsys, extra, words):
    assert run([*toy_args, *given({**TINY, "training.method": "ddb1", **extra})]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no route to host")


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        ({"amplifier.arch": "densenet121", "amplifier.pretrained": "true"}, 1, "weights of densenet121 could not be"),
        ({"amplifier.arch": "densnet121"}, 2, "unknown model 'densnet121'; did you mean 'densenet121'?"),
        ({"amplifier.pretrained": "true"}, 2, "small_resnet has no published weights"),
        ({"amplifier.decoder_train": "centre"}, 2, "centre"),
        ({"amplifier.augment": "flop"}, 2, "'flop'; did you mean 'flip'?"),
        ({"ddb.steps": 2000}, 2, "2000 sampling steps are more than the 1000"),
        ({"ddb.oracle": __file__}, 1, "cannot be read as a checkpoint"),
        ({"ddb.amplifier": __file__}, 1, "cannot be read as a checkpoint"),
        ({"ddb.pseudo_labels": __file__}, 1, "test_ddb.py"),
        ({"model.arch": "resnet_18"}, 2, "unknown model 'resnet_18'; did you mean 'resnet18'?"),
        ({"model.pretrained": "true", "model.arch": "resnet18"}, 1, "the weights of resnet18 could not be downloaded"),
        ({"model.checkpoint": __file__}, 1, "cannot be read as a checkpoint"),
        ({"training.decoder_train": "centre"}, 2, "centre"),
        ({"spurious.eval_types": "squre"}, 2, "'squre'; did you mean 'square'?"),
    ],
)
def test_needs_of_later_phases_are_looked_up_before_the_first_one(
    toy_args, capsys, monkeypatch, tmp_path, extra, status, words, dry
):
    monkeypatch.setattr(WeightsEnum, "get_state_dict", no_network)
    monkeypatch.setattr("debeton.methods.finders.ddb.train_diffusion", lambda *args: pytest.fail("a phase began"))
    args = [*toy_args, *given({**TINY, "training.method": "ddb1", **extra}), *(["--dry-run"] if dry else [])]
    assert run(args) == status
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_a_dry_run_of_settings_that_fit_writes_nothing(toy_args, tmp_path, capsys):
    assert run([*toy_args, *given({**TINY, "training.method": "ddb2"}), "--dry-run", "--all"]) == 0
    assert "view train: 512 rows" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_too_few_images_of_a_class_are_named(toy_args, capsys, tmp_path):
    np.save(tmp_path / "left.npy", np.zeros((5, 16, 16, 3), np.uint8))
    np.save(tmp_path / "right.npy", np.zeros((1, 16, 16, 3), np.uint8))
    assert run([*toy_args, *given({**TINY, "training.method": "ddb1", "ddb.images": tmp_path})]) == 1
    assert "holds too few images: right has 1" in capsys.readouterr().err


def test_too_few_rows_for_a_diffusion_model_are_named_before_it_is_trained(toy_args, capsys, tmp_path):
    assert run([*toy_args, *given({**TINY, "training.method": "ddb1", "data.mini_dataset": 0.02})]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "too few training rows for a diffusion model of every class: left has" in message
    assert not list((tmp_path / "runs").rglob("phase_*.pt"))


def test_an_amplifier_of_another_architecture_is_refused(amplified, toy_args, capsys):
    path = amplified / "checkpoints" / "phase_amplifier.pt"
    words = given({**TINY, "ddb.amplifier": path, "amplifier.arch": "small_convnet"})
    assert run([*toy_args, *words, "--training.method", "ddb1"]) == 2
    said = "its arch is small_resnet, this run's is small_convnet; set --amplifier.arch to that of the checkpoint"
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_a_smoothed_amplifier_is_not_sure_of_what_it_has_learnt(toy_args, tmp_path, smoothing):
    for name, grey in (("left.npy", 60), ("right.npy", 180)):
        noise = np.random.default_rng(0).normal(grey, 20, (48, 16, 16, 1)).clip(0, 255).astype(np.uint8)
        np.save(tmp_path / name, np.repeat(noise, 3, axis=3))
    changes = {
        "ddb.images": tmp_path,
        "ddb.copy_check": "false",
        "amplifier.epochs": 6,
        "amplifier.lr": 0.01,
        "amplifier.batch_size": 16,
        "amplifier.holdout": 0,
        "amplifier.label_smoothing": smoothing,
    }
    assert run([*toy_args, *given({**TINY, **changes, "training.method": "ddb1"})]) == 0
    lines = [
        line
        for line in lines_of(folder_of(tmp_path / "runs"))
        if (line["phase"], line["split"]) == ("amplifier", "train")
    ]
    loss = lines[-1]["metrics"]["loss"]
    # Where the smoothed loss is least in two classes, the probability of the label is 0.55.
    assert loss == pytest.approx(-np.log(0.55), abs=0.08) if smoothing else loss < 0.2


def test_an_oracle_says_how_biased_the_images_are(amplified, toy_args, tmp_path) -> None:
    out = tmp_path / "oracle"
    assert run([*toy_args, "--training.outdir", out, "--data.label", "attribute", "--data.attribute", "label"]) == 0
    oracle = folder_of(out) / "checkpoints" / "checkpoint_best.pt"
    bright = {"left.npy": 90, "right.npy": 150}  # all as the shortcut has it
    for name, grey in bright.items():
        noise = np.random.default_rng(0).normal(grey, 25, (12, 16, 16, 1)).clip(0, 255).astype(np.uint8)
        np.save(tmp_path / name, np.repeat(noise, 3, axis=3))
    words = given({**TINY, "ddb.images": tmp_path, "ddb.oracle": oracle})
    out = tmp_path / "runs"
    assert run([*toy_args, "--training.outdir", out, *words, "--training.method", "ddb1"]) == 0
    assert notes_of(folder_of(out))["images"]["aligned_share"] > 0.9
