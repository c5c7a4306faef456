"""Studies: strict reading of the file, its jobs, their states from run folders, and the runner."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.running import ROOT

from debeton.commands import sweep
from debeton.studies.jobs import Job
from debeton.studies.published import Published, compare_with_published
from debeton.studies.runner import WRITTEN, Runner, last_line, visible_gpus
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import DataError, UsageError, run_command
from debeton.system.locks import file_lock
from debeton.train.run_folder import claim_folder, locked

ERM, SCALE = "dataset_configs/methods/erm.yaml", "dataset_configs/methods/scale.yaml"
STUDY: dict[str, Any] = {
    "name": "tiny",
    "configs": ["dataset_configs/dominoes.yaml"],
    "betons": "writers/write_betons.py --dataset dominoes --raw {raw} --spurious-strength {strength} "
    "--data-seed {seed}",
    "settings": {"training.epochs": 2},
    "axes": {"strength": [0.9, 1.0]},
    "seeds": [0, 1],
    "variants": {
        "erm": {
            "configs": [ERM],
            "draws": 3,
            "search": {"training.lr": {"log": [1e-3, 1e-1]}, "training.batch_size": [8, 16]},
        },
        "scale": {"configs": [SCALE], "axes": {"scale.mapping": ["linear", "step"]}},
        "dfr": {"settings": {"training.method": "dfr", "dfr.checkpoint": "{best:erm}"}},
    },
}


def write(path: Path, **changes: Any) -> Path:
    content = {**STUDY, **changes}
    path.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    return load_study(write(tmp_path / "tiny.yaml")).jobs({"raw": "/raw"})


@pytest.fixture
def job_states(jobs, tmp_path) -> JobStates:
    return JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))


def finish(job_states: JobStates, job: Job, worst: float = 0.5, mean: float = 0.6) -> Path:
    """Write the run folder of a finished job, and return it."""
    config = job_states.config(job)
    assert config is not None
    folder = claim_folder(config)
    val = {"worst_group_accuracy": worst, "mean_group_accuracy": mean, "bias_conflicting_accuracy": worst}
    results = {"dataset": "dominoes", "method": job.variant, "seed": job.seed, "selection": "worst_group", "val": val}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def select(jobs: list[Job], variant: str, **point: Any) -> list[Job]:
    return [job for job in jobs if job.variant == variant and job.point == point]


# --- the file and its jobs ----------------------------------------------------------------------------------------


def test_jobs_are_all_combinations_of_axes_draws_and_seeds(jobs):
    assert Counter(job.variant for job in jobs) == {"erm": 2 * 3 * 2, "scale": 2 * 2 * 2, "dfr": 2 * 2}
    assert len({job.name for job in jobs}) == len(jobs)
    job = next(job for job in jobs if job.variant == "scale")
    assert job.name == "scale_strength=0.9_mapping=linear_seed0"
    assert job.configs == ("dataset_configs/dominoes.yaml", SCALE)
    assert job.settings == {"training.epochs": 2, "scale.mapping": "linear"}
    (write,) = job.betons
    assert write.endswith("--raw /raw --spurious-strength 0.9 --data-seed 0 --out {betons}")
    assert {job.data for job in jobs} == {f"strength={s}_seed={k}" for s in ("0.9", "1") for k in (0, 1)}
    assert select(jobs, "dfr", strength=1.0)[0].needs == ("erm",)


def test_a_value_of_an_axis_may_give_several_settings(tmp_path):
    axes = {"mode": {"usb": {"synthetic.mode": "usb"}, "ffr": {"synthetic.mode": "ffr", "training.lr": 0.1}}}
    changes = {"axes": axes, "settings": {"training.lr": 0.5}, "variants": {"erm": {}}, "betons": None, "seeds": [0]}
    path = write(tmp_path / "s.yaml", **changes)
    assert {job.name: job.settings for job in load_study(path).jobs()} == {
        "erm_mode=usb_seed0": {"training.lr": 0.5, "synthetic.mode": "usb"},
        "erm_mode=ffr_seed0": {"training.lr": 0.1, "synthetic.mode": "ffr"},
    }
    assert [job.point for job in load_study(path).jobs()] == [{"mode": "usb"}, {"mode": "ffr"}]
    with pytest.raises(UsageError, match=r"training\.lr is an axis, and --set gives it one value"):
        load_study(path, {"training.lr": "1"})
    path = write(tmp_path / "t.yaml", **changes | {"variants": {"erm": {"settings": {"training.lr": 1}}}})
    with pytest.raises(UsageError, match=r"training\.lr comes with a value of an axis and is also set elsewhere"):
        load_study(path)
    with pytest.raises(UsageError, match=r"axis mode is .*the settings of each value"):
        load_study(write(tmp_path / "u.yaml", **changes | {"axes": {"mode": {"usb": "usb"}}}))


def test_random_draws_lie_in_their_ranges_and_do_not_depend_on_their_number(tmp_path):
    search = {
        "training.lr": {"log": [1e-4, 1e-1]},
        "training.weight_decay": {"uniform": [0.0, 0.5]},
        "training.batch_size": {"log_integers": [4, 64]},
        "training.epochs": {"integers": [1, 3]},
        "training.momentum": [0.0, 0.9],
    }
    variants = {"erm": {"draws": 300, "search": search}}
    make = lambda n: load_study(  # noqa: E731
        write(
            tmp_path / "s.yaml",
            variants={"erm": {**variants["erm"], "draws": n}},
            axes=None,
            betons=None,
            settings=None,
            seeds=[0],
        )
    ).jobs()
    many, few = make(300), make(5)
    assert [job.setting for job in few] == [job.setting for job in many[:5]]
    lr = [math.log10(job.setting["training.lr"]) for job in many]
    assert min(lr) >= -4
    assert max(lr) <= -1
    assert abs(sum(lr) / 300 + 2.5) < 5 * 3 / math.sqrt(12 * 300)
    assert {job.setting["training.epochs"] for job in many} == {1, 2, 3}
    assert {job.setting["training.momentum"] for job in many} == {0.0, 0.9}
    sizes = [job.setting["training.batch_size"] for job in many]
    assert all(isinstance(n, int) and 4 <= n <= 64 for n in sizes)
    assert abs(sum(n < 16 for n in sizes) / 300 - 0.5) < 0.15  # half the logarithmic range
    assert all(0 <= job.setting["training.weight_decay"] <= 0.5 for job in many)


VARIANT = STUDY["variants"]["scale"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'"),
        ({"variants": {"erm": {"config": []}}}, "variant 'erm': unknown key 'config'; did you mean 'configs'"),
        ({"variants": None}, "has no 'variants'"),
        ({"axes": {"training.lr": [1, 2]}}, "training.lr is in its axes of the study and in its search"),
        (
            {"variants": {"x": {**VARIANT, "settings": {"scale.mapping": "relu"}}}},
            "scale.mapping is in its axes and in",
        ),
        ({"axes": {"strength": [0.9, 0.9]}}, "axis strength is .*expected a list of different values"),
        ({"axes": {"strength": [0.9], "size": [1, 2]}}, "axis 'size' changes nothing"),
        ({"variants": {"dfr": STUDY["variants"]["dfr"]}}, "depends on 'erm', which is no variant before it"),
        (
            {"variants": {"erm": {"seeds": [1, 2]}, "dfr": STUDY["variants"]["dfr"]}},
            "depends on 'erm', which has no seed 0; give 'erm' the same seeds, or one that all share",
        ),
        ({"seeds": "zero"}, "seeds is 'zero'; expected a list"),
        ({"seeds": [0, "one"]}, "'one' is among its seeds; expected whole numbers from 0"),
        ({"configs": "a.yaml"}, "configs is 'a.yaml'; expected a list"),
        ({"betons": 5}, "betons is 5; expected text or a list"),
        ({"variants": ["erm"]}, r"variants is \['erm'\]; expected keys and values"),
        ({"variants": {"erm": "erm.yaml"}}, "variant 'erm' is 'erm.yaml'; expected configs, settings"),
        ({"variants": {"erm": {"axes": [1]}}}, r"variant 'erm': axes is \[1\]; expected keys and values"),
        ({"variants": {"erm": {"draws": 1, "search": {"training.lr": {"log": ["a", 1]}}}}}, "search of training.lr is"),
        ({"limits": {"hours": 1}}, "limits: unknown key 'hours'; known: jobs, minutes"),
        ({"limits": {"jobs": 0}}, "limits: jobs is 0; expected a number above 0"),
        ({"variants": {"erm": {"search": {"training.lr": [1]}}}}, "'search' and 'draws' go together"),
        ({"variants": {"erm": {"draws": 1, "search": {"training.lr": {"log": [0, 1]}}}}}, "search of training.lr is"),
        ({"variants": {"erm": {"draws": 1, "search": {"training.lr": {"lgo": [1, 2]}}}}}, "uniform, log, integers"),
    ],
)
def test_a_wrong_study_file_gives_a_clear_error(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load_study(write(tmp_path / "tiny.yaml", **changes))


def test_the_command_line_replaces_settings_and_seeds_but_not_axes(tmp_path):
    path = write(tmp_path / "tiny.yaml")
    study = load_study(path, {"training.epochs": "5"}, [7])
    assert {(job.seed, job.settings["training.epochs"]) for job in study.jobs({"raw": "/raw"})} == {(7, "5")}
    dfr = select(load_study(path, {"dfr.checkpoint": "mine.pt"}).jobs({"raw": "/raw"}), "dfr", strength=0.9)[0]
    assert (dfr.settings["dfr.checkpoint"], dfr.needs) == ("mine.pt", ())  # also for a variant's own setting
    with pytest.raises(UsageError, match=r"scale\.mapping is an axis, and --set gives it one value"):
        load_study(path, {"scale.mapping": "relu"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.lrr", 1, "job dfr_strength=0.9_seed0: .*unknown key 'training.lrr'; did you mean 'training.lr'"),
        ("training.lr", "fast", "job dfr_strength=0.9_seed0: .*training.lr is 'fast'; expected"),
    ],
)
def test_a_setting_that_a_run_would_refuse_is_refused_before_the_first_run(tmp_path, key, value, message):
    """This holds also for a job that waits for another variant."""
    dfr = {**STUDY["variants"]["dfr"], "settings": {**STUDY["variants"]["dfr"]["settings"], key: value}}
    variants = {**STUDY["variants"], "dfr": dfr}
    jobs = load_study(write(tmp_path / "s.yaml", variants=variants)).jobs({"raw": "/raw"})
    job_states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    with pytest.raises(UsageError, match=message):
        job_states.check(jobs)


def listed(path: Path, *words: str) -> int:
    return command("list", path, "--raw", "/raw", *words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "lr=0.5",
            "--set lr would change nothing: a setting has a section (section.key), and no text of the study has "
            "{lr}; did you mean 'training.lr'? placeholders of the study: raw",
        ),
        ("strenght=0.5", "no text of the study has {strenght}; did you mean 'strength'?"),
        ("strength=0.5", "--set strength would change nothing: it is an axis of the study, which gives its values"),
        ("seed=3", "--set seed would change nothing: --seeds gives the seeds"),
        ("training.lrr=0.5", "--set: unknown key 'training.lrr'; did you mean 'training.lr'?"),
        ("training.epochs=many", "--set: training.epochs is 'many'; expected a whole number"),
        ("training.seed=3", "--set gives training.seed, which comes from elsewhere; use 'seeds' of the study"),
        ("training.outdir=x", "--set gives training.outdir, which comes from elsewhere; use --runs"),
        ("training.data_root=x", "--set gives training.data_root, which comes from elsewhere; use 'betons' of the"),
        ("training.momentum=0.5 training.momentum=0.6", "--set gives training.momentum twice, as 0.5 and as 0.6"),
    ],
)
def test_a_setting_of_the_command_line_that_would_change_nothing_is_refused(tmp_path, capsys, given, message):
    variants = {name: values for name, values in STUDY["variants"].items() if name == "scale"}
    path = write(tmp_path / "s.yaml", variants=variants, seeds=[0])
    words = [word for text in given.split() for word in ("--set", text)]
    assert listed(path, *words) == 2
    assert message in capsys.readouterr().err
    assert listed(path, "--set", "training.momentum=0.5", "--set", "raw=/data") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes": {"strength": [0.9, 1, 1.0]}},
            r"axis strength is .*expected a list of|has 1 and 1\.0, and both read '1'",
        ),
        ({"axes": {"strength": ["0.9", 0.9]}}, r"has '0\.9' and 0\.9, and both read '0\.9' in the names of jobs"),
        (
            {"axes": {"strength": ["a/b", "a-b"]}},
            r"two jobs have the name scale_strength=a-b_mapping=linear_seed0: "
            r"variant 'scale' with strength 'a/b', scale\.mapping 'linear', seed 0, and .* 'a-b'",
        ),
        ({"seeds": [0, 0]}, "two jobs have the name scale_strength=0.9_mapping=linear_seed0"),
        ({"variants": {"a/b": {}, "a-b": {}}}, "two jobs have the name a-b_strength=0.9_seed0: variant 'a/b'"),
        ({"variants": {1: {}, "1": {}}}, "two jobs have the name 1_strength=0.9_seed0"),
        ({"settings": {"training.seed": 5}}, "the file gives training.seed, which comes from elsewhere; use 'seeds'"),
    ],
)
def test_jobs_that_would_share_a_name_are_refused(tmp_path, changes, message):
    variants = {"scale": STUDY["variants"]["scale"]}
    with pytest.raises(UsageError, match=message):
        load_study(write(tmp_path / "s.yaml", **{"variants": variants, **changes})).jobs({"raw": "/raw"})


def test_close_values_of_an_axis_keep_their_digits_in_names_and_commands(tmp_path):
    axes = {"strength": [0.1234567, 0.1234568]}
    jobs = load_study(write(tmp_path / "s.yaml", axes=axes, variants={"erm": {}}, seeds=[0])).jobs({"raw": "/raw"})
    assert [job.name for job in jobs] == ["erm_strength=0.1234567_seed0", "erm_strength=0.1234568_seed0"]
    assert "--spurious-strength 0.1234567 " in jobs[0].betons[0]
    assert len({job.data for job in jobs}) == 2


def test_a_key_given_twice_in_a_study_is_refused(tmp_path):
    path = write(tmp_path / "s.yaml")
    path.write_text(path.read_text() + "  erm:\n    settings: {training.lr: 0.5}\n")
    with pytest.raises(UsageError, match=r"the key 'variants\.erm' is given twice, on line \d+ \(keys and values\)"):
        load_study(path)


def test_variants_with_equal_settings_are_named_in_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("debeton"), "propagate", False)
    variants = {"erm": {}, "again": {"settings": {"training.lr": 0.1}}, "other": {"settings": {"training.lr": 0.2}}}
    path = write(tmp_path / "s.yaml", variants=variants, axes=None, betons=None, seeds=[0], configs=None)
    JobStates(jobs := load_study(path).jobs(), StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data")).check(jobs)
    (text,) = caplog.messages
    assert text.startswith("warning: 1 settings are in more than one variant, first in erm_seed0 and again_seed0;")


def test_a_failed_job_runs_again_by_itself_once_the_study_describes_it_otherwise(job_states, tmp_path, capsys):
    job = next(job for job in job_states.jobs if job.variant == "scale")
    job_states.record_error(job, "error: no space")
    assert job_states.state(job).kind == "failed"
    for settings, minutes, kind in (
        ({}, 0, "failed"),
        ({"training.momentum": "0.5"}, 0, "missing"),
        ({"training.eval_batch_size": "8"}, 0, "missing"),  # no part of the identity, and mends a full memory
        ({}, 30, "missing"),
    ):
        path = write(tmp_path / "t.yaml", limits={"minutes": minutes} if minutes else None)
        jobs = load_study(path, settings).jobs({"raw": "/raw"})
        same = next(other for other in jobs if other.name == job.name)
        assert JobStates(jobs, job_states.folders).state(same).kind == kind, (settings, minutes)
    words = ("--raw", "/raw", "--runs", tmp_path / "runs", "--data", tmp_path / "data", "--only", "scale")
    command("status", write(tmp_path / "t.yaml"), *words)
    assert "1 job failed: 'retry' runs failed jobs again" in capsys.readouterr().out.splitlines()[-1]
    path = job_states.folders.error_file(job)
    path.write_text(json.dumps({"error": "of an earlier version"}))
    assert job_states.state(job).kind == "failed"


def test_a_placeholder_without_a_value_gives_an_error_that_says_how_to_set_it(tmp_path):
    with pytest.raises(
        UsageError, match=r"nothing says what \{raw\} is; give it with --set raw=VALUE \(or --raw DIR\)"
    ):
        load_study(write(tmp_path / "tiny.yaml")).jobs()


def test_a_file_that_is_no_study_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no study at .*dataset_configs/studies"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(UsageError, match="holds list; expected name, configs"):
        load_study(tmp_path / "list.yaml")


def test_the_projects_studies_load_and_their_jobs_have_valid_configurations(tmp_path):
    paths = sorted((ROOT / "dataset_configs/studies").glob("*.yaml"))
    assert paths
    for path in paths:
        jobs = load_study(path).jobs({"raw": "/raw"})
        assert load_study(path).name == path.stem
        job_states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
        seen = set()
        for job in jobs:
            if (job.variant, str(job.setting)) not in seen:
                seen.add((job.variant, str(job.setting)))
                assert job_states.config(job) is not None or job.needs
        assert path.read_text().startswith("# ")


def test_values_of_the_file_are_placeholders_that_the_command_line_may_change(tmp_path):
    path = write(tmp_path / "v.yaml", betons="a.py --worse {severity}", axes=None, values={"severity": 0})
    assert {(job.betons, job.data) for job in load_study(path).jobs()} == {
        (("a.py --worse 0 --out {betons}",), "severity=0")
    }
    assert {job.data for job in load_study(path).jobs({"severity": "3"})} == {"severity=3"}


def test_several_commands_may_write_the_betons_of_a_job(tmp_path, job_states):
    commands = ["a.py --out {betons}/raw", "b.py --like {betons}/raw --strength {strength}"]
    (job, *_) = load_study(write(tmp_path / "two.yaml", betons=commands)).jobs()
    assert job.data == "strength=0.9"
    runner = FakeRunner(JobStates([job], job_states.folders))
    assert runner.write_betons(job)
    folder = job_states.folders.data / job.data
    assert [call[2:] for call in runner.calls] == [
        ["--out", f"{folder}/raw"],
        ["--like", f"{folder}/raw", "--strength", "0.9"],
    ]
    assert (folder / WRITTEN).is_file()


# --- states -------------------------------------------------------------------------------------------------------


def test_states_come_from_run_folders(job_states, jobs):
    job, waiting = select(jobs, "erm", strength=0.9)[0], select(jobs, "dfr", strength=0.9)[0]
    assert job_states.state(job).kind == "missing"
    assert (job_states.state(waiting).kind, job_states.state(waiting).note) == ("waiting", "for erm")
    job_states.record_error(job, "error: no space")
    assert (job_states.state(job).kind, job_states.state(job).note) == ("failed", "error: no space")
    job_states.record_error(job, "")
    folder = claim_folder(job_states.config(job))
    assert (job_states.state(job).kind, job_states.state(job).folder) == ("unfinished", folder)
    with locked(folder):
        assert job_states.state(job).kind == "running"
    assert finish(job_states, job) == folder
    assert job_states.state(job).kind == "done"


def test_another_configuration_under_the_same_name_is_not_the_job(job_states, jobs, tmp_path):
    job = select(jobs, "erm", strength=0.9)[0]
    finish(job_states, job)
    changed = load_study(write(tmp_path / "t.yaml"), {"training.epochs": "9"}).jobs({"raw": "/raw"})
    other = JobStates(changed, job_states.folders)
    assert changed[0].name == job.name
    assert other.state(changed[0]).kind == "missing"
    assert other.state(changed[0]).note.startswith("version_0 of its name has another configuration")
    assert finish(other, changed[0]).name == "version_1"
    assert job_states.state(job).folder.name == "version_0"


def test_the_best_setting_has_the_best_mean_over_seeds_once_all_are_finished(job_states, jobs):
    erm = select(jobs, "erm", strength=0.9)
    worst = {0: (0.9, 0.1), 1: (0.6, 0.5), 2: (0.2, 0.7)}  # by draw: seeds 0 and 1; means 0.5, 0.55, 0.45
    for job in erm:
        assert job_states.best(erm) is None
        finish(job_states, job, worst=worst[job.draw][job.seed])
    best = job_states.best(erm)
    assert [job.draw for job in best] == [1, 1]
    for dfr in select(jobs, "dfr", strength=0.9):
        folder = job_states.best_folder("erm", dfr)
        assert folder.parts[-2] == f"erm_strength=0.9_draw1_seed{dfr.seed}"
        assert str(folder / "checkpoints" / "checkpoint_best.pt") in job_states.arguments(dfr)
    assert job_states.arguments(select(jobs, "dfr", strength=1.0)[0]) is None


def test_jobs_that_wait_for_one_variant_read_its_results_once_for_all_of_them(tmp_path, monkeypatch):
    dfr = {**STUDY["variants"]["dfr"], "draws": 20, "search": {"training.weight_decay": {"log": [1e-4, 1e-1]}}}
    path = write(tmp_path / "s.yaml", variants={**STUDY["variants"], "dfr": dfr})
    jobs = load_study(path).jobs({"raw": "/raw"})
    states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    erm, waiting = select(jobs, "erm", strength=0.9), select(jobs, "dfr", strength=0.9)
    for job in erm:
        finish(states, job, worst=0.1 * (1 + job.draw))
    read: Counter[str] = Counter()
    results = JobStates.results

    def counted(self, job):
        read[job.name] += 1
        return results(self, job)

    monkeypatch.setattr(JobStates, "results", counted)
    now = states.at_one_moment()
    words = [now.arguments(job) for job in waiting]
    assert len(words) == 2 * 20
    assert all("_draw2_seed" in " ".join(found) for found in words)
    assert read == {job.name: 1 for job in erm}


def test_a_variant_uses_the_run_folder_of_another_variant_at_its_point_and_seed(tmp_path):
    variants = {
        "cdpm": {"settings": {"training.method": "cdpm", "training.selection": "last"}},
        "ddb1": {"settings": {"training.method": "ddb1", "ddb.cdpm": "{run:cdpm}"}},
    }
    jobs = load_study(write(tmp_path / "s.yaml", variants=variants)).jobs({"raw": "/raw"})
    job_states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    assert select(jobs, "ddb1", strength=0.9)[0].needs == ("cdpm",)
    assert job_states.state(select(jobs, "ddb1", strength=0.9)[0]).kind == "waiting"
    for source, job in zip(select(jobs, "cdpm", strength=0.9), select(jobs, "ddb1", strength=0.9), strict=True):
        assert job_states.arguments(job) is None  # even if other seeds are finished
        folder = finish(job_states, source)
        words = job_states.arguments(job)
        assert words[words.index("--ddb.cdpm") + 1] == str(folder)
    assert job_states.arguments(select(jobs, "ddb1", strength=1.0)[0]) is None


def test_a_variant_of_one_seed_is_shared_by_all_seeds_of_the_variants_that_use_it(tmp_path):
    variants = {
        "cdpm": {"seeds": [3], "settings": {"training.method": "cdpm", "training.selection": "last"}},
        "ddb1": {"settings": {"training.method": "ddb1", "ddb.cdpm": "{run:cdpm}"}},
    }
    jobs = load_study(write(tmp_path / "s.yaml", variants=variants)).jobs({"raw": "/raw"})
    job_states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    (source,) = select(jobs, "cdpm", strength=0.9)
    assert source.seed == 3
    folder = finish(job_states, source)
    users = select(jobs, "ddb1", strength=0.9)
    assert [job.seed for job in users] == [0, 1]
    for job in users:
        words = job_states.arguments(job)
        assert words[words.index("--ddb.cdpm") + 1] == str(folder)


def test_a_run_folder_that_was_edited_by_hand_is_reported(job_states, jobs):
    job, cut = select(jobs, "erm", strength=0.9)[:2]
    folder = finish(job_states, job)
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("epochs: 2", "epochs: 3"))
    assert job_states.state(job).kind == "missing"
    assert "version_0 of its name has another configuration" in job_states.state(job).note
    results = finish(job_states, cut) / "results.json"
    results.write_text(results.read_text()[:-5])
    state = job_states.state(cut)
    assert state.kind == "damaged"
    assert re.search(r"results\.json is not JSON: .*cut short or was edited by hand; 'run' makes the res", state.note)
    assert job_states.results(cut) is None
    results.unlink()
    assert job_states.state(cut).kind == "unfinished"


def test_the_mean_group_decides_if_every_worst_group_is_zero(job_states, jobs):
    erm = select(jobs, "erm", strength=1.0)
    for job in erm:
        finish(job_states, job, worst=0.0, mean=(0.3, 0.2, 0.4)[job.draw])
    assert {job.draw for job in job_states.best(erm)} == {2}


def test_without_a_validation_split_there_is_no_best(job_states, jobs):
    erm = select(jobs, "erm", strength=1.0)
    for job in erm:
        folder = finish(job_states, job)
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps({**results, "val": None}))
    with pytest.raises(DataError, match="has no validation split, so no best setting"):
        job_states.best(erm)


# --- running ------------------------------------------------------------------------------------------------------


class FakeRunner(Runner):
    """Runner without processes: a job ends at once, with results unless its name is in `failing`."""

    def __init__(self, job_states: JobStates, failing: tuple[str, ...] = (), workers: int = 2):
        self.lines: list[str] = []
        super().__init__(job_states, workers, self.lines.append)
        self.failing, self.calls = failing, []

    def execute(self, command, log, more=None, seconds=0, locks=()) -> int:
        self.calls.append(command)
        if "--training.exp_name" not in command:
            return 1 if "--spurious-strength 1" in " ".join(command) and "betons" in self.failing else 0
        name = command[command.index("--training.exp_name") + 1]
        log.parent.mkdir(parents=True, exist_ok=True)
        if name in self.failing:
            log.write_text("epoch 1\nerror: the loss is nan\n")
            return 1
        finish(self.job_states, next(job for job in self.job_states.jobs if job.name == name))
        return 0


def test_betons_are_written_once_and_jobs_start_after_the_runs_that_they_use(job_states, jobs):
    runner = FakeRunner(job_states)
    assert runner.run(jobs)
    writes = [call for call in runner.calls if "write_betons" in call[1]]
    # Several workers write at once, in any order; each folder is written by one of them.
    folders = [f"strength={strength}_seed={seed}" for strength in ("0.9", "1") for seed in (0, 1)]
    assert sorted(call[-2:] for call in writes) == [["--out", str(job_states.folders.data / name)] for name in folders]
    started = [line.split()[1] for line in runner.lines if line.startswith("start")]
    assert len(started) == len(jobs)
    for strength in ("0.9", "1"):
        first_dfr = min(i for i, name in enumerate(started) if name.startswith(f"dfr_strength={strength}"))
        assert first_dfr > max(i for i, name in enumerate(started) if name.startswith(f"erm_strength={strength}"))
    again = FakeRunner(job_states)
    assert again.run(jobs)
    assert again.calls == []


def test_a_failed_job_is_kept_with_its_error_and_run_again_when_asked(job_states, jobs):
    bad = select(jobs, "erm", strength=0.9)[0].name
    runner = FakeRunner(job_states, failing=(bad,))
    assert not runner.run(jobs)
    assert [line for line in runner.lines if line.startswith("waits")] == [
        f"waits   {job.name} for erm" for job in select(jobs, "dfr", strength=0.9)
    ]
    states = Counter(job_states.state(job).kind for job in jobs)
    assert states == {"done": len(jobs) - 3, "failed": 1, "waiting": 2}  # dfr at 0.9 waits for its erm
    assert job_states.state(next(job for job in jobs if job.name == bad)).note == "error: the loss is nan"
    again = FakeRunner(job_states)
    assert not again.run(jobs)
    assert again.calls == []
    assert again.run(jobs, retry=True)


def test_betons_that_cannot_be_written_fail_their_jobs(job_states, jobs):
    runner = FakeRunner(job_states, failing=("betons",))
    scale = select(jobs, "scale", strength=1.0)
    assert not runner.run(scale)
    assert all(job_states.state(job).note.startswith("its betons were not written") for job in scale)
    assert not (job_states.folders.data / "strength=1_seed=0" / WRITTEN).exists()


def test_two_runners_never_take_the_same_job(job_states, jobs):
    job = select(jobs, "scale", strength=0.9)[0]
    with file_lock(job_states.folders.runs / ".jobs" / f"{job.name}.lock"):
        runner = FakeRunner(job_states)
        assert not runner.run_one(job)
        assert runner.calls == []


def test_a_stopped_runner_starts_no_more_jobs_and_marks_none_as_failed(job_states, jobs):
    runner = FakeRunner(job_states, workers=1)
    original = runner.execute

    def stopping(command, log, *more) -> int:
        runner.stop()
        return 128 + signal.SIGTERM

    runner.execute = stopping
    assert not runner.run(select(jobs, "scale", strength=0.9))
    assert Counter(job_states.state(job).kind for job in select(jobs, "scale", strength=0.9)) == {"missing": 4}
    runner.execute = original


def test_a_job_beyond_the_studys_minutes_is_stopped_and_counts_as_failed(tmp_path):
    (job,) = load_study(
        write(tmp_path / "s.yaml", betons=None, axes=None, seeds=[0], variants={"erm": {}}, limits={"minutes": 0.01})
    ).jobs()
    script = tmp_path / "main.py"
    script.write_text("import time\ntime.sleep(60)\n")
    job_states = JobStates([job], StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    job_states.config(job)
    lines: list[str] = []
    runner = Runner(job_states, 1, lines.append)
    job_states.folders = StudyFolders(tmp_path, tmp_path / "runs", tmp_path / "data")  # its main.py only sleeps
    assert not runner.run_one(job)
    assert job_states.state(job).kind == "failed"
    assert lines[-1] == f"failed  {job.name}: stopped after 0.01 minutes, the study's limit; 'retry' continues the run"


@pytest.mark.parametrize("betons", [None, "writers/write_betons.py --dataset dominoes"], ids=["run", "betons"])
def test_a_job_on_a_full_disk_has_not_failed_and_the_same_command_continues_it(tmp_path, betons):
    (job,) = load_study(write(tmp_path / "s.yaml", betons=betons, axes=None, seeds=[0], variants={"erm": {}})).jobs()
    program = tmp_path / ("main.py" if betons is None else "writers/write_betons.py")
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        "import errno\nfrom pathlib import Path\nfrom debeton.system.errors import run_command\n"
        "from debeton.system.failed_writes import naming_failed_writes\n"
        "def fill():\n    with naming_failed_writes(Path('runs/x.pt')):\n"
        "        raise OSError(errno.ENOSPC, 'no space')\n"
        "raise SystemExit(run_command(fill))\n"
    )
    job_states = JobStates([job], StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    job_states.config(job)
    lines: list[str] = []
    runner = Runner(job_states, 1, lines.append)
    job_states.folders = StudyFolders(tmp_path, tmp_path / "runs", tmp_path / "data")
    for _ in range(2):  # the second time is the same command
        assert not runner.run_one(job)
        assert lines[-1].startswith(f"stopped {job.name}: ")
        assert "the disk under runs is full: x.pt could not be written" in lines[-1]
        assert lines[-1].endswith("; the same command continues it")
        assert job_states.state(job).kind == "missing"


def test_ctrl_c_is_passed_on_to_a_job_which_is_stopped_and_not_failed(tmp_path):
    (job,) = load_study(write(tmp_path / "s.yaml", betons=None, axes=None, seeds=[0], variants={"erm": {}})).jobs()
    script = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
    (tmp_path / "main.py").write_text(script + "open('started', 'w').close()\ntime.sleep(60)\n")
    job_states = JobStates([job], StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    job_states.config(job)
    lines: list[str] = []
    runner = Runner(job_states, 1, lines.append)
    job_states.folders = StudyFolders(tmp_path, tmp_path / "runs", tmp_path / "data")

    def press() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with runner.stopping_on_signals():
        assert not runner.run_one(job)
    assert runner.stopped == signal.SIGINT
    assert lines[-1] == f"stopped {job.name}; the same command continues it"
    assert job_states.state(job).kind == "missing"


def test_workers_share_the_gpus_evenly(job_states, jobs, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    runner, together = FakeRunner(job_states, workers=4), threading.Barrier(4)
    seen: list[str] = []

    def wait_for_all(command, log, more, seconds, locks) -> int:
        seen.append(more["CUDA_VISIBLE_DEVICES"])
        together.wait(30)
        return FakeRunner.execute(runner, command, log)

    chosen_jobs = select(jobs, "scale", strength=0.9)
    for job in chosen_jobs:
        runner.write_betons(job)
    runner.execute = wait_for_all
    assert runner.run(chosen_jobs)
    assert sorted(seen) == ["2", "2", "5", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_more_jobs_than_the_limit_are_refused(tmp_path):
    path = write(tmp_path / "s.yaml", limits={"jobs": 23})
    with pytest.raises(UsageError, match="describes 24 jobs, and its limits allow 23"):
        load_study(path).jobs({"raw": "/raw"})


PAPER = {"source": "A paper", "metric": "bias_conflicting_accuracy"}


def test_published_numbers_belong_to_settings_by_their_axes_in_order(tmp_path):
    values = {"scale": {0.9: [60.5, None], 1.0: {"step": "70.0 ± 1"}}, "dfr": [50, 51.25]}
    (table,) = load_study(write(tmp_path / "s.yaml", published={**PAPER, "values": values})).published
    assert table.values == {
        "scale_strength=0.9_mapping=linear": "60.5",
        "scale_strength=1_mapping=step": "70.0 ± 1",
        "dfr_strength=0.9": "50",
        "dfr_strength=1": "51.25",
    }
    labels = {job.label for job in load_study(write(tmp_path / "s.yaml")).jobs({"raw": "/raw"})}
    assert set(table.values) <= labels


def test_measured_numbers_stand_beside_published_ones_with_their_deviation(tmp_path):
    values = {"dfr": [50, 51.25]}
    metric = "shortcut_gaps.conflicting.both.gap"
    given = {"source": "A paper", "metric": metric, "values": values}
    (table,) = load_study(write(tmp_path / "s.yaml", published=given)).published
    gap = lambda value: {"test": {"shortcut_gaps": {"conflicting": {"both": {"gap": value}}}}}  # noqa: E731
    results = {"dfr_strength=0.9": [gap(0.10), gap(0.16), gap(None)], "erm_strength=1": [gap(0.5)]}
    assert compare_with_published(table, results).to_dict("records") == [
        {"setting": "dfr_strength=0.9", "here": "13.0 ± 4.2", "n": 2, "published": "50"},
        {"setting": "dfr_strength=1", "here": "–", "n": 0, "published": "51.25"},
    ]


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (5, "published is 5; expected keys and values or a list"),
        ([5], "published holds int; expected source, metric, values"),
        ({"source": "x", "metric": "accuracy"}, "published has no 'values'"),
        ({**PAPER, "values": {"dfr": 1}, "table": 2}, "unknown key 'table'"),
        ({**PAPER, "values": [1]}, r"published: values is \[1\]; expected "),
        ({**PAPER, "metric": ["accuracy"], "values": {"dfr": 1}}, r"published: metric is \['accuracy'\]; expected "),
        ({**PAPER, "values": {"dfrr": 1}}, "no variant 'dfrr'; did you mean 'dfr'"),
        ({**PAPER, "values": {"dfr": 50}}, "dfr has 50; expected a mapping by the values of strength"),
        (
            {**PAPER, "values": {"dfr": [1, 2, 3]}},
            r"expected a mapping by the values of strength \(0.9, 1\), or a list",
        ),
        ({**PAPER, "values": {"dfr": {0.8: 1}}}, "expected a mapping by the values of strength"),
        ({**PAPER, "values": {"dfr": {0.9: {"x": 1}}}}, "dfr_strength=0.9 has no further axis"),
    ],
)
def test_published_numbers_without_a_job_give_a_clear_error(tmp_path, published, message):
    with pytest.raises(UsageError, match=message):
        load_study(write(tmp_path / "s.yaml", published=published))


def test_the_last_error_line_of_a_log_is_the_error(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("epoch 1\nerror: a sentence\n  --hint\n\n")
    assert last_line(log) == "error: a sentence"
    log.write_text("Traceback\nKeyError: 'x'\n\n")
    assert last_line(log) == "KeyError: 'x'"


# --- the command --------------------------------------------------------------------------------------------------


def command(*words: Any) -> int:
    return run_command(lambda: sweep.main([str(word) for word in words]))


@pytest.mark.slow
def test_a_study_runs_resumes_and_is_collected(toy_betons, tmp_path, capsys):
    settings = {
        "data.dataset": "toy",
        "training.data_root": str(toy_betons),
        "model.arch": "small_resnet",
        "training.epochs": 1,
        "training.batch_size": 64,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "none",
        "logging.tensorboard": False,
        "training.device": "cpu",
    }
    variants = {"erm": {"draws": 2, "search": {"training.lr": [0.05, 0.01]}}}
    values = {"erm": "91.4 ± 1.1"}
    published = {"source": "A paper, Table 1", "metric": "worst_group_accuracy", "values": values}
    path = write(
        tmp_path / "toy.yaml",
        published=published,
        configs=None,
        betons=None,
        axes=None,
        settings=settings,
        seeds=[3],
        variants=variants,
    )
    words = (path, "--runs", tmp_path / "runs", "--data", tmp_path / "data")
    assert command("dry-run", *words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 jobs, 0 sets of betons to write"
    assert command("collect", *words) == 1
    assert "no job of the study is finished (2 missing)" in capsys.readouterr().err
    assert command("run", *words, "--workers", "2") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert command("run", *words) == 0
    assert command("status", *words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["2", "done", "done", "2"]
    assert command("collect", *words, "--out", tmp_path / "report") == 0
    chosen = (tmp_path / "report" / "chosen.md").read_text().splitlines()
    assert chosen[0].startswith("| variant | training.lr | of | n | val worst-group |")
    assert len(chosen) == 3
    assert chosen[2].split(" | ")[2:4] == ["2", "1"]
    page = (tmp_path / "report" / "index.html").read_text()
    draws = [
        json.loads((tmp_path / "runs" / f"erm_draw{k}_seed3" / "version_0" / "results.json").read_text())
        for k in (0, 1)
    ]
    best = max(draws, key=lambda run: (run["val"]["worst_group_accuracy"], run["val"]["mean_group_accuracy"]))
    worst = f"{100 * best['test']['worst_group_accuracy']:.1f}"
    beside = (tmp_path / "report" / "published.md").read_text()
    assert beside.startswith("A paper, Table 1: worst_group_accuracy\n")
    assert f"| erm | {worst} | 1 | 91.4 ± 1.1 |" in beside
    assert "A paper, Table 1: worst_group_accuracy</h2>" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers 0 runs nothing"),
        (["--seeds", "a"], "--seeds a: expected whole numbers"),
        (["--set", "x"], "--set x: expected KEY=VALUE"),
        (["--only", "ermm"], "the study has no variant 'ermm'; it has erm, scale, dfr"),
        (["--set", "training.epcohs=3"], "unknown key 'training.epcohs'; did you mean 'training.epochs'"),
    ],
)
def test_wrong_use_of_the_command_gives_a_clear_error(tmp_path, capsys, words, message):
    path = write(tmp_path / "tiny.yaml")
    assert command("status", path, "--raw", "/raw", "--runs", tmp_path / "runs", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", [{"left": 0.5}, "0.5", True], ids=["table", "text", "truth"])
def test_a_published_metric_that_is_no_number_in_the_results_is_named(value):
    table = Published("Paper", "group_accuracy", {"erm": "50"})
    with pytest.raises(UsageError, match=r"the metric 'group_accuracy' of results.json is .*; expected the name"):
        compare_with_published(table, {"erm": [{"test": {"group_accuracy": value}}]})
