"""plain_files.py: what torch.save writes of plain values is read as torch reads it, and flipped bits are noticed."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from debeton.system.errors import DataError
from debeton.system.plain_files import load_plain

NUMBERS = torch.arange(24.0).reshape(2, 3, 4)
TYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64"


def trained() -> dict[str, Any]:
    """The states of a network, an optimizer and a schedule after a step."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    network(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}


VALUES: dict[str, Any] = {
    "training": trained(),
    "views": [NUMBERS, NUMBERS[1], NUMBERS.transpose(0, 2), NUMBERS[:, ::2], torch.zeros(3).expand(4, 3)],
    "types": [torch.ones(3).to(getattr(torch, name)) for name in TYPES.split()],
    "gradients": [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)],
    "small": [torch.zeros(0, 3), torch.tensor(3.5), torch.ones(2, requires_grad=True)],
    "numbers of NumPy": [np.float64(1.5), np.float32(2), np.int64(3), np.uint8(4), np.bool_(True), np.str_("ab")],
    "arrays": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True, False])],
    "small arrays": [np.zeros((0, 3)), np.array(3), np.array([1.5, 2.5], ">f8"), np.arange(24).reshape(2, 3, 4).T],
    "text": [np.array(["a", "bcd"]), np.array([b"a", b"bcd"]), np.array(["a", None, "ccc"], object), "ä", b"\0\xff"],
    "names": [argparse.Namespace(lr=0.1, at=[1, NUMBERS]), SimpleNamespace(a={"b": 1}), np.dtype("f4")],
    "plain": [1, -3, 2**70, 1.5, None, True, (1, (NUMBERS,)), (), {1, 2}, frozenset({3}), {"a": {}}, b"", 1j],
    "kinds": [bytearray(b"xy"), bytearray(), torch.Size([1, 2]), torch.device("cuda:1"), torch.float16],
    "tables": [Counter("aab"), OrderedDict(a=1, b=[2]), {("a", 1): 2, 3: 4, None: 5}],
}


def described(value: Any) -> Any:
    """A value in types that == compares, with all that is to be kept."""
    if isinstance(value, torch.Tensor):
        kept = (type(value), value.dtype, value.shape, value.stride(), value.storage_offset(), value.requires_grad)
        return (*kept, value.untyped_storage().nbytes(), value.is_leaf, value.tolist())
    if isinstance(value, np.ndarray):
        return value.dtype.newbyteorder("="), value.shape, value.tolist()
    if isinstance(value, dict):
        metadata = getattr(value, "_metadata", None)
        return type(value), metadata, [(key, described(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [described(item) for item in value]
    if isinstance(value, argparse.Namespace | SimpleNamespace):
        return type(value), described(vars(value))
    return type(value), value


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, name, protocol):
    path = tmp_path / "x.pt"
    for zipped in (True, False):
        torch.save(VALUES[name], path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        expected = described(torch.load(path, weights_only=False))
        assert described(load_plain(path, "x")) == expected
        assert described(load_plain(path, "x", map_file=True)) == expected


def test_tensors_that_share_their_memory_share_it_when_they_are_read(tmp_path):
    torch.save(VALUES["views"][:2], tmp_path / "x.pt")
    whole, part = load_plain(tmp_path / "x.pt", "x")
    whole.zero_()
    assert part.abs().sum() == 0


def test_numbers_and_arrays_of_numpy_1_are_read(tmp_path):
    torch.save(VALUES["numbers of NumPy"] + VALUES["arrays"], tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core" in (tmp_path / "old.pt").read_bytes()
    expected = described(VALUES["numbers of NumPy"] + VALUES["arrays"])
    assert described(load_plain(tmp_path / "old.pt", "x")) == expected


def test_a_flipped_bit_of_the_weights_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    place = content.find(torch.ones(4).numpy().tobytes()) + 2000
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pt is damaged: its part 'x/data/0' is not what was written there"):
        load_plain(path, "a checkpoint")


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_plain(tmp_path / "x.pt", "x")["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path, zipped):
    path: Path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(30), "n": np.ones(3), "s": [1, "a"]}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.pt (cannot be read as weights|is damaged: )"):
            load_plain(path, "weights")


def test_archives_that_are_no_weights_are_named(tmp_path):
    path: Path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a") as script:
        script.writestr("x/constants.pkl", b"")
    with pytest.raises(DataError, match="is a TorchScript archive, whose code is not run; save the network's state_d"):
        load_plain(path, "weights")
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "y.pt")
    with zipfile.ZipFile(tmp_path / "y.pt") as new, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in new.namelist():
            packed.writestr(name, new.read(name))
    with pytest.raises(DataError, match=r"its parts have 400\d{3} bytes, the file has \d{4}, and torch.save"):
        load_plain(path, "weights")
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(DataError, match="no file of tensors and plain values, and nothing of it is run"):
        load_plain(path, "weights")
