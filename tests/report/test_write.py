"""Reports over artificial run folders: numbers, labels, notes and figures."""

import base64
import csv
import itertools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from debeton.commands import report
from debeton.report.console import print_tables
from debeton.report.figures.axes import plot_axis
from debeton.report.figures.curves import curve_of, plot_objectives
from debeton.report.figures.maps import group_grid
from debeton.report.figures.plots import make_plots, plot_groups, train_distributions
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.report.tables import (
    DASH,
    findings_table,
    group_table,
    groups_table,
    notes,
    oracle_table,
    shortcut_table,
    summary_numbers,
    summary_table,
    to_latex,
    to_markdown,
)
from debeton.report.write import write_report
from debeton.system.errors import DataError, run_command

BIRDS = ("landbird, land", "landbird, water", "waterbird, land", "waterbird, water")
DOMINOES = tuple(f"{digit}, {thing}" for digit in range(10) for thing in "abcdefghij")
SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"


def make_metrics(group_accuracy, aligned, count=50):
    known = {name: value for name, value in group_accuracy.items() if value is not None}
    worst = min(known, key=known.get)
    mean = statistics.fmean(known.values())
    return {
        "accuracy": mean,
        "adjusted_accuracy": mean,
        "mean_group_accuracy": mean,
        "mean_class_accuracy": mean,
        "worst_group_accuracy": known[worst],
        "worst_group": worst,
        "loss": 0.3,
        "bias_aligned_accuracy": statistics.fmean(v for k, v in known.items() if k in aligned),
        "bias_conflicting_accuracy": statistics.fmean(v for k, v in known.items() if k not in aligned),
        "group_accuracy": group_accuracy,
        "group_count": {name: 0 if value is None else count for name, value in group_accuracy.items()},
    }


def make_run(
    root,
    method="erm",
    seed=0,
    *,
    strength=0.95,
    groups=BIRDS,
    null=(),
    finished=True,
    version=0,
    config=None,
    worst=0.6,
    dataset="waterbirds",
):
    """Write one run folder as training does; bias-conflicting groups have the accuracy worst + seed / 100."""
    folder = root / f"{dataset}-{method}-{strength}-s{seed}" / f"version_{version}"
    folder.mkdir(parents=True)
    aligned = {groups[i] for i in range(0, len(groups), round(len(groups) ** 0.5) + 1)}
    accuracy = {g: None if g in null else 0.97 if g in aligned else worst + seed / 100 for g in groups}
    metrics = make_metrics(accuracy, aligned)
    sections = {
        "training": {"method": method, "seed": seed, "lr": 0.01, "exp_name": folder.parent.name, "outdir": str(root)},
        "data": {"seed": seed},
        "logging": {"every": seed},
    }
    for key, value in (config or {}).items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))
    rows = [
        {"phase": "train", "epoch": e, "step": 10 * e, "split": split, "lr": 0.01, "metrics": metrics}
        for e in (1, 2, 3)
        for split in ("train", "val")
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        results = {
            "name": folder.parent.name,
            "dataset": dataset,
            "method": method,
            "seed": seed,
            "selection": "best val worst_group_accuracy",
            "selected_epoch": 2,
            "config_hash": "0",
            "dataset_options": {"spurious_strength": strength},
            "versions": {},
            "timing": {},
            "train_groups": {g: 950 if g in aligned else 7 for g in groups},
            "val": metrics,
            "test": metrics,
        }
        (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def birds(tmp_path):
    """Write the runs of three settings with three seeds each, and return their folder."""
    for method, strength, worst in (("erm", 0.95, 0.6), ("groupdro", 0.95, 0.85), ("erm", 0.99, 0.4)):
        for seed in range(3):
            make_run(tmp_path / "runs", method, seed, strength=strength, worst=worst)
    return tmp_path / "runs"


def settings_of(*paths):
    return group_settings(load_runs(paths))


def printed(settings, width=120):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(settings, console)
    return console.export_text()


def test_runs_that_differ_only_in_seeds_are_one_setting(birds):
    settings = settings_of(birds)
    assert [s.label for s in settings] == [
        "erm · spurious_strength 0.95",
        "groupdro · spurious_strength 0.95",
        "erm · spurious_strength 0.99",
    ]
    assert [[run.seed for run in s.runs] for s in settings] == [[0, 1, 2]] * 3


def test_mean_and_sample_deviation_agree_with_statistics(birds):
    expected = [100 * (0.6 + seed / 100) for seed in range(3)]
    setting = settings_of(birds)[0]
    stat = setting.stat("worst_group_accuracy", "test")
    assert (stat.mean, stat.std, stat.n) == pytest.approx((statistics.fmean(expected), statistics.stdev(expected), 3))
    table = summary_table([setting])
    assert table.loc[0, "worst-group"] == "61.0 ± 1.0"
    assert table.loc[0, "aligned"] == "97.0 ± 0.0"
    assert table.loc[0, ["n", "worst group", "selection"]].tolist() == [
        3,
        "landbird, water",
        "best val worst_group_accuracy",
    ]
    assert summary_numbers([setting]).loc[0, "bias_conflicting_accuracy_std"] == pytest.approx(1.0)


def test_one_seed_has_no_deviation(tmp_path):
    make_run(tmp_path)
    assert summary_table(settings_of(tmp_path)).loc[0, "worst-group"] == "60.0"


def test_a_group_without_rows_is_shown_as_a_dash_and_never_as_zero(tmp_path):
    for seed in range(2):
        make_run(tmp_path, seed=seed, null=("waterbird, land",))
    settings = settings_of(tmp_path)
    row = group_table(settings[0]).set_index("group").loc["waterbird, land"]
    assert row["accuracy"] == "–"
    assert row["test"] == "0"
    assert re.search(r"waterbird, land +7 +0 +–", printed(settings))
    page = write_report([tmp_path], tmp_path / "out").read_text()
    assert re.search(r'<td class="number" data-key="">–</td>', page)
    assert "0.0 ±" not in page.replace("0.0 ± 0.0", "")


def test_a_group_that_some_seeds_lack_says_how_many_have_it(tmp_path):
    make_run(tmp_path, seed=0, null=("waterbird, land",))
    make_run(tmp_path, seed=1)
    row = group_table(settings_of(tmp_path)[0]).set_index("group").loc["waterbird, land"]
    assert row["accuracy"] == "61.0 (n=1)"


def test_labels_have_only_the_keys_that_separate_the_settings(tmp_path):
    make_run(tmp_path / "a", config={"model.arch": "resnet18", "synthetic.mode": "none", "model.width": 1})
    make_run(tmp_path / "b", config={"model.arch": "resnet18", "synthetic.mode": "ffr", "model.width": 2})
    make_run(tmp_path / "c", "dfr", config={"model.arch": "resnet18", "synthetic.mode": "none", "model.width": 1})
    settings = settings_of(tmp_path)
    assert [s.label for s in settings] == ["erm · width 1", "erm · width 2", "dfr · width 1"]
    assert any("also differ in synthetic.mode" in note for note in notes(settings))
    assert [s.label for s in settings_of(tmp_path / "a")] == ["erm"]


def test_a_key_that_only_follows_another_is_not_in_labels(tmp_path):
    rates = {"none": -1, "usb": -1, "ffr": 0.02}
    for mode, lr in rates.items():
        make_run(tmp_path / mode, config={"synthetic.mode": mode, "ffr.lr": lr})
    assert [s.label for s in settings_of(tmp_path)] == ["erm · mode ffr", "erm · mode none", "erm · mode usb"]


def test_equal_key_names_of_two_sections_are_written_out(tmp_path):
    make_run(tmp_path / "a", config={"training.lr": 0.1, "amplifier.lr": 0.1})
    make_run(tmp_path / "b", config={"training.lr": 0.1, "amplifier.lr": 0.2})
    make_run(tmp_path / "c", config={"training.lr": 0.3, "amplifier.lr": 0.2})
    labels = [s.label for s in settings_of(tmp_path)]
    assert labels[0] == "erm · amplifier.lr 0.1 · training.lr 0.1"
    assert len(set(labels)) == 3


def test_the_same_seed_twice_counts_once_and_is_noted(tmp_path):
    make_run(tmp_path, seed=0, worst=0.2)
    make_run(tmp_path, seed=0, version=10, worst=0.7)
    make_run(tmp_path, seed=0, version=9, worst=0.4)
    settings = settings_of(tmp_path)
    assert summary_table(settings).loc[0, ["n", "worst-group"]].tolist() == [1, "70.0"]
    assert any("Not counted" in note and "version_9" in note for note in notes(settings))
    (note,) = [note for note in notes(settings) if "Not counted" in note]
    assert "s0/version_0 (counted: waterbirds-erm-0.95-s0/version_10)" in note


BY_HAND = [
    {"training.device": f"cuda:{k}", "training.num_workers": 2**k, "training.log_every": 10 + k,
     "training.eval_batch_size": 64 + k, "loader.residency": ("disk", "ram", "device")[k], "loader.later_key": k,
     "dist.backend": ("auto", "nccl", "gloo")[k], "logging.wandb": f"project{k}",
     "training.disable_logging": k == 1, "training.data_root": f"/machine{k}/betons",
     "data.train_path": (None, "waterbirds_train.beton", "/machine2/betons/waterbirds_train.beton")[k],
     "data.dataset": "waterbirds"}
    for k in range(3)
]  # fmt: skip


def test_seeds_run_by_hand_on_three_devices_are_one_setting_of_three(tmp_path):
    for seed, config in enumerate(BY_HAND):
        make_run(tmp_path / f"machine{seed}", seed=seed, config=config)
    (setting,) = settings_of(tmp_path)
    assert (len(setting.runs), setting.repeats, setting.label) == (3, (), "erm")
    assert setting.stat("worst_group_accuracy", "test").std == pytest.approx(1.0)


def test_runs_of_one_configuration_and_seed_on_two_devices_count_once(tmp_path):
    for k, config in enumerate(BY_HAND[:2]):
        make_run(tmp_path / f"machine{k}", seed=0, worst=0.2 + 0.2 * k, config=config)
    (setting,) = settings_of(tmp_path)
    assert (len(setting.runs), len(setting.repeats)) == (1, 1)
    (note,) = [note for note in notes([setting]) if "Not counted" in note]
    assert re.search(r"machine0/\S+version_0 \(counted: \S+machine1/\S+version_0\)", note)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"training.lr": 0.1}, {"training.lr": 0.2}),
        ({"dist.sync_bn": False}, {"dist.sync_bn": True}),
        ({"data.train_path": "a/x.beton"}, {"data.train_path": "b/x.beton"}),
        ({"data.train_path": "x.beton"}, {"data.train_path": "/elsewhere/x.beton"}),
        ({"spurious.seed": 10}, {"spurious.seed": 11}),
        ({"future.key": 1}, {"future.key": 2}),
    ],
)
def test_settings_that_may_change_results_keep_runs_apart(tmp_path, one, other):
    make_run(tmp_path / "one", config=one)
    make_run(tmp_path / "other", config=other)
    assert len(settings_of(tmp_path)) == 2


def test_a_setting_that_an_older_run_does_not_have_is_its_default(tmp_path):
    make_run(tmp_path / "old", seed=0)
    make_run(tmp_path / "new", seed=1, config={"training.drop_last": False, "training.lr_milestones": []})
    make_run(tmp_path / "other", seed=2, config={"training.drop_last": True})
    assert [len(s.runs) for s in settings_of(tmp_path)] == [2, 1]


def test_betons_of_two_seeds_are_two_draws_and_no_repeat(tmp_path):
    for seed in (0, 1):
        folder = make_run(tmp_path / str(seed), seed=0)
        results = json.loads((folder / "results.json").read_text())
        results["dataset_options"]["seed"] = seed
        (folder / "results.json").write_text(json.dumps(results))
    (setting,) = settings_of(tmp_path)
    assert (len(setting.runs), setting.repeats) == (2, ())


def test_unfinished_runs_are_listed_and_not_averaged(birds):
    make_run(birds, "erm", 3, finished=False, worst=0.0)
    runs = load_runs([birds])
    assert [run.is_finished for run in runs].count(False) == 1
    assert [len(s.runs) for s in group_settings(runs)] == [3, 3, 3]
    page = write_report([birds], birds / "report").read_text()
    assert "1 run not finished" in page
    assert "<td>unfinished</td>" in page


def test_a_report_without_a_finished_run_names_the_unfinished(tmp_path):
    folder = make_run(tmp_path, finished=False)
    with pytest.raises(DataError, match=rf"no run has finished.*{re.escape(str(folder))} \(epoch 3\)"):
        write_report([tmp_path], tmp_path / "out")
    assert "No finished run" in printed([])


def test_a_run_killed_while_writing_a_line_is_read(tmp_path):
    folder = make_run(tmp_path, finished=False)
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"phase": "train", "epo')
    assert load_runs([folder])[0].last_epoch == 3


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("results.json", '{"dataset": "x", ', "results.json is not JSON"),
        ("results.json", "[]", "results.json holds list"),
        ("results.json", '{"dataset": "x", "seed": 0}', "results.json lacks 'method'"),
        (
            "results.json",
            '{"dataset": "x", "seed": 0, "method": "erm", "test": {"accuracy": 93.1}}',
            r"test.accuracy is 93.1; expected a fraction",
        ),
        (
            "results.json",
            '{"dataset": "x", "seed": 0, "method": "erm", "test": {"group_accuracy": {"a": "high"}}}',
            r"group_accuracy\.a is 'high'",
        ),
        (
            "results.json",
            '{"dataset": "x", "seed": 0, "method": "erm", "test": 3}',
            "test is 3; expected a table of keys and values or null",
        ),
        ("results.jsonl", "{}\n", "results.jsonl, line 1 lacks 'epoch'"),
        ("results.jsonl", "\nhello\n", "results.jsonl, line 2 is not JSON"),
        ("config.yaml", "a: [", "config.yaml is not YAML"),
        ("config.yaml", "3", "config.yaml holds int"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, file, text, match):
    (make_run(tmp_path) / file).write_text(text)
    with pytest.raises(DataError, match=match):
        load_runs([tmp_path])


def test_a_loss_that_diverged_does_not_stop_the_report(tmp_path):
    folder = make_run(tmp_path)
    for file in (folder / "results.json", folder / "results.jsonl"):
        file.write_text(file.read_text().replace('"loss": 0.3', '"loss": NaN'))
    assert write_report([tmp_path], tmp_path / "out").is_file()


def test_an_error_about_missing_runs_names_the_expected_files(tmp_path):
    with pytest.raises(DataError, match=r"no runs at or below .*results\.json.*config\.yaml"):
        load_runs([tmp_path])
    with pytest.raises(DataError, match=r"no such run or folder: .*nowhere"):
        load_runs([tmp_path / "nowhere"])
    folder = make_run(tmp_path)
    (folder / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"no config\.yaml"):
        load_runs([tmp_path])


def test_overlapping_paths_give_each_run_once_in_natural_order(tmp_path):
    folders = [make_run(tmp_path, version=k) for k in (10, 2)]
    found = load_runs([tmp_path, folders[0], folders[0] / "results.json"])
    assert [run.folder.name for run in found] == ["version_2", "version_10"]


def test_many_groups_print_the_worst_and_the_best(tmp_path):
    for seed in range(2):
        make_run(tmp_path, seed=seed, groups=DOMINOES, null=("3, b",), dataset="dominoes")
    text = printed(settings_of(tmp_path), width=80)
    assert "the worst 5 and best 3 of 100 groups; 1 without a test row" in text
    assert len(re.findall(r"^\d, \w ", text, re.MULTILINE)) == 8
    assert re.search(r"all, conflicting +60\.5 ± 0\.7", text)
    page = write_report([tmp_path], tmp_path / "out").read_text()
    assert "<summary>all 100 groups</summary>" in page


def test_group_grid_reads_product_names_and_refuses_plain_ones():
    assert group_grid(DOMINOES) == (list("0123456789"), list("abcdefghij"))
    assert group_grid(["cat", "dog"]) is None
    assert group_grid(["a, b, x", "a, b, y"]) == (["a, b"], ["x", "y"])


def test_training_distributions_are_named_by_what_their_settings_share(birds):
    settings = settings_of(birds)
    assert train_distributions(settings)[0][0] == ""
    for run in settings[2].runs:
        run.results["train_groups"]["landbird, water"] = 1
    assert [label for label, _ in train_distributions(settings)] == [
        "spurious_strength 0.95",
        "erm · spurious_strength 0.99",
    ]


@pytest.mark.parametrize("groups", [BIRDS, DOMINOES, tuple(f"class {k}" for k in range(40))])
def test_every_figure_is_drawn_for_any_kind_of_groups(tmp_path, groups):
    for strength in (0.9, 0.95, 0.99):
        make_run(tmp_path, groups=groups, strength=strength, null=groups[1:2])
    plots = make_plots(settings_of(tmp_path), "test")
    assert [p.name for p in plots] == ["headline", "axis", "group_accuracy", "train_groups", "curves", "group_curves"]
    assert all(p.png.startswith(b"\x89PNG") for p in plots)


def test_accuracy_by_group_is_drawn_for_the_groups_that_a_split_is_measured_in(tmp_path):
    folder = make_run(tmp_path, null=BIRDS[1:2])
    results = json.loads((folder / "results.json").read_text())
    results["train_groups"]["landbird, attribute unknown"] = 12
    (folder / "results.json").write_text(json.dumps(results))
    figure = plot_groups(settings_of(tmp_path), "test")
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(ticks) == len(BIRDS)
    assert not any("unknown" in tick for tick in ticks)
    assert [text.get_text() for text in figure.axes[0].texts].count("–") == 1  # the group without a test row


@pytest.mark.parametrize(("modes", "panels"), [("abcde", 4), ("ab", 3)])
def test_many_lines_of_several_methods_get_panels_by_method(tmp_path, modes, panels):
    for method, mode, strength in itertools.product(("erm", "resample"), modes, (0.9, 0.95, 0.99)):
        make_run(tmp_path / mode, method, strength=strength, config={"synthetic.mode": mode})
    figure = plot_axis(settings_of(tmp_path), "test")
    assert len(figure.axes) == panels
    lines = [text.get_text() for text in figure.legends[0].get_texts()]
    if panels == 4:
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["erm", "resample", "", ""]
        assert lines == [f"mode {mode}" for mode in modes]
        assert figure.axes[2].get_ylabel() == "mean-group, test (%)"
    else:
        assert lines == [f"{method} · mode {mode}" for method in ("erm", "resample") for mode in modes]


def test_each_data_set_has_its_own_figures_of_groups(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, groups=DOMINOES, dataset="dominoes")
    settings = settings_of(tmp_path)
    assert [s.label for s in settings] == ["erm · dataset dominoes", "erm · dataset waterbirds"]
    assert {p.name for p in make_plots(settings, "test")} >= {"group_accuracy_1", "group_accuracy_2"}


def test_a_set_without_pairing_or_test_split_is_reported(tmp_path):
    file = make_run(tmp_path) / "results.json"
    results = json.loads(file.read_text())
    results["test"] = None
    results["val"] |= {"bias_aligned_accuracy": None, "bias_conflicting_accuracy": None}
    file.write_text(json.dumps(results))
    page = write_report([tmp_path], tmp_path / "out").read_text()
    assert "Accuracy on the val split" in page
    assert summary_table(settings_of(tmp_path), "val").loc[0, ["aligned", "worst-group"]].tolist() == ["–", "60.0"]


def test_the_page_is_self_contained_and_links_relatively(birds):
    out = birds / "report"
    page = write_report([birds], out, title="Birds <& friends>").read_text()
    assert not re.search(r"https?:|<link|@import|url\(", page)
    images = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert images == [(out / f"{name}.png").read_bytes() for name in re.findall(r'<img id="(\w+)"', page)]
    assert len(images) == 5
    assert "<h1>Birds &lt;&amp; friends&gt;</h1>" in page
    assert 'href="../waterbirds-erm-0.95-s0/version_0/config.yaml"' in page
    assert "n = 3 seeds each" in page
    assert "Epoch selected by: best val worst_group_accuracy." in page
    assert "percent" in page
    assert not list(out.glob("*.partial"))


def test_writing_again_replaces_the_report(birds):
    first = write_report([birds], birds / "report").read_bytes()
    assert write_report([birds], birds / "report").read_bytes() == first


def test_the_csv_holds_numbers(birds):
    write_report([birds], birds / "report")
    with (birds / "report" / "summary.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["worst_group_accuracy_mean"]) == pytest.approx(61.0)
    assert (row["n"], row["seeds"], row["split"]) == ("3", "0 1 2", "test")


def test_latex_escapes_names_and_markdown_its_bars(birds):
    table = summary_table(settings_of(birds))
    table.loc[0, "worst group"] = "50%_a & b|c"
    latex = to_latex(table)
    assert r"50\%\_a \& b|c" in latex
    assert r"61.0 $\pm$ 1.0" in latex
    assert r"erm $\cdot$ spurious\_strength 0.95" in latex
    assert r"50%_a & b\|c" in to_markdown(table)
    assert latex.isascii()


def test_no_name_ends_a_line_of_markdown_or_a_comment_of_latex(birds):
    table = summary_table(settings_of(birds))
    whole = to_markdown(table).count("\n")
    table.loc[0, "worst group"] = "a\r\n\u2028<script>x</script> b<5"
    assert r"a   \<script>x\</script> b<5" in to_markdown(table)
    assert len(to_markdown(table).splitlines()) == whole
    lines = to_latex(table, "of a\n\\input{/etc/passwd}\r\\input{x}").split("\n")
    assert lines[0] == r"% of a \input{/etc/passwd} \input{x}"
    assert not any("input" in line for line in lines[1:])


def test_console_text_is_not_read_as_markup(tmp_path):
    make_run(tmp_path, groups=("[red]a[/red], x", "a, y", "b, x", "b, y"))
    assert "[red]a[/red], x" in printed(settings_of(tmp_path))


def test_the_table_fits_a_terminal_of_80_columns(birds):
    lines = printed(settings_of(birds), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("61.0±1.0" in line for line in lines)


def command(*words) -> int:
    return run_command(lambda: report.main([str(word) for word in words]))


@pytest.mark.slow
def test_the_command_writes_a_report_or_gives_an_error_of_one_line(birds, tmp_path, capsys):
    done = subprocess.run([sys.executable, SCRIPT, birds, "--out", tmp_path / "page"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "index.html").is_file()
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / "empty") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no runs at or below")
    assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        command(birds, "--ou", tmp_path / "x")


# --- states of objectives and notes of methods --------------------------------------------------------------------


def add_notes(folder: Path, **notes) -> None:
    """Add GroupDRO's q to the curve of a run, and notes to its results."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        if row["split"] == "train":
            row["objective"] = {"q": {name: row["epoch"] / 10 + i for i, name in enumerate(BIRDS)}, "steps": 7}
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "notes": notes}))


def test_states_of_objectives_are_drawn_by_epoch(tmp_path):
    add_notes(make_run(tmp_path, "groupdro"))
    make_run(tmp_path, "erm")
    settings = group_settings(load_runs([tmp_path]))
    assert [p.name for p in make_plots(settings, "test")][-1] == "objectives"
    (setting,) = [s for s in settings if s.method == "groupdro"]
    q = curve_of(setting, "train", lambda row: row["objective"]["q"][BIRDS[2]])
    assert q == {1: [2.1], 2: [2.2], 3: [2.3]}


def test_a_quantity_is_drawn_only_for_the_phases_that_store_it_by_name(tmp_path):
    folder = make_run(tmp_path, "ddb1")
    add_notes(folder)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["split"] == "train")
    first["objective"] = {"q": 0.25}  # as a diffusion model stores its loss
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = plot_objectives(group_settings(load_runs([tmp_path])))
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [2] * len(BIRDS)


def test_notes_of_methods_are_averaged_over_seeds_and_shown_on_the_page(tmp_path):
    for seed, precision in enumerate((0.5, 0.75)):
        add_notes(make_run(tmp_path, "jtt", seed), jtt={"precision": precision, "of": "text", "by_group": {"a": 1}})
    table = findings_table(group_settings(load_runs([tmp_path])))
    assert table["what"].tolist() == ["jtt.precision", "jtt.by_group.a"]
    assert table["mean"].tolist() == ["0.625 ± 0.177", "1 ± 0"]
    page = write_report([tmp_path], tmp_path / "out").read_text()
    assert "Findings of the methods" in page
    assert "0.625 ± 0.177" in page


def test_the_cost_of_selection_is_a_table_of_the_runs_with_an_oracle(tmp_path):
    for seed, best in enumerate((0.80, 0.83)):
        folder = make_run(tmp_path, "erm", seed, worst=0.6)
        results = json.loads((folder / "results.json").read_text())
        results["oracle"] = {"rule": "worst_group", "epoch": 3, "test": {"worst_group_accuracy": best}}
        (folder / "results.json").write_text(json.dumps(results))
    make_run(tmp_path, "groupdro")
    table = oracle_table(group_settings(load_runs([tmp_path])))
    selected = "selected by best val worst_group_accuracy"
    assert table.columns.tolist()[2:] == [selected, "oracle (test split)", "difference"]
    assert table.iloc[0].tolist()[1:] == [2, "60.5 ± 0.7", "81.5 ± 2.1", "21.0 ± 1.4"]
    assert len(table) == 1
    assert "Cost of selection" in write_report([tmp_path], tmp_path / "out").read_text()


def test_groups_of_finders_and_cost_are_a_table_where_a_run_has_a_finder(tmp_path):
    make_run(tmp_path, "resample")
    assert groups_table(group_settings(load_runs([tmp_path]))).empty
    for seed, precision in enumerate((0.5, 0.75)):
        folder = make_run(tmp_path, "groupdro", seed)
        add_notes(folder, groups={"from": "jtt", "precision": precision, "recall": None})
        results = json.loads((folder / "results.json").read_text())
        rows = sum(results["train_groups"].values())
        results["timing"]["images"] = {"identify": rows, "train": 3 * rows}
        (folder / "results.json").write_text(json.dumps(results))
    table = groups_table(group_settings(load_runs([tmp_path]))).set_index("setting")
    assert table.loc["groupdro"].tolist() == ["jtt", "62.5 ± 17.7", DASH, "4.0", "1.0"]
    assert table.loc["resample"].tolist() == ["attribute", DASH, DASH, DASH, DASH]
    assert "Groups that finders made" in write_report([tmp_path], tmp_path / "out").read_text()


def test_the_cost_of_each_shortcut_is_a_table_with_both_signs(tmp_path):
    for seed, gap in enumerate((0.10, 0.14)):
        folder = make_run(tmp_path, "erm", seed)
        results = json.loads((folder / "results.json").read_text())
        cell = {"accuracy": 0.9 - gap, "gap": gap, "drop": -gap}
        results["test"]["shortcut_gaps"] = {"id_accuracy": 0.9, "conflicting": {"background": cell}}
        (folder / "results.json").write_text(json.dumps(results))
    make_run(tmp_path, "groupdro")
    table = shortcut_table(group_settings(load_runs([tmp_path])))
    assert table.columns.tolist() == ["setting", "ID accuracy", "background gap", "background drop"]
    assert table.iloc[0].tolist()[1:] == ["90.0 ± 0.0", "12.0 ± 2.8", "-12.0 ± 2.8"]
    assert len(table) == 1
    assert "Cost of each shortcut" in write_report([tmp_path], tmp_path / "out").read_text()
