"""Text of a study is never run by a shell: every word of the printed commands arrives as it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.shell_texts import EVIL, make_sbatch, run_printed, without_placeholders, write_study
from tests.running import ROOT

from debeton.commands import sweep
from debeton.studies.jobs import fill_command
from debeton.studies.manifest import load_manifest
from debeton.studies.runner import Runner
from debeton.studies.sbatch import Submission, shell_command, shell_variable
from debeton.studies.slurm import submit
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import DataError, UsageError, run_command


@pytest.fixture
def sbatch(tmp_path) -> Path:
    """A folder with an sbatch that notes its words."""
    return make_sbatch(tmp_path / "tools")


@pytest.mark.parametrize("evil", EVIL)
def test_printed_commands_run_nothing_of_a_study_and_give_sbatch_its_words(evil, sbatch, tmp_path, capsys):
    study = write_study(tmp_path / "study.yaml", evil)
    runs = tmp_path / f"runs {evil}".replace("\\", "-")  # sbatch has no way to say a backslash in a path
    words = ["submit", str(study), "--print", "--runs", str(runs), "--data", str(tmp_path / evil), "--seeds", "0"]
    assert run_command(lambda: sweep.main([*words, "--slurm", f"qos={evil}"])) == 0
    first, second, collecting = run_printed(capsys.readouterr().out, sbatch)
    for got in (first, second, collecting):
        assert f"--partition={evil}" in got
        assert f"--account={evil}" in got
        assert f"--qos={evil}" in got
        assert f"--chdir={ROOT}" in got
        assert any(word.startswith(f"--output={str(runs).replace('%', '%%')}/.jobs/slurm_") for word in got)
    assert f"--job-name=s {evil}" in first
    assert f"--job-name=s {evil}_collect" in collecting
    assert f"--comment={evil}" in first
    assert "--exclusive" in first
    assert "--dependency=afterany:70" in second
    assert "--dependency=afterany:70:71" in collecting
    (manifest,) = (Path(word) for word in first if word.endswith(".json"))
    jobs = load_manifest(manifest).jobs
    assert {job.settings["data.dataset"] for job in jobs} == {without_placeholders(evil)}
    assert {Path(manifest.parent, f"{job.name}.log").parent for job in jobs} == {runs / ".jobs"}


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8), max_size=5))
def test_any_words_arrive_unchanged_and_only_marked_variables_are_filled_in(words):
    word = f"--after={shell_variable('array0')}:{shell_variable('array1')}"
    command = shell_command(["printf", "%s\\0", *words, word])
    done = subprocess.run(["bash", "-c", f"array0=7 array1=8; {command}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [*words, "--after=7:8"]


CONTROLS = {
    "name": ({"name": "s\n#SBATCH --wrap=x"}, "study .*, name: the path .* does not lie below its folder"),
    "value": ({"slurm": {"comment": "a\n#SBATCH --output=/x"}}, "--slurm comment is .* with a control character"),
    "escape": ({"slurm": {"comment": "\x1b]0;x\x07"}}, "--slurm comment is .* with a control character"),
    "option": ({"slurm": {"wrap=touch X; ": "y"}}, "--slurm 'wrap=touch X; ': expected the name of an option"),
    "list": ({"slurm": {"comment": ["a"]}}, r"slurm: comment is \['a'\]; expected text or a number \(''"),
    "null": ({"slurm": {"exclusive": None}}, r"slurm: exclusive is None; expected text or a number \('' for none\)"),
    "table": ({"values": {"word": {"a": 1}}}, r"values: word is {'a': 1}; expected text or a number"),
    "array": ({"slurm": {"array": "0-1"}}, "--slurm array: the submission itself decides which jobs run"),
    "after": ({"slurm": {"dependency": "singleton"}}, "--slurm dependency: the submission itself decides"),
    "dashes": ({"slurm": {"--wrap": "y"}}, "--slurm '--wrap': expected the name of an option"),
    "line": ({"slurm": {"mem\n#SBATCH --x": "y"}}, "expected the name of an option"),
}


@pytest.mark.parametrize(("change", "message"), CONTROLS.values(), ids=CONTROLS)
def test_text_that_would_begin_another_line_or_option_is_refused(change, message, tmp_path, capsys):
    study = write_study(tmp_path / "study.yaml", "plain", **change)
    words = ["submit", str(study), "--print", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    assert run_command(lambda: sweep.main(words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_runs_that_sbatch_cannot_name_is_refused(tmp_path, capsys):
    study = write_study(tmp_path / "study.yaml", "plain")
    assert run_command(lambda: sweep.main(["submit", str(study), "--print", "--runs", str(tmp_path / "a\\b")])) == 2
    assert "holds a backslash" in capsys.readouterr().err


# --- names of studies and jobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a\nb", "a/../../x"])
def test_a_study_is_not_named_out_of_the_folder_of_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "study.yaml", "plain", name=name)
    assert run_command(lambda: sweep.main(["dry-run", str(study)])) == 2
    assert f"name: the path {name!r} does not lie below its folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("evil", ["../../x", "/etc/x", "a\0b", "a\nb", "..", "-x", "caf\u00e9", "x" * 180])
def test_variants_and_values_name_files_in_the_folders_of_the_study(evil, tmp_path):
    content = {
        "name": "s",
        "betons": "write.py --mode {mode}",
        "axes": {"mode": [evil, "plain"]},
        "variants": {evil: {}},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    if len(evil) > 100:
        content["axes"] = {"mode": ["plain"]}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    folders = StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data")
    for job in load_study(tmp_path / "s.yaml").jobs():
        for path in (folders.log_file(job), folders.lock_file(job), folders.error_file(job)):
            assert Path(os.path.normpath(path)).parent == folders.logs
            assert len(path.name.encode()) <= 255
        assert Path(os.path.normpath(folders.data / job.data)).parent == folders.data


def test_a_name_that_is_too_long_for_its_files_is_a_sentence(tmp_path):
    axes = {f"k{k}": ["v" * 60] for k in range(4)}
    settings = {f"data.{name}_path": "".join(f"{{k{k}}}" for k in range(4)) for name in ("train",)}
    content = {"name": "s", "settings": settings, "axes": axes, "variants": {"a": {}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"its name has 263 bytes, and at most 200 fit .*shorten the names"):
        load_study(tmp_path / "s.yaml").jobs()


@pytest.mark.parametrize("key", ["name", "data"])
@pytest.mark.parametrize("value", ["../../x", "/tmp/x", ".."])
def test_a_manifest_names_no_file_outside_of_its_folders(key, value, tmp_path):
    study = write_study(tmp_path / "study.yaml", "plain")
    job_states = JobStates(load_study(study).jobs(), StudyFolders(ROOT, tmp_path / "runs", tmp_path / "data"))
    submit(job_states, "s", job_states.jobs, Submission(), only_print=True)
    (manifest,) = (tmp_path / "runs" / ".jobs").glob("manifest_*.json")
    content = json.loads(manifest.read_text())
    content["jobs"][0][key] = value
    text = json.dumps(content)
    manifest.write_text(text)
    with pytest.raises(DataError, match="does not hold what its name, a hash, says"):
        load_manifest(manifest)
    made_up = manifest.with_name(f"manifest_{hashlib.sha256(text.encode()).hexdigest()[:12]}.json")
    made_up.write_text(text)
    with pytest.raises(UsageError, match=f"job '{value}': its {key} is no name of a file"):
        load_manifest(made_up)


# --- commands that run here ---------------------------------------------------------------------------------------

RECORD = "import json, os, sys; os.makedirs(sys.argv[-1]); json.dump(sys.argv[1:], open(sys.argv[-1] + '/w.json', 'w'))"


@pytest.mark.parametrize("evil", [*EVIL, "a --out /tmp/x", "it's", "{betons}"])
def test_the_command_for_betons_gets_each_value_as_one_word(evil, tmp_path):
    (tmp_path / "record.py").write_text(RECORD)
    content = {"name": "s", "betons": "record.py --raw {raw} '{raw}' x{raw} \"a b\"", "variants": {"a": {}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    folders = StudyFolders(tmp_path, tmp_path / "runs", tmp_path / "data")
    (job,) = load_study(tmp_path / "s.yaml").jobs({"raw": evil})
    assert Runner(JobStates([job], folders), 1, print).write_betons(job)
    data = folders.data / job.data
    raw = evil.replace("{betons}", str(data))
    assert json.loads((data / "w.json").read_text()) == ["--raw", raw, raw, f"x{raw}", "a b", "--out", str(data)]
    assert not (tmp_path / "X").exists()


def test_the_text_of_an_ordinary_command_stays_as_it_is():
    command = 'w.py  --raw {raw} --x "a b" --out {betons}'
    assert fill_command(command, {"raw": "/data/pets", "betons": "{betons}"}, "here") == (
        'w.py  --raw /data/pets --x "a b" --out {betons}'
    )


@pytest.mark.parametrize("command", ["write.py --x 'a", " ", "write.py a\0b"])
def test_a_command_with_an_open_quote_or_without_a_word_is_refused(command, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "betons": command, "variants": {"a": {}}}))
    with pytest.raises(UsageError, match=r"betons: .* is no command"):
        load_study(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("comment", "rounds"),
    [
        ("debeton_rounds_without_progress:2", "3"),
        ("debeton_rounds_without_progress:08", "9"),
        ("debeton_rounds_without_progress:a[$(touch${IFS}X)]", "1"),
        ("debeton_rounds_without_progress:1;touch${IFS}X", "1"),
        ("other", "1"),
    ],
)
def test_the_comment_of_a_job_is_a_number_and_never_run(comment, rounds, tmp_path):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\nprintf '%s\\n' 'JobId=1 {f'Comment={comment}'} Name=x'\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "place").mkdir()
    script = (
        f". {shlex.quote(str(ROOT / 'scripts/slurm/saving.sh'))}; set -u; SLURM_JOB_ID=1; echo $(($(idle_rounds) + 1))"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    words = ["bash", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path / "place")
    assert (done.stdout, done.stderr) == (f"{rounds}\n", "")
    assert list((tmp_path / "place").iterdir()) == []
