"""files.py: files appear whole or not at all, and files of killed processes are removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from debeton.system.errors import DataError
from debeton.system.files import replacing, write_text

SOURCE = Path(__file__).parents[2] / "src"
HOST = socket.gethostname()
WRITER = """
import os, sys, time
from pathlib import Path
from debeton.system.files import replacing
with replacing(Path(sys.argv[1])) as (partial,):
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from debeton.system.files import write_text\n"
    code += "write_text(Path(sys.argv[1]), 'caf\\xe9 \\u2013')"
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "latin-1",
        "PYTHONUTF8": "0",
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
    }
    subprocess.run([sys.executable, "-c", code, tmp_path / "text"], env=environment, check=True)
    assert (tmp_path / "text").read_bytes() == "caf\xe9 \u2013".encode()


def test_files_of_a_killed_writer_are_removed_by_the_next_writer(tmp_path: Path) -> None:
    target = tmp_path / "a.beton"
    command, environment = [sys.executable, "-c", WRITER, str(target)], {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        write_text(target, "while it lives")  # leaves the other's file alone
        assert names(tmp_path) == ["a.beton", f"a.beton.{HOST}.{writer.pid}.partial"]
        writer.kill()
    write_text(target, "after it died")
    assert names(tmp_path) == ["a.beton"]
    assert target.read_text() == "after it died"


@pytest.mark.parametrize(
    "name",
    [
        "a.beton.{host}.{alive}.partial",  # being written
        "a.beton.elsewhere.{dead}.partial",  # its process may live on another machine
        "b.beton.{host}.{dead}.partial",  # of another file
        "a.beton.json.{host}.{dead}.partial",
        "a.beton.{host}.x.partial",
        "a.beton.{host}.{dead}.old",
        "a.beton.{dead}.partial",
    ],
)
def test_only_files_that_are_surely_abandoned_are_removed(name: str, tmp_path: Path, dead: int) -> None:
    left = name.format(host=HOST, alive=os.getppid(), dead=dead)
    (tmp_path / left).write_text("x")
    (tmp_path / f"a.beton.{HOST}.{dead}.partial").write_text("x")
    write_text(tmp_path / "a.beton", "new")
    assert names(tmp_path) == sorted(["a.beton", left])


def test_names_with_wildcards_are_meant_literally(tmp_path: Path, dead: int) -> None:
    for name in ("[ab].json", "a.json"):
        (tmp_path / f"{name}.{HOST}.{dead}.partial").write_text("x")
    write_text(tmp_path / "[ab].json", "new")
    assert names(tmp_path) == ["[ab].json", f"a.json.{HOST}.{dead}.partial"]


def test_folders_are_made_and_after_an_error_those_made_are_gone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    paths = [tmp_path / "old" / "x" / "y" / "a", tmp_path / "old" / "z" / "b"]
    with pytest.raises(DataError, match="a, b could not be written"), replacing(*paths) as partials:
        partials[0].write_text("the other is not written")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with replacing(*paths) as partials:
        for partial in partials:
            partial.write_text("whole")
    assert [path.read_text() for path in paths] == ["whole", "whole"]


def test_a_folder_in_which_another_wrote_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new" / "a"):
        (tmp_path / "new" / "other").write_text("x")
    assert names(tmp_path / "new") == ["other"]
