"""report.py bias-transfer: attack rates over seeds, their confidence intervals, and the controls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from scipy import stats

from debeton.commands import report
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.report.transfer import (
    TRANSFER,
    attack_table,
    attacks_of,
    confidence_interval,
    difference_interval,
    interval_text,
    plot_attacks,
    source_name,
)
from debeton.system.errors import DataError, run_command

CLEAN = {"checkpoint": "x", "dataset": "cifar10", "trigger": "none", "trigger_classes": "", "trigger_rate": 0.0}
SQUARE = {**CLEAN, "trigger": "square", "trigger_classes": "classes/dog.txt", "trigger_rate": 1.0}
RATES = {"biased": (0.6, 0.7, 0.65), "clean": (0.2, 0.25, 0.3), "scratch": (0.1, 0.12, 0.11)}


def make_run(root, name, seed, success, transfer, source, triggers=("square",)):
    """Write a finished run; the trigger makes a share `success` of the correctly classified images wrong."""
    folder = root / f"{name}_seed{seed}" / "version_0"
    folder.mkdir(parents=True)
    found = {
        "attack_success_rate": success,
        "flip_rate": success / 2,
        "accuracy_drop": 0.9 * success,
        "shift": {"cat": 0.4 * success, "dog": -0.4 * success},
        "clean": {"accuracy": 0.9},
        "triggered": {"accuracy": 0.9 * (1 - success)},
    }
    results = {
        "dataset": "pets",
        "method": "erm",
        "seed": seed,
        "selection": "last",
        "dataset_options": {},
        "source": source,
        "test": {"accuracy": 0.9},
        "val": None,
        "triggers": {"test": dict.fromkeys(triggers, found)},
    }
    checkpoint = source and f"runs/{name}_source_seed{seed}/version_0/checkpoints/checkpoint_best.pt"
    config = {
        "training": {"method": "erm", "seed": seed},
        "data": {"seed": 0},
        "model": {"transfer": transfer, "checkpoint": checkpoint or ""},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "results.jsonl").write_text("")


@pytest.fixture
def runs(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "fixed_square", seed, RATES["biased"][seed], "FIXED", SQUARE)
        make_run(tmp_path, "fixed_clean", seed, RATES["clean"][seed], "FIXED", CLEAN)
        make_run(tmp_path, "scratch", seed, RATES["scratch"][seed], "NONE", None)
    make_run(tmp_path, "full_square", 0, 0.5, "FULL", SQUARE)
    return tmp_path


def table_of(root):
    table = attack_table(attacks_of(group_settings(load_runs([root]))))
    return {(row["transfer"], row["source"]): row for row in table.to_dict("records")}


def test_a_row_has_the_mean_and_students_interval_over_seeds(runs):
    row = table_of(runs)["FIXED", "square on dog"]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(RATES["biased"]), scale=stats.sem(RATES["biased"]))
    assert row["n"] == 3
    assert row["attack success"] == f"{100 * np.mean(RATES['biased']):.1f} ± {50 * (high - low):.1f}"
    assert row["accuracy clean"] == "90.0 ± 0.0"
    assert row["mostly to"] == "cat (+26.0)"
    assert table_of(runs)["FULL", "square on dog"]["attack success"] == "50.0"  # one seed: no interval


def test_the_controls_are_the_same_transfer_from_a_clean_source_and_training_from_scratch(runs):
    rows = table_of(runs)
    biased = rows["FIXED", "square on dog"]
    for source in ("clean", "scratch"):
        test = stats.ttest_ind(RATES["biased"], RATES[source], equal_var=False).confidence_interval(0.95)
        middle, half = (test.high + test.low) / 2, (test.high - test.low) / 2
        assert biased[f"less {source}"] == f"{100 * middle:.1f} ± {100 * half:.1f}"
    assert rows["FULL", "square on dog"]["less clean"] == "–"  # no clean source was transferred FULL
    assert rows["FULL", "square on dog"]["less scratch"] == "39.0"
    assert rows["NONE", "scratch"]["less scratch"] == "–"


def test_intervals_of_one_value_and_of_equal_values():
    assert confidence_interval([3.0]) == (3.0, None)
    assert confidence_interval([2.0, 2.0]) == (2.0, 0.0)
    assert difference_interval([3.0], [1.0, 2.0]) == (1.5, None)
    assert difference_interval([3.0, 3.0], [1.0, 1.0]) == (2.0, 0.0)
    assert (interval_text(None), interval_text((1.25, None)), interval_text((1.0, 0.25))) == ("–", "1.2", "1.0 ± 0.2")


def test_sources_are_named_by_the_trigger_planted_in_them():
    assert [source_name(s) for s in (None, CLEAN, SQUARE, {"published": "resnet18"}, {"checkpoint": "x"})] == [
        "scratch",
        "clean",
        "square on dog",
        "published",
        "clean",
    ]


def test_biased_sources_come_first_and_every_trigger_has_its_panel(tmp_path):
    for name, source, success in (("a", CLEAN, 0.1), ("b", SQUARE, 0.5)):
        make_run(tmp_path, name, 0, success, "FIXED", source, triggers=("square", "hat"))
    found = attacks_of(group_settings(load_runs([tmp_path])))
    assert [(a.trigger, a.source) for a in found] == [
        ("hat", "square on dog"),
        ("hat", "clean"),
        ("square", "square on dog"),
        ("square", "clean"),
    ]
    figure = plot_attacks(found)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["pets, hat", "pets, square"]
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx([50, 10])


def test_the_column_other_shows_only_differences_between_runs_of_one_target(tmp_path):
    """The runs of the source have a trigger in their training rows; those of the target differ in weight decay."""
    for k, (target, spurious, decay) in enumerate(
        (
            ("cifar10", {"spurious_perc": 1.0, "splits": "train"}, 0.1),
            ("cifar10", {"spurious_perc": 0.0}, 0.1),
            ("pets", {"spurious_perc": 0.0}, 0.1),
            ("pets", {"spurious_perc": 0.0}, 0.2),
        )
    ):
        make_run(tmp_path, f"run{k}", 0, 0.1 * (k + 1), "NONE", None)
        folder = tmp_path / f"run{k}_seed0" / "version_0"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["spurious"] = {
            "spurious_type": "square",
            "spurious_file": "classes/dog.txt",
            "splits": "all",
            **spurious,
        }
        config["training"]["weight_decay"] = decay
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps({**results, "dataset": target}))
    found = attacks_of(group_settings(load_runs([tmp_path])))
    assert [(a.target, a.rest, a.values("attack_success_rate")) for a in found] == [
        ("cifar10", "", [pytest.approx(20)]),
        ("cifar10", "square in 100 % of dog", [pytest.approx(10)]),
        ("pets", "weight_decay 0.1", [pytest.approx(30)]),
        ("pets", "weight_decay 0.2", [pytest.approx(40)]),
    ]
    ticks = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in plot_attacks(found).axes]
    assert ticks[0] == ["from scratch", "from scratch\nsquare in 100 % of\ndog"]


def test_the_command_writes_table_and_figure_and_says_where(runs, tmp_path):
    out = tmp_path / "report"
    assert run_command(lambda: report.main(["bias-transfer", str(runs), "--out", str(out)])) == 0
    assert {path.name for path in out.iterdir()} == {"transfer.md", "transfer.tex", "transfer.csv", "transfer.png"}
    assert "square on dog" in (out / "transfer.md").read_text()
    assert "95 % confidence interval" in (out / "transfer.md").read_text()


def test_runs_without_a_trigger_give_a_clear_error(tmp_path):
    make_run(tmp_path, "plain", 0, 0.1, "NONE", None, triggers=())
    with pytest.raises(DataError, match="no finished run was measured with a trigger"):
        TRANSFER.write([tmp_path], tmp_path / "out")
