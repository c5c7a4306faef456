"""Damaged files of a study: the job is shown as damaged, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.faults.damages import (
    TEXTS,
    Said,
    assert_one_sentence,
    assert_texts_refused,
    value_damages,
)
from tests.running import ROOT

from debeton.commands import sweep
from debeton.studies.jobs import Job
from debeton.studies.manifest import Manifest, load_manifest, write_manifest
from debeton.studies.runner import Runner
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import run_command
from debeton.train.run_folder import claim_folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return what reads that the last commands wrote to stderr."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def study(tmp_path: Path) -> tuple[JobStates, list[Job], list[str]]:
    """Return the states and the jobs of a study of three seeds, and the words that name it."""
    content = {
        "name": "tiny", "configs": ["dataset_configs/dominoes.yaml"], "settings": {"training.epochs": 2},
        "seeds": [0, 1, 2], "variants": {"erm": {"configs": ["dataset_configs/methods/erm.yaml"]}},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    jobs = load_study(path).jobs({})
    states = JobStates(jobs, StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    return states, jobs, [str(path), "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]


def finish(states: JobStates, job: Job) -> Path:
    """Write the run folder of a finished job, and return its results.json."""
    config = states.config(job)
    assert config is not None
    path = claim_folder(config) / "results.json"
    metrics = {"accuracy": 0.5, "worst_group_accuracy": 0.5}
    path.write_text(json.dumps({"dataset": "dominoes", "method": "erm", "seed": job.seed, "test": metrics}))
    return path


def test_one_damaged_job_is_shown_as_damaged_and_the_others_are_reported(study, capsys, tmp_path):
    states, jobs, words = study
    results = [finish(states, job) for job in jobs]
    content = results[1].read_bytes()
    for what, damage in TEXTS.items():
        results[1].write_bytes(damage(content))
        assert run_command(lambda: sweep.main(["status", *words])) == 0, what
        out = capsys.readouterr().out
        assert f"damaged    {jobs[1].name}  {results[1]}" in out
        assert "; 'run' makes the results anew" in out
        assert "2 done, 1 damaged" in out
    assert run_command(lambda: sweep.main(["collect", *words, "--out", str(tmp_path / "report")])) == 0
    assert "\nerm,dominoes,erm,test,2,0 2," in (tmp_path / "report" / "summary.csv").read_text()


def test_a_damaged_record_of_a_failure_is_shown_and_the_job_runs_again(study, capsys, monkeypatch):
    states, jobs, words = study
    for job in jobs[1:]:
        finish(states, job)
    states.record_error(jobs[0], "it was too dark")
    record = states.folders.error_file(jobs[0])
    content = record.read_bytes()
    assert states.state(jobs[0]).kind == "failed"
    for what, damage in TEXTS.items():
        record.write_bytes(damage(content))
        assert states.state(jobs[0]).kind == "damaged", what
    assert run_command(lambda: sweep.main(["status", *words])) == 0
    assert "failed.json" in (out := capsys.readouterr().out)
    assert "'run' runs the job again" in out
    monkeypatch.setattr(Runner, "execute", lambda self, *arguments: finish(states, jobs[0]) and 0)
    assert run_command(lambda: sweep.main(["run", *words])) == 0
    assert not record.exists()


def test_damaged_ids_of_slurm_do_not_stop_the_status(study, caplog, capsys):
    states, jobs, words = study
    states.folders.logs.mkdir(parents=True)
    ids = states.folders.logs / "slurm.json"
    for damage in (TEXTS["half of it"], TEXTS["a list"], TEXTS["no byte"]):
        ids.write_bytes(damage(b'{"erm_seed0": "1_0"}'))
        assert run_command(lambda: sweep.main(["status", *words])) == 0
        assert "slurm.json" in (said := capsys.readouterr()).err
        assert said.out.count("missing") >= len(jobs)


def test_a_manifest_that_is_damaged_or_edited_is_refused(study, said):
    states, jobs, _ = study
    path = write_manifest(Manifest("tiny", tuple(jobs), states.folders))
    assert load_manifest(path).jobs == tuple(jobs)
    assert_texts_refused(path, lambda: sweep.main(["status", str(path)]), said)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"seed": 1', b'"seed": 7'))
    assert_one_sentence(run_command(lambda: sweep.main(["status", str(path)])), said(), "does not hold what its name")
    other = path.with_name("mine.json")  # a name that says nothing of the content
    for what, text in value_damages(content, 1, 40):
        other.write_bytes(text)
        status, stderr = run_command(lambda: sweep.main(["status", str(other)])), said()
        assert status in (0, 1, 2), what
        assert stderr.count("error: ") == (status > 0), (what, stderr)
