"""checkpoint.py: checkpoints are whole or absent, and run no code when they are read."""

from __future__ import annotations

import os
import pickle
import warnings

import pytest
import torch

from debeton.nets.checkpoint import load_checkpoint, save_checkpoint
from debeton.system.errors import DataError


def test_a_checkpoint_reads_back(tmp_path):
    content = {"state_dict": {"w": torch.arange(3.0)}, "epoch": 3, "best": {"score": [0.5, 0.25]}}
    save_checkpoint(tmp_path / "a" / "c.pt", content)
    found = load_checkpoint(tmp_path / "a" / "c.pt")
    assert torch.equal(found["state_dict"]["w"], torch.arange(3.0))
    assert (found["epoch"], found["best"]) == (3, {"score": [0.5, 0.25]})


def test_a_failed_save_keeps_the_old_checkpoint_and_leaves_nothing_behind(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", {"epoch": 1})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match=r"the disk under .* is full: c\.pt"):
        save_checkpoint(tmp_path / "c.pt", {"epoch": 2})
    assert load_checkpoint(tmp_path / "c.pt")["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_missing_truncated_foreign_and_malicious_files_give_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")
    save_checkpoint(tmp_path / "c.pt", {"w": torch.zeros(1000)})
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "text.pt")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"names (posix|nt)\.system, which is neither .* and is not run; ") as found:
        load_checkpoint(tmp_path / "evil.pt")
    assert "weights_only" not in str(found.value)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))  # of another protocol than torch's, which it warns of
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="nothing of it is run"):
            load_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "owned").exists()
