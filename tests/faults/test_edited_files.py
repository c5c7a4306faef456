"""Files of a run, a set or a model that were cut short or edited: one sentence, or made anew.

Each file is damaged in the ways of `damages.py` and read by the commands that use it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.faults.damages import (
    DROPPED,
    TEXTS,
    Said,
    assert_one_sentence,
    assert_texts_refused,
    assert_values_named_or_unused,
    changed,
    value_damages,
)
from tests.generate.sets import command as generate
from tests.generate.sets import images_of
from tests.running import folder_of, run

from debeton.commands import predict, report
from debeton.data.beton.reading import open_beton
from debeton.data.raw.synthetic_images import read_synthetic_rows
from debeton.diffusion.model import Conditions, Shape, load_model, make_network, make_schedule, save_model
from debeton.system.errors import DataError, run_command
from debeton.train.results import ResultLog


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return what reads that the last commands wrote to stderr."""
    return lambda: capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(toy_betons: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a finished run of two phases and its command; tests leave its files as they were."""
    out = tmp_path_factory.mktemp("finished")
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": out / "runs",
        "training.method": "jtt",
        "jtt.epochs": 1,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 128,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.oracle": "true",
        "logging.tensorboard": "false",
        "training.device": "cpu",
    }
    args = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert run(args) == 0
    folder = folder_of(out)
    shutil.copytree(folder, out / "kept")
    return folder, args


@pytest.fixture
def whole(finished: tuple[Path, list[str]]) -> tuple[Path, list[str]]:
    """Return the finished run and its command, with all files as the run left them."""
    folder, args = finished
    shutil.rmtree(folder)
    shutil.copytree(folder.parents[2] / "kept", folder)
    return folder, args


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["results.json", "results.jsonl"])
def test_a_report_names_a_damaged_file(whole, said, file):
    folder, _ = whole
    assert run_command(lambda: report.main([str(folder)])) == 0
    said()
    # A log of no line is that of a run before its first evaluation; its last line is dropped where a kill cut it.
    but = ["no byte", "half of it", "zero bytes", "binary", "UTF-16"] if file == "results.jsonl" else []
    assert_texts_refused(folder / file, lambda: report.main([str(folder)]), said, but)


def test_a_report_refuses_values_of_another_kind_in_results(whole, said):
    folder, _ = whole
    refused = assert_values_named_or_unused(folder / "results.json", lambda: report.main([str(folder)]), said)
    assert refused > 5


@pytest.mark.parametrize("file", ["checkpoints/phases.json", "data.json"])
def test_a_run_that_goes_on_names_a_damaged_file_and_changes_nothing(whole, said, file):
    folder, args = whole
    (folder / "results.json").unlink()
    before = sorted(path.name for path in folder.rglob("*"))
    said()
    assert_texts_refused(folder / file, lambda: run(args) or 0, said)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_record_of_a_phase_with_another_kind_of_value_is_refused(whole, said):
    folder, args = whole
    (folder / "results.json").unlink()
    path = folder / "checkpoints" / "phases.json"
    content = path.read_bytes()
    for place, value in (
        (("train", "seconds"), DROPPED), (("train", "selected_epoch"), "2"), (("train", "notes"), []),
        (("train", "extra"), 1), (("identify", "processes"), [0]), (("identify", "seconds"), -1.0),
    ):  # fmt: skip
        path.write_bytes(changed(content, place, value))
        assert_one_sentence(run(args), said(), "phases.json", f"{place} {value}")


def test_damaged_results_are_made_anew_and_are_the_same(whole, said):
    folder, args = whole
    path = folder / "results.json"
    content = path.read_bytes()
    for what in ("no byte", "half of it"):
        path.write_bytes(TEXTS[what](content))
        assert run(args) == 0
        assert "results.json" in (text := said())
        assert "the results are made anew" in text
        old, new = json.loads(content), json.loads(path.read_text())
        assert {k: v for k, v in old.items() if k != "timing"} == {k: v for k, v in new.items() if k != "timing"}


def test_a_log_without_the_lines_of_a_finished_phase_is_not_gone_on_with(whole, said):
    folder, args = whole
    (folder / "results.json").unlink()
    log = folder / "results.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    first = "".join(line for line in lines if '"epoch": 2' not in line)
    for text, phase, last in (("", "identify", 0), (first, "train", 1)):
        log.write_text(text)
        words = f"results.jsonl lacks evaluations of phase '{phase}', which is finished: it has {1 + last} epochs, and "
        assert_one_sentence(run(args), said(), f"{words}the last line is of epoch {last}")
    log.write_text("".join(lines))
    assert run(args) == 0


def test_a_log_drops_a_cut_line_with_a_note_and_keeps_a_damaged_one(tmp_path, caplog):
    log = ResultLog(tmp_path / "results.jsonl")
    for epoch in (1, 2):
        log.write(phase="train", epoch=epoch, step=epoch, split="val", lr=None, metrics={"accuracy": 0.5})
    text = log.path.read_text()
    log.path.write_text(text + '{"phase": "tr')
    with caplog.at_level("INFO", logger="debeton"):
        log.rewind("train", 2)
    assert log.path.read_text() == text
    assert [record.getMessage() for record in caplog.records] == [
        f"note: line 3 of {log.path} was cut off, as a kill leaves it; it is dropped and made anew"
    ]
    damaged = text.replace('"epoch": 1', '"epoch": "1"')
    log.path.write_text(damaged)
    with pytest.raises(DataError, match=r"results\.jsonl, line 1: epoch is '1'; expected a whole number of 0 or more"):
        log.rewind("train", 1)
    assert log.path.read_text() == damaged


def test_damaged_files_of_a_neighbour_are_left_alone_with_a_warning(whole, said):
    folder, args = whole
    for file in ("checkpoints/phases.json", "results.json"):
        (folder / file).write_bytes((folder / file).read_bytes()[:40])
    assert run([*args, "--training.seed", "0", "--training.epochs", "1", "--model.cache", "off"]) == 0
    assert "phases.json is not JSON" in said()


# --- an exported model, a beton, a set of images, a diffusion model --------------------------------------------------


def test_the_card_of_an_exported_model_is_checked(whole, said, tmp_path):
    folder, _ = whole
    model = tmp_path / "model"
    assert run_command(lambda: predict.main(["--checkpoint", str(folder), "--export", str(model)])) == 0
    again = ["--checkpoint", str(model), "--export", str(tmp_path / "again")]
    said()
    assert_texts_refused(model / "model.json", lambda: predict.main(again), said)
    assert assert_values_named_or_unused(model / "model.json", lambda: predict.main(again), said) > 0


def test_a_sidecar_that_lies_in_kind_or_code_is_refused(toy_betons, tmp_path):
    for name in ("toy_test.beton", "toy_test.beton.json", "toy_test.beton.columns.npz"):
        shutil.copyfile(toy_betons / name, tmp_path / name)
    path, beton = tmp_path / "toy_test.beton.json", tmp_path / "toy_test.beton"
    content = path.read_bytes()
    for damage in TEXTS.values():
        path.write_bytes(damage(content))
        with pytest.raises(DataError, match=r"toy_test\.beton\.json"):
            open_beton(beton)
    for place, value, words in (
        (("spec", "aligned"), [[0], [7]], "aligned names the code 7; expected codes from 0 to 1"),
        (("spec", "missing"), [4], "missing names the code 4; expected codes from 0 to 3"),
        (("spec", "mean"), [0.5, 0.5], r"spec\.mean is a list; expected a list of 3"),
        (("spec", "std"), [0.0, 0.5, 0.5], r"spec\.std\[0\] is 0\.0; expected a number of 1e-09 or more"),
        (("spec", "classes"), "ab", r"spec\.classes is 'ab'; expected a list"),
        (("spec", "attributes"), [], "2 classes and 0 attributes"),
        (("content",), [], "content is a list; expected a table of keys and values"),
    ):
        path.write_bytes(changed(content, place, value))
        with pytest.raises(DataError, match=words):
            open_beton(beton)


def test_a_set_of_images_names_a_damaged_file_and_what_no_manifest_lists(toy_betons, tmp_path, said):
    folder, beton = tmp_path / "set", toy_betons / "toy_train.beton"
    begin = ["--like", beton, "--generator", "halves", "--fit-on", beton, "--out", folder, "--per-cell", 3]
    begin += ["--filter", "none"]
    assert generate(*begin) == 0
    assert generate("--out", folder, "--check") == 0
    said()
    assert_texts_refused(folder / "generator.json", lambda: generate("--out", folder, "--check"), said)
    assert_texts_refused(folder / "generator.json", lambda: generate(*begin), said)
    manifest, images = folder / "manifest.jsonl", images_of(folder)
    content = manifest.read_bytes()
    lines = content.splitlines(keepends=True)
    for k, (what, text) in enumerate(value_damages(lines[1], 3, 30)):
        manifest.write_bytes(lines[0] + text + b"".join(lines[2:]))
        for read in (lambda: generate("--out", folder, "--check"), lambda: read_rows(folder, beton)):
            status, stderr = run_command(read), said()
            if status:
                assert_one_sentence(status, stderr, str(folder), f"{k} {what}")
    for whole in (b"", content[: len(content) // 2]):
        manifest.write_bytes(whole)
        assert generate("--out", folder, "--check") == 1
        assert "in no manifest, the first is" in said()
        assert generate(*begin) == 0
        assert sorted(manifest.read_bytes().splitlines()) == sorted(content.splitlines())
        assert images_of(folder) == images
        assert generate("--out", folder, "--check") == 0
        said()


def read_rows(folder: Path, beton: Path) -> None:
    """Read the set as the writer of betons does."""
    read_synthetic_rows(folder, open_beton(beton).spec)


def test_the_descriptions_of_a_diffusion_model_are_checked(tmp_path, said):
    conditions = Conditions("label", (("left", None), ("right", None)), (True, True), "toy", "abc")
    save_model(tmp_path, make_network(2, (8, 8), Shape((8, 8), 1, 1)), make_schedule(steps=10), conditions)

    def load() -> None:
        load_model(tmp_path)

    for file in ("conditions.json", "unet/config.json", "scheduler/scheduler_config.json"):
        assert_texts_refused(tmp_path / file, load, said)
    path = tmp_path / "conditions.json"
    content = path.read_bytes()
    for place, value in ((("cells",), [["left", None]]), (("trained",), [True]), (("kind",), "labels")):
        path.write_bytes(changed(content, place, value))
        assert_one_sentence(run_command(load), said(), "conditions.json")
