"""The rule that selects an epoch: the rows that it needs, what selects without them, and what tables say."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.running import folder_of, lines_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.report.records import load_runs
from debeton.report.runs import group_settings
from debeton.report.tables import notes, oracle_table, summary_numbers, summary_table
from debeton.report.write import write_report
from debeton.system.errors import DataError, UsageError
from debeton.train.metrics import SELECTION_RULES, selection_score
from debeton.train.selection import check_rows, selection_on, without_rows_anywhere

THREE = DatasetSpec("three", ("a", "b", "c"), ("x", "y"), aligned=((0,), (1,), (0,)))


def view_of(folder: Path, cells: dict[tuple[int, int], int], spec: DatasetSpec = TOY_SPEC, split: str = "val") -> View:
    """Return a view with so many rows of each (label, attribute), on images of one colour."""
    label, attribute = np.repeat(np.array(list(cells), np.int64), list(cells.values()), axis=0).T
    names = [f"{split}/{i}" for i in range(len(label))]
    rows = Rows(label, attribute, lambda i: np.full((8, 8, 3), i % 256, np.uint8), names)
    write_beton(folder / f"toy_{split}.beton", rows, spec, split, WriteOptions(mode="raw"))
    return View.whole(open_beton(folder / f"toy_{split}.beton"))


ALIGNED = {(0, 0): 2, (1, 1): 3}
NO_CLASS_B = {(0, 0): 2, (0, 1): 1, (2, 0): 1, (2, 1): 1}


@pytest.mark.parametrize(
    ("rule", "cells", "spec", "selects", "text", "without_rows"),
    [
        ("worst_group", ALIGNED, TOY_SPEC, "worst_group", "worst_group (over 2 of 4 groups)",
         ("left, light", "right, dark")),
        ("mean_group", ALIGNED, TOY_SPEC, "mean_group", "mean_group (over 2 of 4 groups)",
         ("left, light", "right, dark")),
        ("minority", ALIGNED, TOY_SPEC, "mean_group", "mean_group (minority has no row in val)",
         ("left, light", "right, dark")),
        ("minority", {**ALIGNED, (0, 1): 1}, TOY_SPEC, "minority", "minority (over 1 of 2 conflicting groups)",
         ("right, dark",)),
        ("worst_class", NO_CLASS_B, THREE, "worst_class", "worst_class (over 2 of 3 classes)", ("b",)),
        ("mean_class", NO_CLASS_B, THREE, "mean_class", "mean_class (over 2 of 3 classes)", ("b",)),
        ("mean_group", NO_CLASS_B, THREE, "mean_group", "mean_group (over 4 of 6 groups)", ("b, x", "b, y")),
        ("average", NO_CLASS_B, THREE, "average", "average", ()),
        ("loss", NO_CLASS_B, THREE, "loss", "loss", ()),
    ],
)  # fmt: skip
def test_a_rule_is_named_with_what_it_does_not_see(tmp_path, rule, cells, spec, selects, text, without_rows):
    selection = selection_on(view_of(tmp_path, cells, spec), rule)
    assert (selection.rule, selection.text, selection.without_rows) == (selects, text, without_rows)


def test_the_refusal_names_the_groups_and_the_rules_that_have_their_rows(tmp_path):
    view = view_of(tmp_path, {**ALIGNED, (0, 1): 1})
    with pytest.raises(UsageError) as error:
        check_rows(view, "worst_group", "training.selection", empty_groups="error")
    text = str(error.value)
    assert "training.selection is 'worst_group', but 1 of 4 groups have no row in view 'val' of" in text
    assert "(right, dark); rules with all their rows: worst_class, mean_class, average, loss;" in text
    assert check_rows(view, "worst_group", "", empty_groups="ignore").rule == "worst_group"
    assert check_rows(view, "minority", "", empty_groups="error").rule == "minority"  # over the rows that there are


@pytest.mark.parametrize("aligned", [(), ((0, 1), (0, 1))])
def test_a_set_without_conflicting_groups_has_no_minority(tmp_path, aligned):
    view = view_of(tmp_path, {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 1}, replace(TOY_SPEC, aligned=aligned))
    with pytest.raises(UsageError, match="no group of its data set is bias-conflicting"):
        check_rows(view, "minority", "training.selection", empty_groups="error")


def test_rows_outside_groups_serve_no_group_rule(tmp_path):
    view = view_of(tmp_path, {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 1})
    unknown = replace(view, group=np.where(view.group == 2, -1, view.group))
    assert selection_on(unknown, "worst_group").without_rows == ("right, dark",)
    nothing_known = replace(view, group=np.full(4, -1))
    assert selection_on(nothing_known, "worst_group").rule == selection_on(nothing_known, "minority").rule == "average"
    assert selection_on(nothing_known, "worst_class").text == "worst_class"


def test_groups_that_do_not_exist_in_the_set_need_no_row(tmp_path):
    spec = replace(TOY_SPEC, missing=(1,))
    assert selection_on(view_of(tmp_path, {**ALIGNED, (1, 0): 1}, spec), "worst_group").text == "worst_group"


def test_a_half_needs_two_rows_of_each_group(tmp_path):
    view = view_of(tmp_path, {(0, 0): 2, (0, 1): 1, (1, 0): 2, (1, 1): 2})
    assert selection_on(view, "worst_group").without_rows == ()
    with pytest.raises(UsageError, match=r"dfr\.criterion .* 1 of 4 groups have fewer than 2 rows"):
        check_rows(view, "worst_group", "dfr.criterion", empty_groups="error", at_least=2)


def test_the_score_of_an_undefined_metric_is_an_error_and_not_the_tie_break():
    metrics = {rule.metric: 0.5 for rule in SELECTION_RULES.values()}
    with pytest.raises(DataError, match="'minority' is undefined: it is over conflicting groups"):
        selection_score({**metrics, "bias_conflicting_accuracy": None}, "minority")
    assert selection_score({**metrics, "loss": math.nan}, "loss") == (-math.inf, 0.5)
    assert selection_score({**metrics, "loss": 9.0}, "loss") > selection_score({**metrics, "loss": math.nan}, "loss")


@pytest.fixture
def biased_val(toy_args, toy_betons, tmp_path) -> list[str]:
    """Return the arguments of a run whose validation split is bias-aligned only."""
    for split in ("train", "test"):
        for file in toy_betons.glob(f"toy_{split}.beton*"):
            shutil.copy(file, tmp_path / file.name)
    write_beton(tmp_path / "toy_val.beton", toy_rows(32, 1.0, 5), TOY_SPEC, "val", WriteOptions(mode="raw"))
    return [*toy_args, "--training.data_root", str(tmp_path), "--data.mini_dataset", "0.3"]


@pytest.mark.parametrize("rule", ["minority", "worst_group", "mean_group"])
def test_a_rule_without_rows_is_refused_before_training_and_in_a_dry_run(biased_val, tmp_path, capsys, rule):
    for words in ([], ["--dry-run"]):
        assert run([*biased_val, "--training.selection", rule, *words]) == 2
        error = capsys.readouterr().err
        assert f"training.selection is '{rule}', but 2 of {2 if rule == 'minority' else 4}" in error
        assert "left, light; right, dark" in error
    assert not list(tmp_path.rglob("results.jsonl"))


def test_where_the_user_insists_results_and_every_table_say_what_selected(biased_val, tmp_path, capsys):
    args = [*biased_val, "--training.selection", "minority", "--training.empty_groups", "ignore"]
    assert run([*args, "--dry-run", "--all"]) == 0
    text = "mean_group (minority has no row in val)"
    assert f"epoch selected by {text}" in capsys.readouterr().out
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text())
    assert results["selection"] == "mean_group"
    assert results["selected_by"]["asked"] == "minority"
    assert results["selected_by"]["without_rows"] == ["left, light", "right, dark"]
    val = {line["epoch"]: line["metrics"]["mean_group_accuracy"] for line in lines_of(folder) if line["split"] == "val"}
    assert val[results["selected_epoch"]] == max(val.values())
    settings = group_settings(load_runs([tmp_path / "runs"]))
    assert summary_table(settings).loc[0, "selection"] == text
    assert summary_numbers(settings).loc[0, "selection"] == text
    page = write_report([tmp_path / "runs"], tmp_path / "page").read_text()
    assert text in page
    assert text in capsys.readouterr().out
    for name, words in (("summary.md", text), ("summary.tex", r"mean\_group (minority has no row in val)")):
        assert words in (tmp_path / "page" / name).read_text()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["selection"] == settings[0].identity["selection"] == "minority"


def test_dfr_refuses_a_criterion_without_rows_before_its_base_is_trained(biased_val, tmp_path, capsys):
    args = [*biased_val, "--training.method", "dfr", "--training.selection", "last", "--dfr.data", "train"]
    args += ["--dfr.tune", "val", "--dfr.criterion", "minority", "--dfr.c_grid", "1,0.1", "--dfr.refits", "1"]
    assert run(args) == 2
    assert "dfr.criterion is 'minority', but 2 of 2 conflicting groups have no row in view 'val'" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.rglob("phase_train.pt"))
    done = tmp_path / "done"
    assert run([*args, "--training.empty_groups", "ignore", "--training.outdir", str(done)]) == 0
    results = json.loads((folder_of(done) / "results.json").read_text())
    assert results["notes"]["dfr"]["chosen_by"] == "mean_group (minority has no row in val)"
    assert results["remarks"] == ["dfr chose C by mean_group (minority has no row in val)"]
    assert results["val_uses"] == ["chose C"]
    (setting,) = group_settings(load_runs([done]))
    assert summary_table([setting]).loc[0, "remarks"] == results["remarks"][0]


def test_the_oracle_of_a_test_split_without_the_rules_rows_names_its_rule(toy_args, toy_betons, tmp_path):
    for file in [*toy_betons.glob("toy_train.beton*"), *toy_betons.glob("toy_val.beton*")]:
        shutil.copy(file, tmp_path / file.name)
    write_beton(tmp_path / "toy_test.beton", toy_rows(32, 1.0, 5), TOY_SPEC, "test", WriteOptions(mode="raw"))
    args = [*toy_args, "--training.data_root", str(tmp_path), "--data.mini_dataset", "0.3"]
    assert run([*args, "--training.oracle", "true", "--training.selection", "minority"]) == 0
    settings = group_settings(load_runs([tmp_path / "runs"]))
    assert settings[0].runs[0].oracle["rule"] == "mean_group"
    assert list(oracle_table(settings).columns)[2:4] == ["selected by minority", "oracle by mean_group (test split)"]


def test_epochs_that_all_tie_say_that_the_tie_break_selected(toy_args, tmp_path):
    # With a learning rate of 0 every epoch is the same: the worst group and the mean are those of the first epoch.
    args = [*toy_args, "--training.lr", "0", "--data.mini_dataset", "0.3", "--model.bn_mode", "eval"]
    assert run(args) == 0
    results = json.loads((folder_of(tmp_path / "runs") / "results.json").read_text())
    assert (results["selection"], results["selected_epoch"]) == ("worst_group", 1)
    assert results["selected_by"]["text"] == "first epoch (worst_group is the same in all epochs)"


def test_seeds_that_selected_by_several_rules_are_counted(toy_args):
    from tests.report.test_write import make_run

    root = Path(toy_args[toy_args.index("--training.outdir") + 1])
    for seed, by in enumerate(("minority", "minority", "mean_group (minority has no row in val)")):
        file = make_run(root, seed=seed) / "results.json"
        entry = {"asked": "minority", "text": by}
        file.write_text(json.dumps({**json.loads(file.read_text()), "selection": by[:10], "selected_by": entry}))
    (setting,) = group_settings(load_runs([root]))
    assert setting.selection == "minority (2 of 3 seeds), mean_group (minority has no row in val) (1 of 3 seeds)"
    assert any(setting.selection in note for note in notes([setting]))


def test_a_group_without_a_row_in_any_split_needs_none_in_validation(tmp_path):
    three_of_four = {(0, 0): 2, (0, 1): 1, (1, 1): 3}
    views = [view_of(tmp_path, three_of_four, split=split) for split in ("train", "val")]
    assert without_rows_anywhere(views) == {"right, dark"}
    rule = check_rows(views[1], "worst_group", "", empty_groups="error", nowhere=without_rows_anywhere(views))
    assert rule.text == "worst_group (over 3 of 4 groups)"
    whole = view_of(tmp_path, {**three_of_four, (1, 0): 1}, split="test")
    with pytest.raises(UsageError, match="1 of 4 groups have no row"):
        check_rows(views[1], "worst_group", "", empty_groups="error", nowhere=without_rows_anywhere([*views, whole]))


def test_a_rule_over_groups_that_no_split_has_names_them_all(tmp_path):
    views = [view_of(tmp_path, ALIGNED, split=split) for split in ("train", "val")]
    with pytest.raises(UsageError, match=r"2 of 2 conflicting groups have no row .*left, light; right, dark"):
        check_rows(views[1], "minority", "", empty_groups="error", nowhere=without_rows_anywhere(views))
