"""Tests of searches: ranges and draws, the best setting under each rule, its repeats, and what a number cost."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.running import ROOT

from debeton.config import declared
from debeton.studies.collect import collect
from debeton.studies.jobs import Job
from debeton.studies.manifest import Manifest, load_manifest, write_manifest
from debeton.studies.search import draw, read_ranges
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import UsageError
from debeton.train.divergence import REMEDY
from debeton.train.run_folder import claim_folder

RANGES = "dataset_configs/searches/subpopbench.yaml"
FAIR: dict[str, Any] = {
    "configs": ["dataset_configs/methods/groupdro.yaml"],
    "draws": 3,
    "seeds": [0],
    "search": ["common", "groupdro"],
    "best": {"rules": ["worst_group", "average"], "seeds": [1, 2]},
}
STUDY: dict[str, Any] = {
    "name": "fair",
    "configs": ["dataset_configs/dominoes.yaml"],
    "ranges": RANGES,
    "variants": {"groupdro": FAIR},
}


def write(path: Path, variant: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write the study, with these keys of its variant and of itself."""
    content = {**STUDY, "variants": {"groupdro": {**FAIR, **(variant or {})}}, **changes}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def job_states(tmp_path) -> JobStates:
    jobs = load_study(write(tmp_path / "fair.yaml")).jobs()
    return JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))


def accuracies(worst: float, average: float) -> dict[str, Any]:
    return {"worst_group_accuracy": worst, "mean_group_accuracy": 0.5, "accuracy": average, "loss": 1.0}


def finish(job_states: JobStates, job: Job, epochs: list[tuple[float, float]], phase: str = "train") -> Path:
    """Write the folder of a finished run, from (worst group, average) of its epochs; its own rule selects one."""
    config = job_states.config(job)
    assert config is not None
    folder = claim_folder(config)
    metrics = [accuracies(*epoch) for epoch in epochs]
    rule = {"worst_group": "worst_group_accuracy", "average": "accuracy"}[config.training.selection]
    selected = max(metrics, key=lambda one: one[rule])
    results = {
        "dataset": "dominoes",
        "method": "groupdro",
        "seed": job.seed,
        "selection": config.training.selection,
        "selected_by": {"asked": config.training.selection, "text": config.training.selection},
        "val": selected,
        "test": selected,
        "timing": {"phases": {"train": 1.0} if phase == "train" else {"train": 1.0, phase: 1.0}},
    }
    lines = [
        {"phase": "train", "epoch": k, "step": k, "split": "val", "lr": None, "metrics": one}
        for k, one in enumerate(metrics, 1)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def searching(job_states: JobStates) -> list[Job]:
    return [job for job in job_states.jobs if job.draw is not None]


def repeating(job_states: JobStates, rule: str) -> list[Job]:
    return [job for job in job_states.jobs if job.best_of and job.settings["training.selection"] == rule]


# By draw: worst group and average after each epoch. By its own rule, worst_group, draw 1 is at its first epoch.
EPOCHS = {0: [(0.5, 0.80), (0.4, 0.85)], 1: [(0.6, 0.70), (0.1, 0.95)], 2: [(0.7, 0.75), (0.3, 0.90)]}


def finish_search(job_states: JobStates, phase: str = "train") -> None:
    for job in searching(job_states):
        assert job.draw is not None
        finish(job_states, job, EPOCHS[job.draw], phase)


# --- ranges and draws -----------------------------------------------------------------------------------------------


def test_draws_of_published_ranges_lie_within_them_and_are_the_same_on_every_machine():
    parts = read_ranges(RANGES)
    search = {**parts["common"], **parts["cb_loss"]}
    drawn = [draw(search, "study", "variant", k) for k in range(200)]
    assert all(1e-4 <= one["training.lr"] <= 1e-2 for one in drawn)
    assert {one["training.batch_size"] for one in drawn} <= set(range(64, 108))
    distances = [math.log10(1 - one["cb_loss.beta"]) for one in drawn]
    assert -5.0001 <= min(distances) < -4.5
    assert -2.5 < max(distances) <= -1.9999
    assert abs(sum(distances) / 200 + 3.5) < 0.3
    assert drawn[0]["training.lr"] == pytest.approx(0.000165112181648658, rel=1e-12)


def test_a_variant_joins_named_ranges_and_its_own_and_the_last_one_counts(tmp_path):
    search = ["common", "lff", {"lff.q": [0.5]}]
    (variant, _) = load_study(write(tmp_path / "s.yaml", {"search": search})).variants
    assert variant.search["training.lr"] == {"log": [1e-4, 1e-2]}
    assert variant.search["training.batch_size"] == {"log_integers": [32, 53]}
    assert variant.search["lff.q"] == [0.5]


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ({"search": ["comon"]}, {}, "its search names 'comon'; did you mean 'common'"),
        ({"search": ["common"]}, {"ranges": ""}, "its search names 'common', but the study has no 'ranges'"),
        ({"search": {"training.lrr": [1]}}, {}, "search of an unknown key 'training.lrr'; did you mean 'training.lr'"),
        ({"search": {"training.momentum": {"uniform": [0.5, 1.5]}}}, {}, "search: training.momentum"),
        ({"search": {"training.optimizer": ["sgd", "sdg"]}}, {}, "search: training.optimizer"),
        ({"search": {"training.batch_size": {"integers": [1.5, 3]}}}, {}, "whole numbers for the integers"),
        ({"search": {"training.lr": {"log": [0.1, 0.01]}}}, {}, "the lower first"),
        ({"search": {"training.momentum": {"log_to_one": [0.9, 1]}}}, {}, "below 1 for log_to_one"),
        ({"best": {"rules": ["last"]}}, {}, r"rules is \['last'\]; expected different ones of worst_group"),
        ({"best": {"rules": []}}, {}, "expected different ones of worst_group"),
        ({"best": {"rule": ["average"]}}, {}, "best: unknown key 'rule'; did you mean 'rules'"),
        ({"search": {}, "draws": 0}, {}, "has 'best' and no search"),
        ({"axes": {"training.momentum": [0, 0.9]}}, {}, "has 'best' and axes of its own"),
        ({"settings": {"training.selection": "average"}}, {}, "sets training.selection, which the rules of 'best'"),
        ({}, {"settings": {"training.selection": "average"}}, "sets training.selection, which the rules of 'best'"),
        ({}, {"variants": {"groupdro": FAIR, "groupdro_best": {}}}, "'best' adds a variant 'groupdro_best', and there"),
        ({}, {"ranges": "nowhere.yaml"}, "no file of ranges at nowhere.yaml"),
    ],
    ids=[
        "unknown part",
        "no file of parts",
        "unknown key",
        "bound outside of the setting",
        "choice outside of the setting",
        "no whole bound",
        "bounds the wrong way round",
        "bound of one",
        "rule that compares nothing",
        "no rule",
        "unknown key of best",
        "nothing searched",
        "axes",
        "own rule",
        "rule of the study",
        "name taken",
        "no such file",
    ],
)
def test_a_wrong_search_is_refused_before_anything_runs(tmp_path, variant, changes, message):
    with pytest.raises(UsageError, match=message):
        load_study(write(tmp_path / "s.yaml", variant, **changes))


def test_every_published_range_fits_its_setting(tmp_path):
    parts, known = read_ranges(RANGES), declared()
    of_known = [name for name, ranges in parts.items() if all(key in known for key in ranges)]
    assert {"common", "scratch", "groupdro", "cvar", "mixup", "jtt", "lff"} <= set(of_known)
    (variant, _) = load_study(write(tmp_path / "s.yaml", {"search": of_known})).variants
    assert set(variant.search) == {key for name in of_known for key in parts[name]}


@pytest.mark.parametrize("name", ["celeba", "dominoes", "metashift", "waterbirds"])
def test_the_head_of_a_search_states_its_number_of_runs(name):
    path = ROOT / f"dataset_configs/studies/search_{name}.yaml"
    stated = re.search(r"^# Budget: (\d+) runs, (\d+) methods x \(16 \+ 3 x 3\)", path.read_text(), re.MULTILINE)
    assert stated
    jobs = load_study(path).jobs({"raw": "/raw"})
    assert len(jobs) == int(stated[1]) == 25 * int(stated[2]) + 19


# --- the best setting under each rule -------------------------------------------------------------------------------


def test_a_search_has_one_run_per_draw_and_its_best_one_per_rule_and_seed(job_states):
    names = [job.name for job in job_states.jobs]
    assert names[:3] == [f"groupdro_draw{k}_seed0" for k in range(3)]
    assert names[3:] == [
        f"groupdro_best_selection={rule}_seed{seed}" for rule in ("worst_group", "average") for seed in (1, 2)
    ]
    assert all(job.settings["training.selection"] == "worst_group" for job in searching(job_states))


def test_each_rule_runs_the_setting_that_is_best_at_the_epochs_that_it_would_select(job_states):
    waiting = repeating(job_states, "average")[0]
    assert job_states.state(waiting).kind == "waiting"
    assert job_states.state(waiting).note == "for groupdro"
    finish_search(job_states)
    for rule, best in {"worst_group": 2, "average": 1}.items():
        (chosen,) = [job for job in searching(job_states) if job.draw == best]
        for job in repeating(job_states, rule):
            config = job_states.config(job)
            assert config is not None
            assert config.training.lr == chosen.setting["training.lr"]
            assert config.training.batch_size == chosen.setting["training.batch_size"]
            assert (config.training.selection, config.training.seed) == (rule, job.seed)


def test_a_head_that_is_fitted_after_the_last_epoch_is_judged_by_its_own_accuracies(job_states):
    finish_search(job_states, phase="refit")
    config = job_states.config(repeating(job_states, "average")[0])
    assert config is not None
    assert config.training.lr == searching(job_states)[0].setting["training.lr"]  # 0.80 is the best of the models


def test_a_draw_that_diverged_cannot_win_and_does_not_hold_up_the_others(job_states):
    first, second, third = searching(job_states)
    for job in (first, second):
        assert job.draw is not None
        finish(job_states, job, EPOCHS[job.draw])
    (waiting, _) = repeating(job_states, "worst_group")
    job_states.folders.logs.mkdir(parents=True, exist_ok=True)
    job_states.record_error(third, "error: no space left on the disk")
    assert job_states.arguments(waiting) is None
    job_states.record_error(third, f"error: the loss is nan at step 3; {REMEDY}")
    config = job_states.config(waiting)
    assert config is not None
    assert config.training.lr == second.setting["training.lr"]


def test_a_rule_that_ends_training_cannot_serve_another_one(tmp_path):
    study = load_study(write(tmp_path / "s.yaml", settings={"training.patience": 3}))
    states = JobStates(study.jobs(), StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    with pytest.raises(UsageError, match=r"training.patience makes the training of 'groupdro' depend on worst_group"):
        states.check(states.jobs)


def test_a_manifest_keeps_whose_best_setting_a_job_runs(job_states):
    path = write_manifest(Manifest("fair", tuple(job_states.jobs), job_states.folders))
    assert [job.best_of for job in load_manifest(path).jobs] == [""] * 3 + ["groupdro"] * 4


# --- the tables -----------------------------------------------------------------------------------------------------


def test_tables_say_which_rule_chose_each_number_and_how_many_runs_it_cost(job_states, tmp_path):
    finish_search(job_states)
    for rule, worst in {"worst_group": 0.6, "average": 0.2}.items():
        for job in repeating(job_states, rule):
            finish(job_states, job, [(worst, 0.8)])
    collect(job_states, job_states.jobs, tmp_path / "report", "fair")
    summary = read_table(tmp_path / "report" / "summary.md")
    assert [(row["selection"], row["n"], row["runs"]) for row in summary] == [
        ("average", "2", "3 + 2"),
        ("worst_group", "2", "3 + 2"),
    ]
    chosen = read_table(tmp_path / "report" / "chosen.md")
    assert [(row["chosen by"], row["of"], row["score in the search"], row["runs"]) for row in chosen] == [
        ("worst_group", "3", "70.0", "3 + 2"),
        ("average", "3", "95.0", "3 + 2"),
    ]
    assert [row["test worst-group"] for row in chosen] == ["60.0 ± 0.0", "20.0 ± 0.0"]
    assert "Runs: how many were trained for the number" in (tmp_path / "report" / "summary.md").read_text()


def test_before_the_best_setting_ran_again_the_searchs_own_run_is_reported(job_states, tmp_path):
    finish_search(job_states)
    collect(job_states, job_states.jobs, tmp_path / "report", "fair")
    (row,) = read_table(tmp_path / "report" / "summary.md")
    assert (row["n"], row["runs"], row["worst-group"]) == ("1", "3", "70.0")


def read_table(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]
