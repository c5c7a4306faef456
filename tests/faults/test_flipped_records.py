"""Bits that flip in the records of a run and in sets of generated images."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.flips import check_flips

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.images import to_rgb
from debeton.data.raw.synthetic_images import BLIND, read_synthetic_rows
from debeton.data.spec import DatasetSpec
from debeton.generate.image_set import Condition, ImageSet, Slot
from debeton.report.records import load_runs
from debeton.system.errors import DamagedFile, DataError
from debeton.train.results import ResultLog

# --- the records of a run --------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_evaluations_of_a_run_is_noticed_or_harmless(tmp_path):
    log, metrics = ResultLog(tmp_path / "results.jsonl"), {"accuracy": 0.5, "loss": 0.7}
    for epoch in (1, 2):
        log.write(phase="train", epoch=epoch, step=4 * epoch, split="val", lr=0.1, metrics=metrics)
    right = log.read()

    def read() -> list[dict[str, Any]]:
        """All lines, without the digest, whose name may be damaged."""
        found = [{key: line.get(key) for key in right[0]} for line in log.read()]
        return found + right[len(found) :]  # a last line without its end is left out, with a warning

    step = 8 * log.path.stat().st_size // 60 // 2 * 2 + 1
    noticed, harmless = check_flips(log.path, step, read, lambda found: found == right)
    assert noticed > 50 > 5 * harmless


def test_digits_that_change_in_the_records_of_a_run_are_told_and_older_records_are_read(tmp_path, caplog):
    log = ResultLog(tmp_path / "results.jsonl")
    for epoch in (1, 2):
        log.write(phase="train", epoch=epoch, step=4, split="val", lr=0.1, metrics={"accuracy": 0.5})
    whole = log.path.read_text()
    log.path.write_text(whole.replace('"accuracy": 0.5', '"accuracy": 0.6', 1))
    with pytest.raises(DamagedFile, match=r"results\.jsonl, line 1 is not what was written: its values do not have"):
        log.read()
    log.path.write_text(whole)
    log.rewind("train", 1)
    assert log.path.read_text() == whole.splitlines(keepends=True)[0]
    assert [line["metrics"] for line in log.read()] == [{"accuracy": 0.5}]
    results = {"dataset": "toy", "method": "erm", "seed": 0, "test": {"accuracy": 0.5}, "evaluations": 2}
    (tmp_path / "config.yaml").write_text("training: {lr: 0.1}\n")
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert load_runs([tmp_path])[0].results["test"]["accuracy"] == 0.5
    assert "results.jsonl has 1 evaluations of 2; the others were cut off" in caplog.text


# --- sets of generated images ----------------------------------------------------------------------------------


@pytest.fixture
def image_set(tmp_path) -> Path:
    """A set of one image of each cell; the names of its classes differ in one bit."""
    made = ImageSet(tmp_path / "set", {"set": "s", "generator": "noise"})
    for k, (label, attribute) in enumerate(product("37", ("dark", "light"))):
        slot = Slot(Condition(label, attribute), 0)
        digest = made.write_image(slot, np.full((4, 4, 3), 60 * k, np.uint8))
        line = {"path": slot.path, "label": label, "attribute": attribute, "number": 0, "attempt": 0}
        made.append([{**line, "verdict": "keep", "seed": 1, "prompt": "", "sha256": digest}])
    return made.folder


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    """Name, class, attribute, blindness and pixels of each row."""
    rows = read_synthetic_rows(folder, DatasetSpec("s", ("3", "7"), ("dark", "light")))
    codes = [np.asarray(values).tolist() for values in (rows.label, rows.attribute, rows.columns[BLIND])]
    return [(rows.names[k], *(one[k] for one in codes), to_rgb(rows.image(k)).tobytes()) for k in range(len(rows))]


def test_every_flipped_bit_of_the_lines_and_images_of_a_generated_set_is_noticed_or_harmless(image_set):
    right, image = rows_of(image_set), image_set / "3" / "dark" / "00000000.png"
    assert [row[1:4] for row in right] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]

    def read() -> list[tuple[Any, ...]]:
        try:
            return rows_of(image_set)
        except BadImage as error:
            raise DataError(f"{image.parent}: {error}") from None

    # A last line without its end is left out, with a warning.
    noticed, harmless = check_flips(image_set / "manifest.jsonl", 43, read, lambda found: found in (right, right[:-1]))
    assert noticed > 80 > 2 * harmless  # of the seed, the prompt and the numbers
    noticed, harmless = check_flips(image, 13, read, lambda found: found == right)
    assert (noticed > 40, harmless) == (True, 0)


def test_images_and_lines_of_a_set_that_changed_places_are_told(image_set):
    one, other = (image_set / label / "dark" / "00000000.png" for label in "37")
    first, second = one.read_bytes(), other.read_bytes()
    other.write_bytes(first)
    with pytest.raises(BadImage, match="is not the image that its manifest lists: its SHA-256 is another one"):
        rows_of(image_set)
    other.write_bytes(second)
    manifest, message = image_set / "manifest.jsonl", r"manifest\.jsonl, line 1: {}; the line is damaged or was edited"
    text = manifest.read_text()
    for before, after, said in (
        ('"label": "3"', '"label": "7"', "label is '7', and 3/dark/00000000.png lies in the folder of '3'"),
        ('"attribute"', '"Attribute"', "attribute is None, and 3/dark/00000000.png lies in the folder of 'dark'"),
        ('"keep"', '"kedp"', "verdict is 'kedp', and sha256 is that of an image that was kept"),
    ):
        manifest.write_text(text.replace(before, after, 1))
        with pytest.raises(DataError, match=message.format(said)):
            rows_of(image_set)
