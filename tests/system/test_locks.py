"""locks.py: one holder at a time, waiting, and file systems without locks."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from debeton.system import locks
from debeton.system.locks import LockState, file_lock, holder, is_locked


def test_a_lock_has_one_holder_at_a_time_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    assert not is_locked(path)
    with file_lock(path) as first:
        assert first is LockState.HELD
        assert is_locked(path)
        with file_lock(path) as second:
            assert second is LockState.BUSY
        assert is_locked(path)
    assert not is_locked(path)


def test_waiting_for_a_lock_is_announced_once_and_ends_when_it_is_free(tmp_path: Path) -> None:
    path, asked, states = tmp_path / "a.lock", threading.Event(), []

    def wait() -> None:
        with file_lock(path, wait=True, before_waiting=asked.set) as state:
            states.append(state)

    with file_lock(path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert asked.wait(10)
        assert states == []
    thread.join(10)
    assert states == [LockState.HELD]


def test_a_file_system_without_locks_is_named_and_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with file_lock(tmp_path / "a.lock", wait=True) as state:
        assert state is LockState.UNSUPPORTED
        assert not is_locked(tmp_path / "a.lock")


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "{}", '{"process": 1e999}', '{"process": "x"}'],
    ids=["empty", "deep", "nothing", "infinite", "text"],
)
def test_a_note_that_says_nothing_is_of_another_process(text: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(text)
    assert holder(tmp_path / "lock") == "another process"
