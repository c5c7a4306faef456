"""Temporary files of processes that have ended go away; those of living ones stay."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from debeton.system import files, leftovers
from debeton.system.files import temporary_folder
from debeton.system.leftovers import make_partial_folder, partial_name, remove_abandoned, remove_partials

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(folder: Path, name: str, *, age: float = 0) -> Path:
    path = folder / name
    path.write_text("x")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_file_of_a_process_number_in_use_again_is_removed(tmp_path):
    old = left(tmp_path, f"a.{HOST}.{os.getppid()}.partial", age=365 * 24 * 3600)  # before the parent began
    new = left(tmp_path, f"a.{HOST}.{os.getpid()}.partial")
    remove_abandoned(tmp_path / "a")
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_of_another_machine_is_removed_after_a_day_of_silence(tmp_path):
    old = left(tmp_path, "a.node-1.cluster.77.partial", age=25 * 3600)
    new = left(tmp_path, "a.node-2.cluster.77.partial", age=23 * 3600)
    remove_abandoned(tmp_path / "a")
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_of_a_killed_process_goes_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    code = "import os, sys; from debeton.system.files import temporary_folder as t\n"
    code += "from debeton.system.leftovers import make_partial_folder as m\n"
    code += "m(__import__('pathlib').Path(sys.argv[1]) / '.version_0')\n"
    code += "with t('predict') as folder: (folder / 'images').write_text('x'); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(leftovers.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    with temporary_folder("predict") as folder, temporary_folder("predict") as other:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(tmp_path.glob("debeton_predict.*"))) == 2
        assert folder != other
    staging = make_partial_folder(tmp_path / ".version_0")
    assert list(tmp_path.iterdir()) == [staging]


def test_a_locked_folder_is_cleared_whoever_wrote_there(tmp_path, dead):
    (tmp_path / "checkpoints").mkdir()
    found = [
        left(tmp_path / "checkpoints", f"phase_train.pt.{HOST}.{dead}.partial"),
        left(tmp_path / "checkpoints", f"x.pt.{HOST}.{os.getpid()}.partial"),
        left(tmp_path, "y.json.elsewhere.3.partial"),
    ]
    (tmp_path / ".synthetic.partial").mkdir()
    kept = left(tmp_path, "results.jsonl")
    assert sorted(remove_partials(tmp_path)) == sorted([*found, tmp_path / ".synthetic.partial"])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [kept]


def test_names_say_machine_and_process(tmp_path):
    assert partial_name(tmp_path / "a.beton").name == f"a.beton.{HOST}.{os.getpid()}.partial"
