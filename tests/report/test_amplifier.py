"""report.py ddb: bias-conflicting rows that methods find, beside the accuracies that they reach."""

from __future__ import annotations

import json

import pytest
import yaml

from debeton.commands import report
from debeton.report.amplifier import AMPLIFIER, PANELS, amplifier_table, plot_amplifier
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.system.errors import DataError, run_command

ROWS = {"recall": 0.9, "precision": 0.5, "auroc": 0.75}


def make_run(root, method, seed, conflicting, notes):
    folder = root / f"{method}_seed{seed}" / "version_0"
    folder.mkdir(parents=True)
    test = {
        "accuracy": 0.8,
        "bias_aligned_accuracy": 0.9,
        "bias_conflicting_accuracy": conflicting,
        "worst_group_accuracy": conflicting - 0.1,
    }
    results = {
        "dataset": "toy",
        "method": method,
        "seed": seed,
        "selection": "last",
        "dataset_options": {},
        "source": None,
        "test": test,
        "val": None,
        "notes": notes,
    }
    images = f"/runs/ddb/cdpm_weight=0.1_seed{seed}/version_0/synthetic"  # of the seed's own run, and yet one setting
    config = {"training": {"method": method, "seed": seed}, "data": {"seed": 0}, "ddb": {"images": images}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "results.jsonl").write_text("")


@pytest.fixture
def runs(tmp_path):
    for seed, share in enumerate((0.94, 0.98)):
        ddb = {"images": {"aligned_share": share, "copies": 0.01}, "training_rows": {**ROWS, "recall": share}}
        make_run(tmp_path, "ddb1", seed, 0.7 + 0.02 * seed, {"ddb": ddb})
        make_run(tmp_path, "jtt", seed, 0.6, {"jtt": {"recall": 0.5, "precision": None, "errors": 12}})
        make_run(tmp_path, "erm", seed, 0.3, {})
    return tmp_path


def test_each_setting_has_one_line_with_the_rows_found_and_the_accuracies(runs):
    table = amplifier_table(group_settings(load_runs([runs]))).set_index("setting")
    assert table.loc["ddb1"].tolist() == [
        2,
        "96.0 ± 2.8",
        "1.0 ± 0.0",
        "96.0 ± 2.8",
        "50.0 ± 0.0",
        "75.0 ± 0.0",
        "90.0 ± 0.0",
        "71.0 ± 1.4",
        "61.0 ± 1.4",
        "80.0 ± 0.0",
    ]
    assert table.loc["jtt", ["images aligned", "recall", "precision", "conflicting"]].tolist() == [
        "–",
        "50.0 ± 0.0",
        "–",
        "60.0 ± 0.0",
    ]
    assert table.loc["erm", ["recall", "conflicting"]].tolist() == ["–", "30.0 ± 0.0"]


def test_empty_columns_and_panels_are_left_out(tmp_path):
    make_run(tmp_path, "jtt", 0, 0.6, {"jtt": {"recall": 0.5, "precision": 0.25}})
    settings = group_settings(load_runs([tmp_path]))
    assert amplifier_table(settings).columns.tolist() == [
        "setting",
        "n",
        "recall",
        "precision",
        "aligned",
        "conflicting",
        "worst group",
        "average",
    ]
    assert [axes.get_xlabel() for axes in plot_amplifier(settings).axes] == list(PANELS)[1:]


def test_the_figure_has_a_line_for_each_setting_and_every_mean_at_its_place(runs):
    settings = group_settings(load_runs([runs]))
    axes = plot_amplifier(settings).axes
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == [setting.label for setting in settings]
    drawn = axes[2].containers[0]
    assert list(drawn[0].get_xdata()) == pytest.approx(
        [{"ddb1": 71.0, "jtt": 60.0, "erm": 30.0}[setting.method] for setting in settings]
    )


def test_the_command_writes_table_and_figure(runs):
    assert run_command(lambda: report.main(["ddb", str(runs), "--out", str(runs / "out")])) == 0
    assert sorted(path.name for path in (runs / "out").iterdir()) == ["ddb.csv", "ddb.md", "ddb.png", "ddb.tex"]
    assert "| ddb1 | 2 | 96.0 ± 2.8 |" in (runs / "out" / "ddb.md").read_text()


def test_runs_that_differ_in_sections_of_other_methods_are_one_setting(tmp_path):
    for method, weight, sections in (("ddb1", 1, ["ddb"]), ("ddb1", 3, ["ddb"]), ("erm", 1, []), ("erm", 3, [])):
        make_run(tmp_path / str(weight), method, weight, 0.6, {})
        folder = tmp_path / str(weight) / f"{method}_seed{weight}" / "version_0"
        for name, changes in (("results.json", {"method_sections": sections}), ("config.yaml", {"ddb": {"w": weight}})):
            content = yaml.safe_load((folder / name).read_text()) | changes
            (folder / name).write_text(json.dumps(content))
    assert [(s.label, len(s.runs)) for s in group_settings(load_runs([tmp_path]))] == [
        ("erm", 2),
        ("ddb1 · w 1", 1),
        ("ddb1 · w 3", 1),
    ]


def test_settings_of_the_method_that_a_section_names_tell_runs_apart(tmp_path):
    """The section 'head' of crt names its base, whose settings count; those of a method that nobody names do not."""
    for base, size in (("groupdro", 1), ("groupdro", 2), ("erm", 1), ("erm", 2)):
        make_run(tmp_path / base / str(size), "crt", size, 0.6, {})
        folder = tmp_path / base / str(size) / f"crt_seed{size}" / "version_0"
        settings = {"head": {"base": base}, "groupdro": {"step_size": size}}
        for name, changes in (("results.json", {"method_sections": ["crt", "head"]}), ("config.yaml", settings)):
            content = yaml.safe_load((folder / name).read_text()) | changes
            (folder / name).write_text(json.dumps(content))
    make_run(tmp_path / "other", "groupdro", 3, 0.6, {})
    counts = sorted(len(s.runs) for s in group_settings(load_runs([tmp_path])) if s.label.startswith("crt"))
    assert counts == [1, 1, 2]


def test_runs_without_a_search_for_conflicting_rows_give_a_clear_error(tmp_path):
    make_run(tmp_path, "erm", 0, 0.3, {})
    with pytest.raises(DataError, match="no finished run has looked for bias-conflicting rows"):
        AMPLIFIER.write([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
