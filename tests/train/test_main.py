"""The command line as a user meets it: results, resuming, and one clear sentence for whatever is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import main
import numpy as np
import pytest
import torch
from tests.running import ROOT, lines_of, run

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.results import ResultLog
from debeton.train.run_folder import claim_folder


def only_folder(args: list[str]) -> Path:
    outdir = Path(args[args.index("--training.outdir") + 1])
    folders = [p.parent for p in outdir.rglob("config.yaml")]
    assert len(folders) == 1
    return folders[0]


@pytest.fixture(scope="module")
def finished(toy_betons, tmp_path_factory):
    """The folder and the arguments of a finished run."""
    outdir = tmp_path_factory.mktemp("finished")
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": outdir,
        "model.arch": "small_resnet",
        "training.epochs": 3,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.lr_scheduler": "cosine",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "pad_crop:2",
        "training.ema": 0.5,
        "training.device": "cpu",
    }
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run(args) == 0
    return only_folder(args), args


def test_a_run_leaves_the_promised_files(finished):
    folder, _ = finished
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "log.txt", "results.jsonl", "results.json", "results.pt", "checkpoints"} <= names
    kept = {p.name for p in (folder / "checkpoints").iterdir()}
    assert kept == {"checkpoint_latest.pt", "checkpoint_best.pt", "phase_train.pt", "phases.json"}
    best, phase = (folder / "checkpoints" / name for name in ("checkpoint_best.pt", "phase_train.pt"))
    assert best.samefile(phase)  # the weights lie on the disk once
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not list(folder.rglob("*.partial"))
    assert folder.name == "version_0"
    assert folder.parent.name.startswith("toy_erm_seed0_")


def test_results_json_follows_the_schema(finished, toy_betons):
    results = json.loads((finished[0] / "results.json").read_text())
    assert (results["dataset"], results["method"], results["seed"], results["selection"]) == (
        "toy",
        "erm",
        0,
        "worst_group",
    )
    train = open_beton(toy_betons / "toy_train.beton")
    assert list(results["train_groups"].values()) == np.bincount(train.group, minlength=4).tolist()
    assert results["config_hash"] == load([finished[0] / "config.yaml"]).identity_hash()
    assert {"torch", "numpy", "numba", "ffcv", "python"} <= set(results["versions"])
    test = results["test"]
    assert sum(test["group_count"].values()) == 256
    weights = np.array(list(results["train_groups"].values())) / 512
    assert test["adjusted_accuracy"] == pytest.approx(weights @ list(test["group_accuracy"].values()))
    assert test["worst_group_accuracy"] == min(test["group_accuracy"].values())
    assert 0.5 < test["bias_aligned_accuracy"] <= 1
    assert 0 <= results["timing"]["data_wait"]["train"] < 1
    (shown,) = re.findall(r"phase 'train' took .*, data_wait (\d+\.\d) %", (finished[0] / "log.txt").read_text())
    assert float(shown) == pytest.approx(100 * results["timing"]["data_wait"]["train"], abs=0.051)


def test_results_pt_holds_int64_predictions_that_give_the_accuracy(finished, toy_betons):
    content = load_checkpoint(finished[0] / "results.pt")
    standard = content["results"]["results_standard"]
    assert standard["preds"].dtype == standard["gts"].dtype == torch.int64
    assert standard["acc"].dtype == torch.float64
    assert standard["gts"].tolist() == open_beton(toy_betons / "toy_test.beton").label.tolist()
    assert standard["acc"].item() == pytest.approx(100 * (standard["preds"] == standard["gts"]).double().mean().item())
    assert set(content["results"]) == {"results_standard", "results_clean"}


def test_the_log_has_one_line_per_evaluation_and_the_selected_epoch_is_its_best(finished):
    lines, results = lines_of(finished[0]), json.loads((finished[0] / "results.json").read_text())
    assert [(line["split"], line["epoch"], line["step"]) for line in lines] == [
        (split, epoch, 8 * epoch) for epoch in (1, 2, 3) for split in ("train", "val")
    ]
    val = {line["epoch"]: line["metrics"] for line in lines if line["split"] == "val"}
    best = max(val, key=lambda e: (val[e]["worst_group_accuracy"], val[e]["mean_group_accuracy"], -e))
    assert results["selected_epoch"] == best
    assert results["val"]["group_accuracy"] == val[best]["group_accuracy"]
    assert sum(lines[0]["metrics"]["group_count"].values()) == 512


def test_the_same_command_on_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    folder, args = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert run(args) == 0
    assert "is finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_the_same_seed_gives_the_same_results_whatever_the_workers(finished, tmp_path):
    folder, args = finished
    again = [*args, "--training.outdir", tmp_path, "--training.num_workers", "1", "--loader.os_cache", "false"]
    assert run(again) == 0
    ours, theirs = (
        load_checkpoint(f / "checkpoints/checkpoint_best.pt")["state_dict"] for f in (folder, only_folder_of(tmp_path))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def only_folder_of(outdir: Path) -> Path:
    (config,) = Path(outdir).rglob("config.yaml")
    return config.parent


def checkpoints_equal(a: Path, b: Path) -> bool:
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (a, b))
    same = [torch.equal(left["state_dict"][k], right["state_dict"][k]) for k in left["state_dict"]]
    moments = [
        torch.equal(left["optimizer"]["state"][k]["momentum_buffer"], right["optimizer"]["state"][k]["momentum_buffer"])
        for k in left["optimizer"]["state"]
    ]
    return all(same) and all(moments) and left["step"] == right["step"]


def test_a_run_killed_at_any_epoch_ends_bit_equal_to_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    folder, args = finished
    args = [*args, "--training.outdir", tmp_path]

    class Killed(BaseException):
        pass

    write, calls = ResultLog.write, []

    def die_in_the_second_epoch(self, **line):
        calls.append(line)
        if len(calls) == 4:  # the training line of epoch 2 is written, its validation line is not
            raise Killed
        write(self, **line)

    monkeypatch.setattr(ResultLog, "write", die_in_the_second_epoch)
    with pytest.raises(Killed):
        run(args)
    monkeypatch.setattr(ResultLog, "write", write)
    assert not (only_folder_of(tmp_path) / "results.json").exists()
    assert run(args) == 0
    resumed = only_folder_of(tmp_path)
    assert checkpoints_equal(folder, resumed)
    assert lines_of(resumed) == lines_of(folder)
    strip = {"timing", "name"}
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, resumed))
    assert {k: v for k, v in ours.items() if k not in strip} == {k: v for k, v in theirs.items() if k not in strip}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_in_the_middle_of_an_epoch_and_the_resumed_run_ends_bit_equal(
    finished, tmp_path, signum, monkeypatch
):
    folder, args = finished
    args = [*args, "--training.outdir", tmp_path]
    from debeton.train.objective import Objective

    backward, steps = Objective.backward, []

    def signalled(self, *arguments):
        steps.append(1)
        if len(steps) == 11:  # step 3 of epoch 2
            os.kill(os.getpid(), signum)
        return backward(self, *arguments)

    monkeypatch.setattr(Objective, "backward", signalled)
    assert run(args) == 128 + signum
    latest = load_checkpoint(only_folder_of(tmp_path) / "checkpoints/checkpoint_latest.pt")
    assert (latest["epoch"], latest["batch"], latest["step"]) == (1, 3, 11)
    monkeypatch.setattr(Objective, "backward", backward)
    assert run(args) == 0
    assert checkpoints_equal(folder, only_folder_of(tmp_path))
    assert lines_of(only_folder_of(tmp_path)) == lines_of(folder)


@pytest.mark.slow
def test_a_process_killed_with_sigkill_resumes_to_the_same_weights(finished, tmp_path):
    folder, args = finished
    args = [*args, "--training.outdir", str(tmp_path)]
    slow = (
        "import sys,time; sys.argv[0]='main.py'; import main, debeton.train.results as r; w=r.ResultLog.write\n"
        "def slow(self, **line):\n    w(self, **line); time.sleep(.5)\n"
        "r.ResultLog.write=slow; main.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *args], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.rglob("checkpoint_latest.pt")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert run(args) == 0
    assert checkpoints_equal(folder, only_folder_of(tmp_path))


def test_another_configuration_under_the_same_name_takes_the_next_version(toy_args):
    args = [*toy_args, "--training.exp_name", "mine", "--training.epochs", "1"]
    assert run(args) == 0
    assert run([*args, "--training.seed", "1"]) == 0
    assert run(args) == 0  # finished: no third folder
    outdir = Path(toy_args[toy_args.index("--training.outdir") + 1])
    assert sorted(p.name for p in (outdir / "mine").iterdir()) == ["version_0", "version_1"]


def test_folders_claimed_at_once_are_never_shared(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    configs = [
        load(overrides=["--training.outdir", str(tmp_path), "--training.exp_name", "x", "--training.seed", str(s)])
        for s in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(claim_folder, configs * 2))
    assert folders[:8] == folders[8:]
    assert len(set(folders)) == 8


def test_a_run_folder_in_use_is_refused(toy_args, capsys):
    import fcntl

    config = load(overrides=toy_args)
    folder = claim_folder(config)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(toy_args) == 2
    assert "is being run by another process" in capsys.readouterr().err


def test_resample_draws_every_group_equally_often(toy_args):
    assert run([*toy_args, "--training.method", "resample", "--training.epochs", "8"]) == 0
    lines = [line for line in lines_of(only_folder(toy_args)) if line["split"] == "train"]
    counts = np.sum([list(line["metrics"]["group_count"].values()) for line in lines], axis=0)
    # 4096 draws, 1/4 each: within five standard deviations of a binomial.
    assert np.all(np.abs(counts - 1024) < 5 * np.sqrt(4096 * 0.25 * 0.75))


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        (["--training.method", "resampel"], 2, ["unknown method 'resampel'", "did you mean 'resample'"]),
        (["--training.epohcs", "3"], 2, ["training.epohcs", "training.epochs"]),
        (["--training.epochs", "x"], 2, ["training.epochs is 'x'"]),
        (["--config-file", "none.yaml"], 2, ["no config file at none.yaml"]),
        (["--model.arch", "resnet81"], 2, ["unknown model 'resnet81'"]),
        (["--training.decoder_train", "centre"], 2, ["unknown decoder 'centre'"]),
        (["--training.augment", "flop"], 2, ["unknown augmentation 'flop'", "flip"]),
        (["--training.augment", "pad_crop:x"], 2, ["pad_crop:x", "malformed"]),
        (["--training.device", "tpu9"], 2, ["unknown device 'tpu9'"]),
        (["--data.val_path", "gone.beton"], 1, ["no beton for toy/val", "debeton write-betons"]),
        (["--data.dataset", "celeba"], 1, ["no beton for celeba/train", "debeton write-betons --dataset celeba"]),
        (["--data.mini_dataset", "2"], 2, ["data.mini_dataset is 2"]),
        (["--logging.wandb", "project"], 2, ["package wandb"]),
        (["--training.lr", "1e30", "--training.log_every", "1"], 1, ["the loss is", "step"]),
        (["stray"], 2, ["unexpected argument 'stray'"]),
    ],
)
def test_wrong_use_is_one_sentence_and_its_status(toy_args, capsys, extra, status, words):
    assert run([*toy_args, *extra]) == status
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error


def test_a_batch_larger_than_the_set_shrinks_with_a_note(toy_args, tmp_path, capsys):
    settings = ["--training.batch_size", 1000, "--training.drop_last", "true", "--training.epochs", 2]
    assert run([*toy_args, *settings, "--training.outdir", tmp_path]) == 0
    assert "view 'train' holds 512 rows: batches of 512 instead of 1000" in capsys.readouterr().err
    steps = [line["step"] for line in lines_of(only_folder_of(tmp_path)) if line["split"] == "train"]
    assert steps == [1, 2]


def test_the_oracle_is_the_best_test_epoch_and_keeps_none(toy_args, tmp_path):
    args = [*toy_args, "--training.epochs", "4", "--training.selection", "worst_group"]
    assert run([*args, "--training.outdir", tmp_path / "plain"]) == 0
    assert run([*args, "--training.outdir", tmp_path / "oracle", "--training.oracle", "true"]) == 0
    plain, oracle = (only_folder(["--training.outdir", tmp_path / name]) for name in ("plain", "oracle"))
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (plain, oracle))
    assert theirs["test"] == ours["test"]  # nothing that is kept depends on it
    assert theirs["selected_epoch"] == ours["selected_epoch"]
    assert "oracle" not in ours
    tests = {line["epoch"]: line["metrics"] for line in lines_of(oracle) if line["split"] == "test"}
    assert set(tests) == {1, 2, 3, 4}
    assert tests[theirs["selected_epoch"]]["group_accuracy"] == theirs["test"]["group_accuracy"]
    found, worst = theirs["oracle"], [tests[e]["worst_group_accuracy"] for e in (1, 2, 3, 4)]
    assert found["test"]["worst_group_accuracy"] == max(worst)
    assert tests[found["epoch"]] == found["test"]
    assert found["rule"] == "worst_group"


def test_the_oracle_needs_a_test_split(toy_args, toy_betons, tmp_path, capsys):
    for split in ("train", "val"):
        for file in toy_betons.glob(f"toy_{split}.beton*"):
            shutil.copy(file, tmp_path / file.name)
    assert run([*toy_args, "--training.data_root", str(tmp_path), "--training.oracle", "true"]) == 2
    assert "training.oracle measures the test split" in capsys.readouterr().err


def test_a_missing_validation_split_asks_for_a_rule(toy_args, toy_betons, tmp_path, capsys):
    for split in ("train", "test"):
        for file in toy_betons.glob(f"toy_{split}.beton*"):
            shutil.copy(file, tmp_path / file.name)
    args = [*toy_args, "--training.data_root", str(tmp_path), "--training.epochs", "1"]
    assert run(args) == 2
    assert "there is no validation split" in capsys.readouterr().err
    assert run([*args, "--training.selection", "last"]) == 0
    assert run([*args, "--data.val_fraction", "0.25"]) == 0
    held_out = [json.loads(p.read_text()) for p in Path(tmp_path / "runs").rglob("results.json")]
    assert sorted(0 if r["val"] is None else sum(r["val"]["group_count"].values()) for r in held_out) == [0, 128]


def test_further_test_betons_are_evaluated_too(toy_args, toy_betons, write_toy, tmp_path):
    for file in toy_betons.iterdir():
        shutil.copy(file, tmp_path / file.name)
    write_toy(tmp_path / "toy_test_flipped.beton", 64, 0.0)
    assert run([*toy_args, "--training.data_root", str(tmp_path), "--training.epochs", "1"]) == 0
    results = json.loads((only_folder(toy_args) / "results.json").read_text())
    assert list(results["other_tests"]) == ["test_flipped"]
    assert results["other_tests"]["test_flipped"]["bias_aligned_accuracy"] is None
    assert sum(results["other_tests"]["test_flipped"]["group_count"].values()) == 64
    assert sum(results["test"]["group_count"].values()) == 256


def test_a_damaged_beton_stops_the_run_with_a_sentence(toy_args, toy_betons, tmp_path, capsys):
    for file in toy_betons.iterdir():
        shutil.copy(file, tmp_path / file.name)
    beton = tmp_path / "toy_train.beton"
    beton.write_bytes(beton.read_bytes()[:-100])
    assert run([*toy_args, "--training.data_root", str(tmp_path)]) == 1
    assert "is truncated" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("version_*"))


def test_an_empty_group_stops_resampling_and_names_it(toy_args, write_toy, tmp_path, capsys):
    write_toy(tmp_path / "only.beton", 128, 1.0)
    args = [
        *toy_args,
        "--data.train_path",
        str(tmp_path / "only.beton"),
        "--training.method",
        "resample",
        "--training.epochs",
        "1",
    ]
    assert run(args) == 1
    error = capsys.readouterr().err
    assert "2 of 4 groups" in error
    assert "left, light; right, dark" in error
    assert run([*args, "--training.empty_groups", "ignore"]) == 0


def test_a_compiled_model_trains_the_same_network(toy_args, monkeypatch):
    compiled, compile_model = [], torch.compile

    def eager(model):  # the plumbing without a minute of code generation
        compiled.append(compile_model(model, backend="eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", eager)
    assert run([*toy_args, "--training.compile", "true", "--training.epochs", "1"]) == 0
    assert run([*toy_args, "--training.epochs", "1"]) == 0
    assert len(compiled) == 1
    outdir = Path(toy_args[toy_args.index("--training.outdir") + 1])
    left, right = (load_checkpoint(p)["state_dict"] for p in outdir.rglob("checkpoint_best.pt"))
    assert all(torch.allclose(left[name].float(), right[name].float(), atol=1e-5) for name in left)


def test_a_full_disk_stops_the_run_with_a_sentence_and_the_run_resumes(toy_args, monkeypatch, capsys):
    write_bytes = Path.write_bytes

    def full(self, data):
        write_bytes(self, bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(toy_args) == 1
    assert "is full: checkpoint_best.pt" in capsys.readouterr().err
    assert not list(only_folder(toy_args).rglob("*.partial"))
    assert not list(only_folder(toy_args).rglob("*.pt"))
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert run(toy_args) == 0
    assert len(lines_of(only_folder(toy_args))) == 4


def test_pseudo_groups_from_a_file_train_and_the_true_groups_are_measured(toy_args, toy_betons, tmp_path):
    beton = open_beton(toy_betons / "toy_train.beton")
    lines = [f"{path},{int(i % 3 == 0)}" for i, path in enumerate(beton.extra["path"])]
    (tmp_path / "toy_metadata_aug.csv").write_text("\n".join(["path,ddb", *lines]))
    given = ["--data.pseudo_groups", tmp_path / "toy_metadata_aug.csv", "--training.method", "resample"]
    assert run([*toy_args, *given, "--training.epochs", "1"]) == 0
    results = json.loads((only_folder(toy_args) / "results.json").read_text())
    assert results["train_groups"]["left, conflicting"] + results["train_groups"]["right, conflicting"] == 171
    assert set(results["test"]["group_accuracy"]) == {"left, dark", "left, light", "right, dark", "right, light"}
    assert 0 < results["test"]["adjusted_accuracy"] < 1


@pytest.mark.parametrize("method", ["groupdro", "resample", "reweight", "subg", "dfr", "jtt"])
def test_pseudo_groups_of_three_clusters_train_and_the_true_groups_are_measured(method, toy_args, toy_betons, tmp_path):
    beton = open_beton(toy_betons / "toy_train.beton")
    lines = [f"{path},{('bright', 'dim', 'grey')[i % 3]}" for i, path in enumerate(beton.extra["path"])]
    (tmp_path / "clusters.csv").write_text("\n".join(["path,shade", *lines]))
    given = ["--data.pseudo_groups", tmp_path / "clusters.csv", "--data.pseudo_column", "shade", "--dfr.data", "train"]
    assert run([*toy_args, *given, "--training.method", method, "--dfr.refits", "2", "--training.epochs", "1"]) == 0
    results = json.loads((only_folder(toy_args) / "results.json").read_text())
    names = [f"{label}, {shade}" for label in ("left", "right") for shade in ("bright", "dim", "grey")]
    assert list(results["train_groups"]) == names
    assert sum(results["train_groups"].values()) == 512
    assert set(results["test"]["group_accuracy"]) == {"left, dark", "left, light", "right, dark", "right, light"}


def test_rows_without_a_pseudo_group_stop_what_balances_groups_until_they_are_left_out(
    toy_args, toy_betons, tmp_path, capsys
):
    beton = open_beton(toy_betons / "toy_train.beton")
    lines = [f"{path},{(0, 1, 2, '')[i % 4]}" for i, path in enumerate(beton.extra["path"])]
    (tmp_path / "clusters.csv").write_text("\n".join(["path,cluster", *lines]))
    given = ["--data.pseudo_groups", tmp_path / "clusters.csv", "--data.pseudo_column", "cluster", "--dry-run"]
    args = [*toy_args, *given, "--training.method", "groupdro"]
    assert run(args) == 2
    assert "needs the pseudo-group of every row, and it is not known for 128 of 512 rows" in capsys.readouterr().err
    assert run([*args, "--data.known_attributes_only", "true", "--all"]) == 0
    assert "view train: 384 rows" in capsys.readouterr().out
    minority = ["--training.method", "dfr", "--dfr.data", "train", "--dfr.criterion", "minority"]
    assert run([*args, *minority, "--data.known_attributes_only", "true"]) == 2
    assert "none of the 3 values of pseudo-groups 'cluster' is said to be" in capsys.readouterr().err


def test_a_file_of_row_numbers_decides_what_is_trained_on(toy_args, tmp_path, capsys):
    (tmp_path / "rows.json").write_text(json.dumps({"train_indices": [5, 6, 90], "test_indices": [0, 1]}))
    assert run([*toy_args, "--data.custom_indices_path", tmp_path / "rows.json", "--dry-run", "--all"]) == 0
    out = capsys.readouterr().out
    assert "view train: 3 rows" in out
    assert "view test: 2 rows" in out


def test_dry_run_shows_the_counts_that_a_bias_rate_leaves(toy_args, capsys):
    assert run([*toy_args, "--data.bias_rate", "0.95", "--data.min_conflicting", "5", "--dry-run", "--all"]) == 0
    out = capsys.readouterr().out
    counts = {
        line.rsplit(None, 1)[0].strip(): int(line.rsplit(None, 1)[1])
        for line in out.splitlines()
        if line.startswith(("  left", "  right"))
    }
    train = out[out.index("view train") : out.index("view val")]
    aligned, conflicting = (int(line.split()[-1]) for line in train.splitlines()[1:3])
    assert conflicting == int(np.ceil(aligned * 0.05 / 0.95))
    assert counts["left, dark"] + counts["left, light"] == 128  # of test, which no bias rate touches


def test_dry_run_prints_configuration_counts_and_shapes_and_writes_nothing(toy_args, capsys):
    assert run([*toy_args, "--dry-run", "--all"]) == 0
    out = capsys.readouterr().out
    assert "lr: 0.05" in out
    assert "view train: 512 rows" in out
    assert "left, light" in out
    assert "image [64, 3, 16, 16]" in out
    assert not Path(toy_args[toy_args.index("--training.outdir") + 1]).exists()


def test_lists_name_what_there_is_one_a_line(capsys):
    for kind, name in (("methods", "resample"), ("datasets", "dominoes"), ("models", "small_resnet")):
        assert run(["--list", kind]) == 0
        assert name in [line.split()[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "shown", "left_out"),
    [
        (["--help"], ("--config-file", "training  "), "--training.lr "),
        (["--help", "training"], ("--training.lr ",), "--data.label "),
        (["--help", "all"], ("--training.lr ", "--data.label ", "--jtt.upweight "), "--config-file"),
    ],
)
def test_help_shows_the_sections_or_the_settings_of_one_or_of_all(words, shown, left_out, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(words)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for text in shown:
        assert text in out
    assert left_out not in out


@pytest.mark.slow
def test_the_program_runs_from_another_folder_and_reports_usage_errors_with_status_2(tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--training.methd", "erm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "did you mean 'training.method'" in done.stderr


@pytest.mark.parametrize(
    "extra",
    [
        ["--training.optimizer", "adamw", "--training.lr", "1e-3", "--training.clip_grad", "1.0"],
        ["--training.precision", "bf16", "--training.channels_last", "false"],
        ["--model.bn_mode", "eval", "--training.label_smoothing", "0.1"],
        ["--model.blurpool", "true", "--training.tta", "true"],
        [
            "--training.decoder_train",
            "random_resized_crop",
            "--training.augment",
            "flip,cutout:4",
            "--resolution.prog_resizing",
            "true",
            "--resolution.min_res",
            "8",
            "--resolution.max_res",
            "16",
            "--resolution.end_ramp",
            "1",
        ],
        [
            "--training.order",
            "quasi_random",
            "--loader.os_cache",
            "false",
            "--training.drop_last",
            "true",
            "--training.batch_size",
            "100",
        ],
        ["--model.arch", "resnet18", "--training.decoder_val", "resized", "--resolution.val_res", "32"],
    ],
)
def test_settings_combine(toy_args, extra):
    assert run([*toy_args, "--training.epochs", "1", *extra]) == 0
    results = json.loads((only_folder(toy_args) / "results.json").read_text())
    assert results["test"]["accuracy"] > 0.3
