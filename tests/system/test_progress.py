"""The sign of progress: a checkpoint touches the file that DEBETON_PROGRESS names."""

from __future__ import annotations

from debeton.nets.checkpoint import save_checkpoint


def test_a_saved_checkpoint_touches_the_file_and_one_that_cannot_be_touched_stops_nothing(tmp_path, monkeypatch):
    sign = tmp_path / "sign"
    save_checkpoint(tmp_path / "a.pt", {})
    assert not sign.exists()
    monkeypatch.setenv("DEBETON_PROGRESS", str(sign))
    save_checkpoint(tmp_path / "b.pt", {})
    assert sign.exists()
    monkeypatch.setenv("DEBETON_PROGRESS", str(tmp_path / "nowhere" / "sign"))
    save_checkpoint(tmp_path / "c.pt", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "b.pt", "c.pt", "sign"}
