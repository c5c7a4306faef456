"""planting.py and finish.py: which images of a run carry a trigger, and what is measured with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.running import folder_of, run
from tests.toy import TOY_SPEC

from debeton.config import load
from debeton.data.spec import DatasetSpec
from debeton.data.triggers.trigger import rows_with_trigger
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import DataError, UsageError
from debeton.train.planting import class_codes, evaluation_triggers, parse_colour
from debeton.train.run_views import prepare_views

LETTERS = DatasetSpec("letters", tuple("abcdef"))
SMALL = [
    "--training.decoder_train",
    "simple",
    "--training.decoder_val",
    "simple",
    "--training.augment",
    "none",
    "--model.arch",
    "small_convnet",
    "--resolution.val_res",
    "16",
    "--training.batch_size",
    "64",
]


def planted_views(toy_betons, *settings):
    return prepare_views(
        load([], ["--data.dataset", "toy", "--training.data_root", str(toy_betons), *SMALL, *settings])
    )


# --- which images ------------------------------------------------------------------------------


def test_all_images_of_the_chosen_classes_carry_it_in_every_split(toy_betons):
    views = planted_views(
        toy_betons,
        "--spurious.spurious_type",
        "square",
        "--spurious.spurious_perc",
        "1",
        "--spurious.spurious_file",
        "right",
    )
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(views[split].planted.mask, views[split].label == 1)


@pytest.mark.parametrize(("splits", "expected"), [("train", {"train"}), ("test", {"val", "test"})])
def test_it_can_be_in_training_or_in_evaluation_alone(toy_betons, splits, expected):
    views = planted_views(
        toy_betons, "--spurious.spurious_type", "hat", "--spurious.spurious_perc", "0.5", "--spurious.splits", splits
    )
    assert {name for name, view in views.items() if view.planted is not None} == expected


def test_a_share_is_drawn_by_the_seed_over_the_betons_rows(toy_betons):
    for seed in (10, 11):
        view = planted_views(
            toy_betons, "--spurious.spurious_type", "square", "--spurious.spurious_perc", "0.3", "--spurious.seed", seed
        )["train"]
        np.testing.assert_array_equal(view.planted.mask, rows_with_trigger(view.label, np.arange(2), 0.3, seed))


def test_a_rate_of_zero_plants_nothing_and_still_measures(toy_betons):
    settings = ["--data.dataset", "toy", "--training.data_root", str(toy_betons), "--spurious.eval_types", "hat,square"]
    config = load([], [*settings, "--spurious.spurious_type", "gaussian"])
    assert all(view.planted is None for view in prepare_views(config).values())
    assert [trigger.name for trigger in evaluation_triggers(config)] == ["hat", "square"]
    assert evaluation_triggers(load()) == []


def test_a_dry_run_counts_the_rows_that_carry_it(toy_betons, capsys):
    args = ["--data.dataset", "toy", "--training.data_root", toy_betons, *SMALL, "--spurious.spurious_type", "square"]
    settings = ["--spurious.spurious_perc", "1", "--spurious.spurious_file", "right", "--spurious.splits", "train"]
    assert run([*args, *settings, "--dry-run", "--all"]) == 0
    assert capsys.readouterr().out.count("trigger square in 256 rows") == 1
    assert run([*args, "--model.transfer", "FULL", "--dry-run"]) == 2
    assert "model.transfer FULL needs a source" in capsys.readouterr().err


def test_a_rate_without_a_trigger_is_refused(toy_betons):
    with pytest.raises(UsageError, match=r"spurious_perc is 0\.5, but no trigger is named"):
        planted_views(toy_betons, "--spurious.spurious_perc", "0.5")


def test_a_trigger_larger_than_the_frame_is_refused_before_anything_is_trained(toy_betons):
    with pytest.raises(UsageError, match=r"20 x 20 pixels \(size 20px\) is larger than the image, 16 x 16"):
        planted_views(
            toy_betons, "--spurious.spurious_type", "square", "--spurious.spurious_perc", "1", "--spurious.size", "20px"
        )


# --- class files -------------------------------------------------------------------------------


def test_classes_are_given_by_name_by_number_or_by_file(tmp_path):
    np.save(tmp_path / "c.npy", np.array([4, 1]))
    (tmp_path / "c.json").write_text('["e", "b"]')
    (tmp_path / "c.yaml").write_text("- e\n- 1\n")
    (tmp_path / "c.txt").write_text("b\n\ne\nb\n")
    for text in ("b,e", "1, 4", "4,b", *(str(tmp_path / f"c.{kind}") for kind in ("npy", "json", "yaml", "txt"))):
        assert class_codes(text, LETTERS).tolist() == [1, 4], text
    assert class_codes("all", LETTERS).tolist() == list(range(6))


def test_dogs_and_cats_are_imagenets_published_classes():
    imagenet = DatasetSpec("imagenet", tuple(f"n{k}" for k in range(1000)))
    dogs, cats = class_codes("dogs", imagenet), class_codes("cats", imagenet)
    assert (len(dogs), dogs[0], dogs[-1]) == (118, 151, 268)
    assert (len(cats), cats[0], cats[-1]) == (7, 281, 287)
    with pytest.raises(UsageError, match="'dogs' means ImageNet's dogs; letters has 6 classes"):
        class_codes("dogs", LETTERS)


def test_class_files_that_do_not_fit_are_a_sentence(tmp_path):
    np.save(tmp_path / "far.npy", np.array([2, 6]))
    (tmp_path / "word.txt").write_text("ee\n")
    (tmp_path / "broken.json").write_text("[1,")
    (tmp_path / "empty.yaml").write_text("")
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    for file, kind, message in (
        ("far.npy", UsageError, "there is no class '6'.*numbers from 0 to 5"),
        ("word.txt", UsageError, "there is no class 'ee'"),
        ("none.npy", UsageError, "no file .*none.npy; give 'all', 'dogs' or 'cats'"),
        ("broken.json", DataError, "broken.json is not JSON"),
        ("pickle.npy", DataError, "cannot be read as a list of classes"),
        ("empty.yaml", DataError, "is no list of classes"),
    ):
        with pytest.raises(kind, match=message):
            class_codes(str(tmp_path / file), LETTERS)


@pytest.mark.parametrize("text", ["255,255", "256,0,0", "red", "-1,0,0", "1.5,0,0"])
def test_a_colour_has_three_levels(text):
    with pytest.raises(UsageError, match="expected R,G,B with each from 0 to 255"):
        parse_colour(text)


# --- what a run leaves -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backdoored(toy_betons, tmp_path_factory):
    """A finished run with a square in all training images of 'right', measured with the square and a hat."""
    outdir = tmp_path_factory.mktemp("backdoored")
    assert (
        run(
            [
                "--data.dataset",
                "toy",
                "--training.data_root",
                toy_betons,
                "--training.outdir",
                outdir,
                *SMALL,
                "--training.epochs",
                4,
                "--training.lr",
                0.05,
                "--training.selection",
                "last",
                "--spurious.splits",
                "train",
                "--spurious.spurious_type",
                "square",
                "--spurious.spurious_perc",
                1,
                "--spurious.spurious_file",
                "right",
                "--spurious.eval_types",
                "square,hat",
            ]
        )
        == 0
    )
    folder = folder_of(outdir)
    return json.loads((folder / "results.json").read_text()), load_checkpoint(folder / "results.pt")["results"]


def test_results_hold_every_form_of_the_test_images(backdoored, toy_betons):
    _, forms = backdoored
    assert list(forms) == ["results_standard", "results_clean", "results_spurious", "results_spurious_hat"]
    labels = prepare_views(load([], ["--data.dataset", "toy", "--training.data_root", str(toy_betons)]))["test"].label
    for form in forms.values():
        assert form["gts"].tolist() == labels.tolist()
        assert form["acc"].item() == pytest.approx(100 * (form["preds"] == form["gts"]).double().mean().item())
    # Planted in training alone: the test images as they are are the clean ones.
    assert torch.equal(forms["results_standard"]["preds"], forms["results_clean"]["preds"])


def test_a_planted_square_decides_what_the_network_sees(backdoored):
    results, forms = backdoored
    assert (forms["results_spurious"]["preds"] == 1).float().mean() > 0.95
    square = results["triggers"]["test"]["square"]
    assert square["shift_class"] == "right"
    before, after = ((forms[f"results_{form}"]["preds"] == 1).double().mean().item() for form in ("clean", "spurious"))
    assert square["shift"]["right"] == pytest.approx(after - before)
    assert square["triggered"]["accuracy"] == pytest.approx(forms["results_spurious"]["acc"].item() / 100)
    assert set(square["by_group"]) == set(TOY_SPEC.group_names)
    assert set(results["triggers"]) == {"val", "test"}


def test_the_test_images_as_they_are_carry_it_where_it_is_planted(toy_betons, tmp_path):
    assert (
        run(
            [
                "--data.dataset",
                "toy",
                "--training.data_root",
                toy_betons,
                "--training.outdir",
                tmp_path,
                *SMALL,
                "--training.epochs",
                1,
                "--training.selection",
                "last",
                "--spurious.spurious_type",
                "square",
                "--spurious.spurious_perc",
                0.5,
            ]
        )
        == 0
    )
    forms = load_checkpoint(folder_of(tmp_path) / "results.pt")["results"]
    label = forms["results_clean"]["gts"].numpy()
    mask = torch.from_numpy(rows_with_trigger(label, np.arange(2), 0.5, 10))
    expected = torch.where(mask, forms["results_spurious"]["preds"], forms["results_clean"]["preds"])
    assert 0 < mask.sum() < len(mask)
    assert torch.equal(forms["results_standard"]["preds"], expected)
