"""Faults in files: bits that flip, and records that are cut or edited."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.faults.trial import expect, fault
from benchmarks.faults.workspace import Workspace

RECORDS = ("results.jsonl", "results.json", "data.json", "config.yaml", "checkpoints/phases.json")


def flip_bit(path: Path, rng: np.random.Generator) -> int:
    """Flip one bit of a file, and return the byte that it is in."""
    content = bytearray(path.read_bytes())
    place = int(rng.integers(len(content)))
    content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return place


@fault("a flipped bit in the selected weights")
def bit_in_weights(workspace: Workspace, rng: np.random.Generator) -> None:
    """Predict with damaged weights: an error of one sentence, or the same table."""
    folder = workspace.fresh()
    run = workspace.copy_of_finished(folder)
    words = ["predict", "--checkpoint", str(run), "--images", str(workspace.betons / "toy_test.beton")]
    expected = _table(workspace, [*words, "--out", str(folder / "before.csv")], folder / "before.csv")
    place = flip_bit(run / "checkpoints" / "checkpoint_best.pt", rng)
    ended = workspace.command([*words, "--out", str(folder / "after.csv")])
    if not ended.is_one_sentence:
        same = ended.status == 0 and (folder / "after.csv").read_bytes() == expected
        expect(same, f"byte {place} of checkpoint_best.pt: {ended.last}")


@fault("a flipped bit in a beton")
def bit_in_beton(workspace: Workspace, rng: np.random.Generator) -> None:
    """Train on a damaged beton: an error of one sentence, or the same weights."""
    folder, data = workspace.fresh(), workspace.betons
    copies = folder / "betons"
    copies.mkdir()
    for path in data.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    damaged = str(rng.choice(sorted(path.name for path in copies.glob("toy_train*"))))
    place = flip_bit(copies / damaged, rng)
    ended = workspace.command(workspace.train_words(folder / "runs", training__data_root=copies))
    if not ended.is_one_sentence:
        expect(ended.status == 0, f"byte {place} of {damaged}: {ended.last}")
        run = next((folder / "runs").glob("*/version_0"))
        expect(workspace.hash_of(run) == workspace.weights, f"byte {place} of {damaged} changed the weights in silence")


@fault("a beton that --verify looks at")
def verify(workspace: Workspace, rng: np.random.Generator) -> None:
    """Verify a damaged beton of raw images or JPEGs: every bit of an image is noticed."""
    from debeton.data.beton.reading import open_beton

    folder, name = workspace.fresh(), str(rng.choice(["toy_train", "toy_jpeg_train"]))
    for path in workspace.betons.glob(f"{name}*"):
        (folder / path.name).write_bytes(path.read_bytes())
    beton = open_beton(folder / f"{name}.beton")
    row = int(rng.integers(len(beton)))
    place = int(beton.offsets[row]) + int(rng.integers(int(beton.sizes[row])))
    content = bytearray(beton.path.read_bytes())
    content[place] ^= 1 << int(rng.integers(8))
    beton.path.write_bytes(content)
    ended = workspace.command(["write-betons", "--verify", str(beton.path)])
    expect(ended.status == 1 and "Traceback" not in ended.text, f"row {row} of {name}: {ended.last}")


@fault("a record that is cut or edited")
def edited_record(workspace: Workspace, rng: np.random.Generator) -> None:
    """Cut a record of a finished run, or write rubbish into it; report it, and give its command again."""
    folder = workspace.fresh()
    run = workspace.copy_of_finished(folder)
    record = run / str(rng.choice(RECORDS))
    content = record.read_bytes()
    cut = int(rng.integers(len(content)))
    rubbish = bytes(rng.integers(0, 256, 20, dtype=np.uint8))
    kinds = [content[:cut], content[:cut] + rubbish + content[cut:], b"", b"[]", b'{"a": NaN}', content[cut:]]
    record.write_bytes(kinds[int(rng.integers(len(kinds)))])
    out, data = str(folder / "out"), str(workspace.betons / "toy_test.beton")
    report = ["report", str(folder / "runs"), "--out", out]
    for words in (report, ["evaluate", "--checkpoint", str(run), "--data", data, "--outdir", out]):
        ended = workspace.command(words)
        expect(ended.status == 0 or ended.is_one_sentence, f"{words[0]} after damage to {record.name}: {ended.last}")


@fault("a flipped bit in an exported model")
def bit_in_export(workspace: Workspace, rng: np.random.Generator) -> None:
    """Predict with a damaged model of `predict --export`: an error of one sentence, or the same table."""
    folder = workspace.fresh()
    model, images = folder / "model", ["--images", str(workspace.betons / "toy_test.beton")]
    ended = workspace.command(["predict", "--checkpoint", str(workspace.finished), "--export", str(model)])
    expect(ended.status == 0, f"the export: {ended.last}")
    words = ["predict", "--checkpoint", str(model), *images]
    expected = _table(workspace, [*words, "--out", str(folder / "before.csv")], folder / "before.csv")
    damaged = model / str(rng.choice(["model.safetensors", "model.json"]))
    place = flip_bit(damaged, rng)
    ended = workspace.command([*words, "--out", str(folder / "after.csv")])
    if not ended.is_one_sentence:
        same = ended.status == 0 and (folder / "after.csv").read_bytes() == expected
        expect(same, f"byte {place} of {damaged.name}: {ended.last}")


def _table(workspace: Workspace, words: list[str], path: Path) -> bytes:
    ended = workspace.command(words)
    expect(ended.status == 0, f"predict before the damage: {ended.last}")
    return path.read_bytes()
