"""Tests of the choice of groups: contradictions, one group in each class, selection on val, shared phases, dfr."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import assert_same_training, folder_of, lines_of, run, stopped_and_resumed
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import Rows
from debeton.data.views.row_lists import by_marks
from debeton.data.views.view import View
from debeton.methods import FINDERS, METHODS, check, outline, sections_of
from debeton.methods.finder import Finder, Found
from debeton.methods.group_choice import provisional, with_groups
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import DataError, UsageError
from debeton.train.run import Run, open_run
from debeton.train.selection import selection_on


@pytest.fixture
def table(toy_betons, tmp_path) -> Path:
    """A table of pseudo-groups of the training rows: every third row is marked."""
    file = tmp_path / "table.csv"
    names = toy_rows(512, 0.9, 0).names
    file.write_text("path,group\n" + "".join(f"{name},{int(i % 3 == 0)}\n" for i, name in enumerate(names)))
    return file


def words(toy_args: list[str], method: str, **settings: object) -> list[str]:
    """Settings of a run: `groups__from` stands for groups.from."""
    own = {"training.method": method, **{key.replace("__", "."): value for key, value in settings.items()}}
    return [*toy_args, *(str(word) for key, value in own.items() for word in (f"--{key}", value))]


def marking(monkeypatch: pytest.MonkeyPatch, every: int = 4, kind: str = "bias") -> None:
    """Replace the finder 'jtt' by one that trains nothing and marks each `every`th row of a view; 0 marks none."""

    def grouped(view: View) -> View:
        marks = np.arange(len(view)) // 2 % every == 0 if every else np.zeros(len(view), bool)
        return by_marks(view, marks).without_empty_groups()

    def find(run: Run) -> Found:
        return Found(grouped(run.views["train"]), grouped, run.folder / "groups.csv", "group", "mark other rows")

    finder = Finder(find, "none", "label", "nothing", kind)  # type: ignore[arg-type]
    entry = replace(FINDERS._entries["jtt"], value=finder)
    monkeypatch.setitem(FINDERS._entries, "jtt", entry)


# --- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        pytest.param("erm", {"groups__from": "jtt"}, "erm looks at no groups", id="no groups"),
        pytest.param("cdpm", {"groups__from": "jtt"}, "cdpm.condition 'label' draws images of classes", id="cdpm"),
        pytest.param("groupdro", {"groups__from": "jt"}, "groups.from is 'jt'; did you mean 'jtt'?", id="unknown"),
        pytest.param("groupdro", {"groups__from": "file"}, "data.pseudo_groups names no file", id="no file"),
        pytest.param("groupdro", {"groups__val": "inferred"}, "groups.from 'attribute' infers none", id="no finder"),
        pytest.param(
            "groupdro",
            {"groups__val": "none", "training__selection": "worst_group"},
            "groups.val is 'none', and training.selection 'worst_group' selects by groups",
            id="hidden val",
        ),
        pytest.param(
            "groupdro", {"groups__from": "cnc", "finder__epochs": 0}, "finder.epochs", id="a network without training"
        ),
        pytest.param("jtt", {"groups__from": "eiil"}, "groups.from", id="another finder than its own"),
        pytest.param("groups", {}, "groups.from is 'attribute', which finds nothing", id="groups alone"),
        pytest.param(
            "dfr", {"groups__from": "jtt"}, "the finder would change nothing; fit on the training rows", id="dfr on val"
        ),
        pytest.param(
            "dfr",
            {"groups__from": "cnc", "dfr__data": "train", "dfr__base": "jtt"},
            "dfr goes on with jtt, which finds groups by 'jtt', and groups.from is 'cnc'",
            id="two finders",
        ),
        pytest.param(
            "dfr",
            {"groups__val": "none", "training__selection": "average"},
            "groups.val is 'none', and dfr.data 'val' needs the groups of the validation rows",
            id="dfr on hidden val",
        ),
        pytest.param(
            "groupdro",
            {"groups__from": "jtt", "groupdro__automatic_adjustment": "true"},
            "no validation split in these groups",
            id="adjustment by other groups",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_is_trained(
    toy_args, capsys, tmp_path, method, settings, said
):
    assert run(words(toy_args, method, **settings)) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("phases.json"))


def test_a_file_of_groups_goes_with_neither_a_finder_nor_a_share_of_known_rows(toy_args, table, capsys):
    for settings, said in (
        ({"groups__from": "jtt"}, "groups.from is 'jtt', and data.pseudo_groups gives groups too"),
        ({"groups__known": 0.5}, "groups.known is 0.5, and data.pseudo_groups says which rows are in which group"),
    ):
        given = {"data__pseudo_groups": table, "data__pseudo_column": "group", **settings}
        assert run(words(toy_args, "groupdro", **given)) == 2
        assert said in capsys.readouterr().err


def test_ffr_which_is_erm_on_real_rows_refuses_a_finder(toy_args):
    with (
        open_run(load([], words(toy_args, "groupdro", groups__from="cnc"))) as opened,
        pytest.raises(UsageError, match=r"groups\.from is 'cnc', and ffr is erm on the real rows"),
    ):
        METHODS.get("ffr").check(opened)


def test_groups_from_file_reads_the_file(toy_args, table):
    given = {"groups__from": "file", "data__pseudo_groups": table, "data__pseudo_column": "group"}
    with open_run(load([], words(toy_args, "groupdro", **given))) as opened:
        check(opened)
        assert sum(with_groups(opened).views["train"].group_counts()[1::2]) == 171


def test_minority_needs_groups_that_say_which_rows_are_bias_conflicting(toy_args, monkeypatch, capsys):
    marking(monkeypatch, kind="cluster")
    given = {"groups__from": "jtt", "groups__val": "inferred", "training__selection": "minority"}
    assert run(words(toy_args, "groupdro", **given)) == 2
    assert "clusters do not say which rows are bias-conflicting" in capsys.readouterr().err


# --- one group in each class ----------------------------------------------------------------------


def test_a_finder_that_marks_nothing_is_said_to_and_stops_where_that_is_asked(toy_args, monkeypatch, caplog):
    marking(monkeypatch, every=0)
    monkeypatch.setattr(logging.getLogger("debeton"), "propagate", True)
    with open_run(load([], words(toy_args, "resample", groups__from="jtt"))) as opened:
        assert with_groups(opened).views["train"].group_counts().tolist() == [256, 0, 256, 0]
    (said,) = [message for message in caplog.messages if message.startswith("warning: groups.from")]
    assert "found one group in each class (left, aligned: 256; right, aligned: 256)" in said
    assert said.endswith("resample balances classes alone, or goes on as erm; mark other rows")
    with (
        open_run(load([], words(toy_args, "resample", groups__from="jtt", groups__single="error"))) as opened,
        pytest.raises(DataError, match=r"groups\.single is 'error'\. Mark other rows"),
    ):
        with_groups(opened)


# --- validation groups ----------------------------------------------------------------------------


def test_the_validation_rows_that_select_are_in_the_groups_that_are_asked_for(toy_args, monkeypatch):
    marking(monkeypatch)
    for val, selection, counts in (
        ("attribute", "worst_group", None),
        ("inferred", "worst_group", [48, 16, 48, 16]),
        ("inferred", "last", [48, 16, 48, 16]),  # dfr and groupdro.automatic_adjustment look at them too
        ("none", "average", [0, 0, 0, 0]),
    ):
        given = {"groups__from": "jtt", "groups__val": val, "training__selection": selection}
        with open_run(load([], words(toy_args, "groupdro", **given))) as opened:
            own = opened.views["val"].group_counts().tolist()
            grouped = with_groups(opened)
            assert grouped.views["val"].group_counts().tolist() == (counts or own)
            assert opened.views["val"].group_counts().tolist() == own
            assert opened.remarks == (["validation groups by jtt"] if val == "inferred" else [])
            assert grouped.views["test"] is opened.views["test"]
            expected = "average" if val == "none" else selection
            assert selection_on(grouped.views["val"], selection).rule == expected


def test_a_run_selects_by_the_inferred_groups_and_reports_the_sets_own(toy_args, monkeypatch):
    marking(monkeypatch)
    given = {"groups__from": "jtt", "groups__val": "inferred", "training__epochs": 1}
    args = words(toy_args, "groupdro", **given)
    assert run(args) == 0
    folder = folder_of(Path(args[args.index("--training.outdir") + 1]))
    (line,) = [line for line in lines_of(folder) if line["split"] == "val"]
    assert set(line["metrics"]["group_count"].values()) == {48, 16}
    results = json.loads((folder / "results.json").read_text())
    assert results["remarks"] == ["validation groups by jtt"]
    assert set(results["val"]["group_count"]) == {"left, dark", "left, light", "right, dark", "right, light"}
    assert results["notes"]["groups"]["val"] == "inferred"


def test_validation_rows_of_unknown_attribute_select_by_inferred_groups(toy_args, toy_betons, tmp_path, monkeypatch):
    marking(monkeypatch)
    rows = toy_rows(64, 0.5, 3)
    unknown = Rows(rows.label, np.full(64, -1), rows.image, rows.names)
    write_beton(tmp_path / "val.beton", unknown, TOY_SPEC, "val", WriteOptions(mode="raw"))
    given = {"groups__from": "jtt", "data__val_path": tmp_path / "val.beton", "training__selection": "worst_group"}
    with (
        pytest.raises(UsageError, match="the attribute of no row of 'val'"),
        open_run(load([], words(toy_args, "groupdro", **given))),
    ):
        pass
    with open_run(load([], words(toy_args, "groupdro", **given, groups__val="inferred"))) as opened:
        check(opened)
        assert selection_on(with_groups(opened).views["val"], "worst_group").text == "worst_group"


def test_automatic_adjustment_takes_validation_rows_in_inferred_groups(toy_args, monkeypatch):
    marking(monkeypatch)
    given = {"groups__from": "jtt", "groups__val": "inferred", "groupdro__automatic_adjustment": "true"}
    args = words(toy_args, "groupdro", **given)
    assert run(args) == 0
    folder = folder_of(Path(args[args.index("--training.outdir") + 1]))
    adjustment = [line for line in lines_of(folder) if line["split"] == "train"][-1]["objective"]["adjustment"]
    assert len(adjustment) == 4
    assert all(value != 0 for value in adjustment.values())


# --- the base of dfr ------------------------------------------------------------------------------


def test_a_base_with_its_own_finder_trains_on_what_that_finds_and_not_on_the_attributes(toy_args, monkeypatch):
    seen: list[list[int]] = []

    def look(run: Run) -> torch.nn.Module:
        seen.append(run.views["train"].group_counts().tolist())
        return run.network()

    marking(monkeypatch)
    monkeypatch.setitem(
        METHODS._entries, "jtt", replace(METHODS._entries["jtt"], value=replace(METHODS.get("jtt"), run=look))
    )
    for settings in ({}, {"groups__from": "jtt", "dfr__data": "train"}):
        given = {"dfr__base": "jtt", "dfr__c_grid": 1, "dfr__refits": 1, **settings}
        with open_run(load([], words(toy_args, "dfr", **given))) as opened:
            check(opened)
            METHODS.get("dfr").run(with_groups(opened))
            assert opened.notes["groups"]["from"] == "jtt"
            fitted = opened.notes["dfr"]["rows_of_a_refit"]
            assert set(fitted) == set(
                (opened.views["val"] if not settings else with_groups(opened).views["train"]).spec.group_names
            )
    assert seen == [[192, 64, 192, 64]] * 2


def test_the_last_layer_is_fitted_on_found_groups_of_train_or_inferred_groups_of_val(toy_args, monkeypatch):
    marking(monkeypatch)
    for settings, rows in (({"dfr__data": "train"}, 64), ({"groups__val": "inferred"}, 16)):
        given = {"groups__from": "jtt", "dfr__c_grid": 1, "dfr__refits": 1, "training__epochs": 1, **settings}
        with open_run(load([], words(toy_args, "dfr", **given))) as opened:
            check(opened)
            monkeypatch.setattr("debeton.methods.parts.base_network.Base.network", lambda self, run: run.network())
            METHODS.get("dfr").run(with_groups(opened))
            assert opened.notes["dfr"]["rows_of_a_refit"] == dict.fromkeys(
                ("left, aligned", "left, conflicting", "right, aligned", "right, conflicting"), rows
            )


# --- what a run leaves ----------------------------------------------------------------------------


def test_reports_tell_runs_apart_by_the_sections_of_their_finder(toy_args):
    for method, finder, sections in (
        ("groupdro", "lff", ("lff",)),
        ("upweight", "eiil", ("jtt", "eiil")),
        ("jtt", "jtt", ("jtt",)),
        ("groupdro", "attribute", ()),
    ):
        given = {} if method == "jtt" else {"groups__from": finder}
        with open_run(load([], words(toy_args, method, **given))) as opened:
            assert sections_of(opened) == sections


def test_provisional_groups_divide_each_class_of_the_rows_that_are_to_be_grouped(toy_args):
    given = {"groups__from": "jtt", "groups__val": "inferred"}
    with open_run(load([], words(toy_args, "groupdro", **given))) as opened:
        views = provisional(opened).views
        assert views["train"].group_counts().tolist() == [128] * 4
        assert views["val"].group_counts().tolist() == [32] * 4
        assert views["test"] is opened.views["test"]
        assert [phase.name for phase in outline(opened)] == ["identify", "train"]


@pytest.fixture(scope="module")
def shared(toy_betons, tmp_path_factory) -> tuple[list[str], Path]:
    """(words, run folder) of groupdro on the groups of cnc."""
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": tmp_path_factory.mktemp("shared"),
        "model.arch": "small_resnet",
        "training.epochs": 1,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
    }
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run([*args, "--training.method", "groupdro", "--groups.from", "cnc"]) == 0
    return args, folder_of(Path(settings["training.outdir"]))


def weights_of(folder: Path, name: str = "checkpoint_latest") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / f"{name}.pt")["state_dict"]


def assert_equal_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(left[key], right[key]) for key in left)


def other_run(shared: tuple[list[str], Path], method: str, *more: str) -> Path:
    """Run another method below the same outdir, and return its folder."""
    args, first = shared
    before = {path.parent for path in first.parent.parent.rglob("config.yaml")}
    assert run([*args, "--training.method", method, *more]) == 0
    (folder,) = {path.parent for path in first.parent.parent.rglob("config.yaml")} - before
    return folder


def phases_of(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / "checkpoints/phases.json").read_text())


def test_a_run_in_the_groups_of_the_table_is_bit_equal_to_the_one_with_the_finder(shared):
    _, first = shared
    reading = ("--data.pseudo_column", "group", "--data.pseudo_kind", "prediction")
    folder = other_run(shared, "groupdro", "--data.pseudo_groups", str(first / "groups.csv"), *reading)
    assert_equal_weights(weights_of(first), weights_of(folder))
    results = [json.loads((one / "results.json").read_text()) for one in (first, folder)]
    assert results[0]["test"] == results[1]["test"]


def test_the_network_of_a_finder_is_shared_by_methods_and_trained_again_where_it_is_damaged(shared):
    _, first = shared
    same = ("--groups.from", "cnc")
    taken = other_run(shared, "subg", *same)
    assert phases_of(taken)["identify"]["taken_from"] == str(first)
    assert_equal_weights(weights_of(first, "phase_identify"), weights_of(taken, "phase_identify"))
    assert (first / "groups.csv").read_bytes() == (taken / "groups.csv").read_bytes()
    erring = other_run(shared, "resample", "--groups.from", "jtt")  # whose network is the same training
    assert phases_of(erring)["identify"]["taken_from"] == str(first)
    longer = other_run(shared, "subg", *same, "--finder.lr", "0.01")
    assert phases_of(longer)["identify"]["taken_from"] == ""
    notes = list((first.parent.parent / "phases").glob("*.txt"))
    assert len(notes) == 2
    weights = first / "checkpoints/phase_identify.pt"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[: len(whole) // 2])  # damaged
        for note in notes:
            note.write_text(f"{first.relative_to(first.parent.parent)}\n")
        again = other_run(shared, "reweight", *same)
    finally:
        weights.write_bytes(whole)
    assert phases_of(again)["identify"]["taken_from"] == ""
    assert_equal_weights(weights_of(first, "phase_identify"), weights_of(again, "phase_identify"))


@pytest.mark.parametrize("step", [3, 8 + 5], ids=["in the finder", "after the finder"])
def test_a_run_that_is_stopped_ends_bit_equal(shared, tmp_path, monkeypatch, step):
    args, first = shared
    words = [*args, "--training.outdir", tmp_path, "--training.method", "groupdro", "--groups.from", "cnc"]
    stopped_and_resumed(words, monkeypatch, step)
    folder = folder_of(tmp_path)
    assert_equal_weights(weights_of(first), weights_of(folder))
    notes = [json.loads((one / "results.json").read_text())["notes"] for one in (first, folder)]
    assert notes[0] == notes[1]


def test_two_processes_train_on_the_groups_that_one_finds(toy_args, two_processes, tmp_path):
    args = words(toy_args, "groupdro", groups__from="cnc", groups__val="inferred", model__bn_mode="eval")
    args += ["--training.epochs", "1"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", str(tmp_path / "two")])
    one, two = (folder_of(tmp_path / name) for name in ("one", "two"))
    assert_same_training(weights_of(one), weights_of(two), "small_resnet")
    counts = [json.loads((folder / "results.json").read_text())["notes"]["groups"]["groups"] for folder in (one, two)]
    assert counts[0] == counts[1]


def test_without_validation_groups_the_worst_class_selects_unless_another_rule_is_given():
    assert load([], ["--groups.val", "none"]).training.selection == "worst_class"
    assert load([], ["--groups.val", "none", "--training.selection", "average"]).training.selection == "average"
    assert load([]).training.selection == "worst_group"
