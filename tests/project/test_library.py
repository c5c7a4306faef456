"""The library: what `import debeton` costs and offers, and the examples of docs/library.md as they stand there."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of
from tests.toy import TOY_SPEC, toy_rows

import debeton
from debeton.commands import dispatch
from debeton.data.loader.loader import make_loader
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError, run_command

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = dict(re.findall(r"```python (\S+)\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL))
IMPORT = """
import os, sys, time
began, before, names = time.process_time(), dict(os.environ), set(sys.modules)
import debeton
seconds = time.process_time() - began
heavy = sorted({"torch", "numpy", "numba", "yaml", "fastargs"} & (set(sys.modules) - names))
changed = sorted(name for name in os.environ if os.environ[name] != before.get(name))
print(seconds, heavy, changed)
"""


def command(*words: object) -> int:
    """Run `debeton` in this process; its exit status."""
    return run_command(lambda: dispatch.main([str(word) for word in words]))


# --- the import and the names -----------------------------------------------------------------------------------


def test_importing_takes_milliseconds_loads_nothing_and_sets_one_variable(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    lines = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout.split(" ", 1)
        for _ in range(5)
    ]
    assert {rest.strip() for _, rest in lines} == {"[] ['OMP_WAIT_POLICY']"}
    assert statistics.median(float(seconds) for seconds, _ in lines) < 0.05


def test_every_public_name_exists_and_is_documented():
    documented = re.findall(r"^    ([\w, ]+): ", debeton.__doc__, re.MULTILINE)
    names = [name for line in documented for name in line.split(", ")]
    assert sorted(names) == sorted(set(debeton.__all__) - {"__version__"})
    assert set(debeton.__all__) <= set(dir(debeton))
    for name in names:
        assert getattr(debeton, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = debeton.fitt


# --- the examples of docs/library.md ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_fifteen_lines_at_most(name):
    assert len([line for line in EXAMPLES[name].splitlines() if line.strip()]) <= 15


def test_the_example_of_the_readme_runs_and_has_fifteen_lines_at_most(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torch.Size([64, 3, 32, 32])")
    assert len(lines) == 4


def test_the_readme_has_fewer_than_ninety_lines_of_a_hundred_columns():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 90
    assert max(map(len, lines)) <= 100


@pytest.fixture
def examples(tmp_path, monkeypatch, plugins_end_here) -> Path:
    """A folder, the current one, with the plugin files of docs/library.md."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["debeton"])
    for name, text in EXAMPLES.items():
        if name.endswith(".py"):
            (tmp_path / name).write_text(text)
    return tmp_path


def test_arrays_become_batches_and_the_engines_loop_trains_a_network(examples, capsys):
    for name in ("beton", "loop"):
        exec(compile(EXAMPLES[name], name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torch.Size([64, 3, 32, 32])")
    assert len(lines) == 5  # batches of 64, 64, 64 and 8 rows, and the evaluation
    assert re.match(r"(cat|dog), (indoors|outdoors) [01]\.\d+ tensor\(\[", lines[-1])


def test_predictions_made_elsewhere_are_measured_by_group(examples, capsys):
    exec(compile(EXAMPLES["metrics"], "metrics", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{4 / 6} dog, indoors {1 / 3}"
    assert lines[2] == "cat, outdoors: 0.5 of 2 rows"


@pytest.mark.slow
def test_methods_sources_augmentations_triggers_and_networks_come_from_files_outside(examples, capsys):
    assert (
        command("write-betons", "--plugins", "my_data.py", "--dataset", "stripes", "--rows", 60, "--out", "data") == 0
    )
    assert "data/stripes_train.beton: 60 rows" in capsys.readouterr().out
    files = ("my_methods.py", "my_augmentation.py", "my_trigger.py", "my_network.py")
    given = [word for file in files for word in ("--plugins", file)]
    assert command("list", "methods", *given) == 0
    assert re.search(r"^my_focal +rows that are learned weigh less$", capsys.readouterr().out, re.MULTILINE)
    settings = {
        "data.dataset": "stripes",
        "training.method": "my_focal",
        "training.augment": "darken:20",
        "model.arch": "linear",
        "training.epochs": 1,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "spurious.spurious_type": "bar",
        "spurious.spurious_perc": 0.5,
        "training.device": "cpu",
        "logging.tensorboard": "false",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    assert command("train", *given, *words) == 0
    folder = folder_of(Path("runs"))
    assert json.loads((folder / "results.json").read_text())["method"] == "my_focal"
    recorded = json.loads((folder / "plugins.json").read_text())
    assert [Path(plugin["file"]).name for plugin in recorded] == ["my_data.py", *files]


def test_a_finder_from_outside_leaves_its_table(examples, toy_args, capsys):
    assert command("groups", "--plugins", "my_finder.py", *toy_args, "--groups.from", "busy", "--out", "busy.csv") == 0
    assert re.search(r"^  left, aligned +256$", capsys.readouterr().out, re.MULTILINE)  # raw images are equally large
    assert len(Path("busy.csv").read_text().splitlines()) == 513


def test_a_method_from_outside_has_settings_of_its_own(examples, capsys):
    with pytest.raises(SystemExit) as stop:
        command("train", "--plugins", "my_settings.py", "--help", "smooth")
    assert stop.value.code == 0
    assert re.search(r"--smooth\.share\b.*share of the label", capsys.readouterr().out, re.DOTALL)
    config = debeton.load_config([], ["--training.method", "smooth", "--smooth.share", "0.3"])
    assert config["smooth.share"] == 0.3
    assert command("train", "--plugins", "my_settings.py", "--training.method", "smooth", "--smooth.share", "2") == 2
    assert "smooth.share is '2'; expected a number from 0 to 1" in capsys.readouterr().err


# --- fit, evaluate and measure_predictions ----------------------------------------------------------------------


@pytest.fixture
def view(tmp_path) -> View:
    """A view of 96 toy rows, 16 x 16."""
    path = tmp_path / "toy_train.beton"
    debeton.write_beton(path, toy_rows(96, 0.9, 0), TOY_SPEC, "train", debeton.WriteOptions(mode="raw"))
    return View.whole(debeton.open_beton(path))


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 3, 2))


def test_fit_takes_the_steps_of_a_plain_loop(view):
    network, by_hand = linear(), linear()
    history = debeton.fit(network, make_loader(view, 32, seed=3), epochs=2, lr=0.05, momentum=0.9, weight_decay=0.01)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    loader = make_loader(view, 32, seed=3)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(by_hand(batch.image), batch.label).backward()
            optimizer.step()
    torch.testing.assert_close(network[1].weight, by_hand[1].weight)
    assert len(history) == 2
    assert history[1]["loss"] < history[0]["loss"]


def test_evaluate_agrees_with_measure_predictions(view):
    evaluation = debeton.evaluate(linear(), make_loader(view, 40, tail="keep"))
    counts = (view.label[view.rows], view.attribute[view.rows])
    metrics = debeton.measure_predictions(evaluation.predicted, *counts, TOY_SPEC, loss=evaluation.loss)
    assert metrics.pop("loss") == pytest.approx(evaluation.metrics.pop("loss"))
    assert metrics == evaluation.metrics
    without = debeton.measure_predictions(evaluation.predicted.tolist(), *counts, TOY_SPEC)
    assert without == {**metrics, "loss": None}


def test_evaluate_keeps_probabilities_where_they_are_asked_for(view):
    found = debeton.evaluate(linear(), make_loader(view, 40, tail="keep"), probabilities=True)
    codes = (view.label[view.rows], view.attribute[view.rows])
    by_hand = debeton.measure_predictions(
        found.predicted, *codes, TOY_SPEC, loss=found.loss, probabilities=found.probabilities
    )
    assert found.metrics.pop("loss") == pytest.approx(by_hand.pop("loss"))
    assert found.metrics == by_hand
    logits = linear()(next(iter(make_loader(view, len(view), tail="keep"))).image).detach()
    order = next(iter(make_loader(view, len(view), tail="keep"))).row.argsort()
    np.testing.assert_allclose(found.probabilities, logits.double().softmax(1)[order], atol=1e-5)
    assert debeton.evaluate(linear(), make_loader(view, 40, tail="keep")).logits is None


@pytest.mark.parametrize("loader", [lambda v: make_loader(v, 40), lambda v: make_loader(v.resampled_by_group(), 32)])
def test_evaluate_refuses_a_loader_that_may_leave_rows_out_or_repeat_them(view, loader):
    with pytest.raises(UsageError, match="expected every row once"):
        debeton.evaluate(linear(), loader(view))


def test_measure_predictions_refuses_lengths_that_differ():
    with pytest.raises(DataError, match=r"\[2\], \[3\], \[3\]; expected \[N\] of each"):
        debeton.measure_predictions([0, 1], [0, 1, 1], np.zeros(3, int), TOY_SPEC)


def test_load_config_takes_presets_and_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = debeton.load_config(["dominoes"], ["--training.lr", "0.25"])
    assert (config["data.dataset"], config["training.lr"]) == ("dominoes", 0.25)
    with pytest.raises(UsageError, match="did you mean 'dominoes'"):
        debeton.load_config(["domino"])
