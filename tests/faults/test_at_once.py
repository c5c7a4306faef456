"""Faults of two writers at once: the same generator, and the same files, in several processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.faults.sweeps import end_of, until
from tests.generate.sets import kept_of

from debeton.data.raw.synthetic_images import read_synthetic_rows
from debeton.data.spec import DatasetSpec
from debeton.generate.contact_sheets import write_contact_sheets
from debeton.generate.filters import FILTERS
from debeton.generate.generation import generate_missing
from debeton.generate.image_set import ImageSet, Shard, verify
from debeton.generate.prompts import PromptSet
from debeton.system import files
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_files

PETS = PromptSet("pets", "a {subject}", "animal", {"cat": ("tabby",), "dog": ("pug",)}, {"in": ("* inside",)})
SPEC = DatasetSpec("pets", ("cat", "dog"), ("in",), aligned=((0,), (0,)))
PER_CELL = 6


class Noise:
    """Generator of noise images that takes `seconds` for a batch."""

    attempts = 20

    def __init__(self, seconds: float = 0):
        self.seconds, self.identity = seconds, {"kind": "noise"}

    def sample(self, requests):
        time.sleep(self.seconds)
        return np.stack([np.random.default_rng(r.seed).integers(0, 256, (8, 8, 3), np.uint8) for r in requests])


def make(folder: Path, shard: str = "1/1", seconds: float = 0) -> ImageSet:
    image_set = ImageSet(folder, {"set": "pets", "generator": "noise"}, Shard.parse(shard))
    conditions, keep = PETS.conditions(), FILTERS.get("standard")
    generate_missing(image_set, Noise(seconds), PETS, keep, conditions=conditions, per_condition=PER_CELL, batch_size=2)
    return image_set


def another_process(folder: Path, shard: str, seconds: float) -> int:
    """Start a process that makes a shard, and return its number when its first images are there."""
    process = os.fork()
    if not process:
        status = 1
        try:
            make(folder, shard, seconds)
            status = 0
        finally:
            os._exit(status)
    until(lambda: list(folder.glob("manifest*.jsonl")), "the first images")
    return process


def test_a_shard_that_another_process_makes_is_refused_with_the_name_of_the_process(tmp_path):
    process = another_process(tmp_path, "1/1", seconds=0.2)
    message = rf"shard 1/1 of .* is being made by process {process} of \S+, since [\d :-]+; wait for it, or let several"
    with pytest.raises(UsageError, match=message):
        make(tmp_path)
    with pytest.raises(UsageError, match=message):
        make(tmp_path, "2/3")  # has images that the other process makes
    assert end_of(process) == 0
    assert len(kept_of(tmp_path)) == 2 * PER_CELL
    assert not list(tmp_path.glob(".*"))


def test_other_shards_of_the_same_set_are_made_at_the_same_time(tmp_path):
    process = another_process(tmp_path, "1/2", seconds=0.2)
    make(tmp_path, "2/2")
    assert end_of(process) == 0
    assert len(kept_of(tmp_path)) == 2 * PER_CELL


def test_a_shard_whose_process_was_killed_is_free_and_ends_with_each_image_once(tmp_path):
    process = another_process(tmp_path, "1/1", seconds=0.2)
    ImageSet(tmp_path, {"set": "pets", "generator": "noise"})  # --check looks at the set meanwhile
    os.kill(process, signal.SIGKILL)
    assert end_of(process) == -signal.SIGKILL
    make(tmp_path)
    assert len(kept_of(tmp_path)) == 2 * PER_CELL
    assert verify(tmp_path) == []


def test_opening_a_set_leaves_the_line_that_another_process_is_writing(tmp_path):
    make(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    with manifest.open("a") as file:
        file.write('{"path": "cat/in/')
    before = manifest.read_bytes()
    ImageSet(tmp_path, {"set": "pets", "generator": "noise"})
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("second", ["manifest.jsonl", "manifest-1-of-1.jsonl"])
def test_a_doubled_set_is_named_by_the_check_and_mended_by_the_same_command(tmp_path, caplog, monkeypatch, second):
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    make(tmp_path)
    once, kept = (tmp_path / "manifest.jsonl").read_text(), kept_of(tmp_path)
    with (tmp_path / second).open("a") as file:
        file.write(once)
    count = len(once.splitlines())
    (sentence,) = verify(tmp_path)
    assert sentence.startswith(f"{count} lines of the manifest list an image again (cat/in/00000000.png; ")
    assert len(read_synthetic_rows(tmp_path, SPEC)) == count
    make(tmp_path)
    assert f"warning: dropped {count} lines of {tmp_path} that listed an image again" in caplog.messages
    assert kept_of(tmp_path) == kept
    assert verify(tmp_path) == []


def test_lines_without_a_seed_or_a_hash_are_taken_as_they_are(tmp_path):
    image_set = make(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    first, *others = manifest.read_text().splitlines()
    bare = {key: value for key, value in json.loads(first).items() if key not in ("seed", "sha256")}
    manifest.write_text("\n".join([json.dumps(bare), first, json.dumps({**bare, "seed": None}), *others]) + "\n")
    assert len(write_contact_sheets(ImageSet(tmp_path, image_set.settings))) == 2
    make(tmp_path)
    assert manifest.read_text() == "\n".join([first, *others]) + "\n"


@pytest.mark.parametrize(("key", "value"), [("label", "dog"), ("attribute", None), ("number", 9)])
def test_a_line_that_gives_an_image_another_place_is_named_by_the_check(tmp_path, key, value):
    make(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    first, *others = manifest.read_text().splitlines()
    manifest.write_text("\n".join([json.dumps({**json.loads(first), key: value}), *others]) + "\n")
    (sentence,) = verify(tmp_path)
    wrong = {"label": "0 of 'dog, in'", "attribute": "0 of 'cat'", "number": "9 of 'cat, in'"}[key]
    assert sentence == f"{tmp_path}/cat/in/00000000.png is listed as number {wrong} in manifest.jsonl"


def test_of_lines_that_differ_the_one_of_the_image_that_is_there_stays(tmp_path):
    make(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    once = manifest.read_text()
    first, *others = once.splitlines()
    wrong = json.dumps({**json.loads(first), "sha256": "0" * 64}, ensure_ascii=False)
    manifest.write_text("\n".join([wrong, first, *others]) + "\n")
    make(tmp_path)
    assert manifest.read_text() == once
    manifest.write_text("\n".join([wrong, first, *others]) + "\n")
    (tmp_path / json.loads(first)["path"]).write_bytes(b"another image")
    with pytest.raises(DataError, match=r"is listed 2 times with different content \(manifest.jsonl\), and no line is"):
        make(tmp_path)


def test_of_two_processes_that_begin_a_set_with_other_settings_the_second_is_refused(tmp_path, monkeypatch):
    """The first process is held up while it writes the settings, until the second begins."""
    settings = [{"set": "pets", "generator": "noise"}, {"set": "pets", "generator": "other"}]
    written = files.write_files

    def slow(contents):
        time.sleep(0.3)
        written(contents)

    process = os.fork()
    if not process:
        monkeypatch.setattr(files, "write_files", slow)
        ImageSet(tmp_path / "set", settings[0])
        os._exit(0)
    until((tmp_path / "set").exists, "the folder")
    time.sleep(0.1)
    with pytest.raises(UsageError, match="was begun with other settings: generator is 'noise' there and 'other' here"):
        ImageSet(tmp_path / "set", settings[1])
    assert end_of(process) == 0


def test_files_that_belong_together_are_never_those_of_two_writers(tmp_path, monkeypatch):
    """One writer is held up between its first and its second file, while the other writes both."""
    replace, between = os.replace, threading.Event()

    def slow(source, target):
        replace(source, target)
        if Path(target).name == "a" and Path(target).read_bytes() == b"1":
            between.set()
            time.sleep(0.3)

    monkeypatch.setattr(files.os, "replace", slow)
    names = [tmp_path / "a", tmp_path / "b"]
    first = threading.Thread(target=write_files, args=(dict.fromkeys(names, b"1"),))
    first.start()
    assert between.wait(10)
    process = os.fork()
    if not process:
        write_files(dict.fromkeys(names, b"2"))
        os._exit(0)
    first.join()
    assert end_of(process) == 0
    assert [name.read_bytes() for name in names] == [b"2", b"2"]
