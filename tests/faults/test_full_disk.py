"""A disk without room, and one that fails: one sentence, whole files, and the same command goes on afterwards."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tests.running import run

from debeton.commands import dispatch
from debeton.data.raw.tar_shards import find_shards, read_samples
from debeton.generate.arrays import write_arrays
from debeton.generate.image_set import ImageSet, Slot
from debeton.generate.prompts import Condition
from debeton.methods.parts import synthetic_set
from debeton.system import files
from debeton.system.errors import DataError, run_command
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.files import append_text, replacing, write_text
from debeton.system.leftovers import partial_name
from debeton.system.locks import LockState, file_lock
from debeton.system.log import log_to_file, logger
from debeton.train.results import TensorBoardSink


def command(*words: object) -> int:
    return run_command(lambda: dispatch.main([str(word) for word in words]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk(size): the folder of a disk of this size, such as '64k'; a second call gives it another size."""
    folder = tmp_path / "disk"

    def resize(size: str) -> Path:
        words = (
            ["-o", f"remount,size={size}", folder]
            if folder.exists()
            else ["-t", "tmpfs", "-o", f"size={size}", "x", folder]
        )
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", *words], capture_output=True).returncode:
            pytest.skip("no small disk can be mounted; this needs root")
        return folder

    yield resize
    logger.handlers.clear()
    subprocess.run(["umount", "-l", folder], capture_output=True)


@pytest.mark.parametrize("size", ["4k", "64k", "400k"])
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(toy_args, small_disk, capsys, size):
    args = [*toy_args, "--training.outdir", str(small_disk(size) / "runs"), "--logging.tensorboard", "true"]
    assert run(args) == 1
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "is full: " in line
    assert "Traceback" not in said
    folder = small_disk("50m")
    assert run(args) == 0
    assert len(list(folder.rglob("results.json"))) == 1
    assert not list(folder.rglob("*.partial"))


def test_betons_and_arrays_on_a_full_disk_leave_nothing_half_written(small_disk, tmp_path, capsys):
    images = tmp_path / "photos"
    for number in range(40):
        path = images / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    disk = small_disk("64k")
    words = ["write-betons", "--dataset", "folder", "--name", "pets", "--raw", images, "--out", disk / "out"]
    assert command(*words) == 1
    assert "is full: pets_train.beton" in capsys.readouterr().err
    assert list(disk.iterdir()) == []
    with pytest.raises(DataError, match=r"is full: (cat|dog)\.npy(\.sha256)? could not"):
        write_arrays(images / "train", disk / "arrays")
    assert not list(disk.rglob("*.partial"))
    small_disk("5m")
    assert command(*words) == 0
    assert np.load(write_arrays(images / "train", disk / "arrays")[0]).shape == (20, 32, 32, 3)


def test_a_line_that_does_not_fit_leaves_the_lines_before_it(small_disk):
    manifest, number = small_disk("8k") / "manifest.jsonl", itertools.count()

    def fill() -> None:
        while True:
            append_text(manifest, json.dumps({"number": next(number), "text": "x" * 100}) + "\n")

    with pytest.raises(DataError, match=r"the disk under .*disk is full: manifest\.jsonl"):
        fill()
    lines = manifest.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(next(number) - 1))
    small_disk("1m")
    append_text(manifest, '{"number": -1}\n')
    assert manifest.read_text().splitlines()[-1] == '{"number": -1}'


def test_a_log_that_cannot_be_written_is_said_once_and_the_work_goes_on(small_disk, caplog, capsys):
    disk = small_disk("8k")
    log_to_file(disk / "log.txt")
    for _ in range(40):
        logger.warning("%s", "y" * 1000)
    told = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(told) == 1
    assert "further messages are not in it" in told[0]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
def test_errors_of_the_disk_name_the_file(code, tmp_path, monkeypatch):
    def failing(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    message = rf"a\.json could not be written to .* \({os.strerror(code)}\), and no part"
    with pytest.raises(DataError, match=message), naming_failed_writes(tmp_path / "a.json"):
        failing()
    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(DataError, match=r"b\.jsonl could not be written"):
        append_text(tmp_path / "b.jsonl", "x\n")
    assert (tmp_path / "b.jsonl").read_text() == ""


def test_an_error_of_a_file_that_is_read_meanwhile_keeps_its_own_name(tmp_path):
    missing = OSError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "photo.jpg"))
    with pytest.raises(PermissionError, match=r"photo\.jpg"), naming_failed_writes(tmp_path / "pets.beton"):
        raise missing
    own = OSError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "pets.beton.host.1.partial"))
    with (
        pytest.raises(DataError, match=r"pets\.beton could not be written"),
        naming_failed_writes(tmp_path / "pets.beton"),
    ):
        raise own


def test_a_lock_holds_on_a_full_disk_that_has_no_room_for_its_note(small_disk):
    disk = small_disk("4k")
    (disk / "full").write_bytes(bytes(4096))
    with file_lock(disk / ".lock") as state:
        assert state is LockState.HELD
    assert (disk / ".lock").read_bytes() == b""


def test_a_shard_that_does_not_fit_into_the_temporary_folder_is_not_called_damaged(small_disk, tmp_path, monkeypatch):
    (tmp_path / "1.png").write_bytes(np.random.default_rng(0).bytes(100_000))
    with tarfile.open(tmp_path / "train-0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "1.png", "1.png")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk("16k")))
    with pytest.raises(DataError, match=r"the disk under .*disk is full: train-0\.tar\.gz, unpacked, could not"):
        read_samples(find_shards(tmp_path))


def test_images_taken_over_from_another_run_leave_no_half_set(small_disk, tmp_path, monkeypatch):
    other = tmp_path / "other" / synthetic_set.FOLDER
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for number in range(3):
        ImageSet(other, {"set": "s"}).write_image(Slot(Condition("cat", None), number), pixels)
    disk = small_disk("8k")
    settings = SimpleNamespace(per_class=9)
    run = SimpleNamespace(folder=disk, config=SimpleNamespace(section=lambda kind: settings))
    monkeypatch.setattr(synthetic_set, "other_folders", lambda *arguments: [other.parent])
    with pytest.raises(DataError, match="is full: synthetic could not be written"):
        synthetic_set._take_over_images(run, {"set": "s"})
    assert list(disk.iterdir()) == []
    small_disk("1m")
    synthetic_set._take_over_images(run, {"set": "s"})
    assert sorted(path.name for path in disk.rglob("*.*")) == [*(f"{k:08}.png" for k in range(3)), "generator.json"]


def test_the_thread_that_writes_events_says_nothing_beside_the_one_sentence(tmp_path, monkeypatch, capsys):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.compat.tensorflow_stub.io.gfile.LocalFileSystem._write", full)
    with pytest.raises(DataError, match=r"is full: events\.out\.tfevents could not"):
        TensorBoardSink(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_file_that_is_linked_again_to_its_own_content_leaves_no_temporary_name(tmp_path):
    (tmp_path / "best.pt").write_text("weights")
    os.link(tmp_path / "best.pt", tmp_path / "phase.pt")
    with replacing(tmp_path / "phase.pt") as (partial,):
        os.link(tmp_path / "best.pt", partial)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "phase.pt"]


@pytest.mark.parametrize("name", ["x" * 255, "\u65e5" * 85], ids=["ascii", "three_bytes"])
def test_a_name_as_long_as_the_disk_takes_is_written_and_its_leftovers_are_removed(name, tmp_path):
    abandoned = partial_name(tmp_path / name)
    abandoned = abandoned.with_name(abandoned.name.replace(f".{os.getpid()}.", ".4194305."))  # above every process
    abandoned.write_text("half")
    other = partial_name(tmp_path / f"{name[:-1]}y").name
    assert len(os.fsencode(abandoned.name)) <= 255
    assert other != partial_name(tmp_path / name).name
    write_text(tmp_path / name, "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "whole"}


def test_a_longer_name_than_the_disk_takes_is_refused_before_the_work(tmp_path):
    with pytest.raises(DataError, match=r"could not be written to .* \(File name too long\)"):
        with replacing(tmp_path / ("x" * 256)):
            pytest.fail("the work began")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_the_file_is_named(tmp_path):
    (tmp_path / "notes").write_text("")
    (tmp_path / "folder").mkdir()
    for path, reason in {
        tmp_path / "notes" / "sub" / "a.csv": f"{tmp_path}/notes is a file, not a folder",
        tmp_path / "folder": "Is a directory",
    }.items():
        with pytest.raises(DataError, match=rf"{path.name} could not be written to {path.parent} \({reason}\)"):
            write_text(path, "text")
    with pytest.raises(DataError, match=r"results\.jsonl could not .* \(the folder is not there any more\)"):
        append_text(tmp_path / "gone" / "results.jsonl", "{}\n")
    with pytest.raises(DataError, match=r"\.lock could not be written .* is a file, not a folder"):
        with file_lock(tmp_path / "notes" / ".lock"):
            pytest.fail("no lock can be there")


def test_an_output_without_room_is_one_sentence_and_status_1():
    code = "import sys; from debeton.system.errors import run_command; sys.exit(run_command(lambda: print('x')))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output, or a file that the system does not name: No space left on device; check the disk and the "
        "rights\n"
    )


def test_any_other_error_of_a_file_is_a_sentence(capsys):
    assert run_command(lambda: Path("/nowhere/a.txt").write_text("")) == 1
    said = capsys.readouterr().err
    assert said == (
        "error: /nowhere/a.txt cannot be used (No such file or directory); check this path, its rights and the disk\n"
    )
