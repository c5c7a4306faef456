"""Pickles and checkpoints made to harm are one sentence in every reader, and what real programs write is read."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults.hostile_readers import ARCHIVES, PICKLES
from tests.faults.pickle_payloads import ARRAYS, TENSORS, WORDS, Raw, archive, memory, program, tensor
from tests.running import ROOT

from debeton.data.raw.pickles import load_pickle
from debeton.system.errors import DataError
from debeton.system.plain_files import load_plain


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counter[str], str]:
    """Answers of each reader to each hostile file, from a process of its own, which they could end."""
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hostile_readers.py")), str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended by {done.returncode} after {lines[-1:]}: {done.stderr[-2000:]}"
    refused = [line for line in lines if line["status"] == 1]
    assert len(refused) == len(lines), [line for line in lines if line["status"] != 1]
    return Counter(line["reader"] for line in refused), done.stderr


@pytest.mark.parametrize("reader", [*PICKLES, *ARCHIVES])
def test_every_reader_refuses_every_hostile_file_in_one_sentence(answers, reader):
    counts, errors = answers
    assert counts[reader] == len(ARRAYS) + len(TENSORS) * (reader in ARCHIVES)
    assert "Traceback" not in errors
    sentences = [line for line in errors.splitlines() if f"/{reader}/" in line]
    assert len(sentences) == counts[reader]
    assert all(line.startswith("error: ") and " cannot be read as " in line for line in sentences)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a memory larger than the file's", "data/0 has 16 bytes, and its tensors say that it has 16777216"),
        ("a window past the end", r"a tensor \[1048576\] that reaches out of its memory of 4 values"),
        ("backward strides", "an offset, sizes or strides that are no numbers from 0"),
        ("a sparse tensor", r"names torch\._utils\._rebuild_sparse_tensor, which is neither a tensor"),
        ("an array of objects whose values are bytes", "an array of objects that are no list of them"),
        ("lists of lists, without an end", r"a small file of more than 10\d{5} items"),
    ],
)
def test_the_sentence_says_what_is_wrong(tmp_path, name, reason):
    (tmp_path / "x.pt").write_bytes(archive({**ARRAYS, **TENSORS}[name], WORDS))
    with pytest.raises(DataError, match=rf"x\.pt cannot be read as weights \(.*{reason}"):
        load_plain(tmp_path / "x.pt", "weights")


@pytest.mark.parametrize("kind", [dict, set, frozenset], ids=lambda kind: kind.__name__)
def test_keys_that_were_made_to_have_equal_hashes_are_refused_before_they_take_time(kind):
    colliding = [k * (2**61 - 1) for k in range(1, 600)]
    for protocol in (2, 4):
        content = pickle.dumps(kind(dict.fromkeys(colliding, 1)), protocol)
        with pytest.raises(DataError, match="it has keys that were made to have equal hashes"):
            load_pickle(content, "x.pkl")
        usual = kind(dict.fromkeys([*range(-3, 3000), *map(str, range(3000)), 0.5, True], 1))
        assert load_pickle(pickle.dumps(usual, protocol), "x.pkl") == usual


def test_the_hostile_files_are_harmful_by_their_values_alone(tmp_path):
    """The same instructions with values that fit are read, by torch too."""
    path = tmp_path / "x.pt"
    path.write_bytes(archive(tensor(memory(4), 1, (2,), (2,)), WORDS))
    assert load_plain(path, "x").tolist() == torch.load(path, weights_only=True).tolist() == [2, 4]
    path.write_bytes(archive(tensor(memory(4), 0, (4,), (1,)), np.array([1, 2, 3, 4], ">f4").tobytes(), order=b"big"))
    assert load_plain(path, "x").tolist() == torch.load(path, weights_only=True).tolist() == [1, 2, 3, 4]


VALUE = {
    "names": np.array(["a/b.jpg", "c", None], object),
    "numbers": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "text": np.array(["ab", "c"]),
    "mean": np.float32(0.5),
    "rest": [1, 2.5, (True, None), {"x"}, b"\0\xff", 2**70],
}
PLAIN = pickle.dumps(VALUE, 4)


def said(read: Callable[[], object]) -> str:
    """'read' of a file whose value can be looked at, or the sentence of the DataError."""
    try:
        repr(read())
    except DataError as error:
        return str(error)
    return "read"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_damaged_pickles_are_read_or_refused_and_nothing_else(place, put_in, cut):
    content = PLAIN[:place] + put_in + PLAIN[place + cut :]
    assert said(lambda: load_pickle(content, "x")).startswith(("read", "x cannot be read as a pickle of plain data: "))


DESCRIPTION = program({"a": tensor(memory(4), 0, (2, 2), (2, 1)), "b": ARRAYS["a number of fewer bytes"].arguments[0]})


@settings(max_examples=300, deadline=None)
@given(place=st.integers(2, len(DESCRIPTION) - 1), put_in=st.binary(max_size=12), cut=st.integers(0, 12))
def test_damaged_checkpoints_are_read_or_refused_and_nothing_else(tmp_path_factory, place, put_in, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    code = DESCRIPTION[2:place] + put_in + DESCRIPTION[place + cut :]
    path.write_bytes(archive(Raw(code), WORDS))
    assert said(lambda: load_plain(path, "weights")).startswith(("read", f"{path} cannot be read as weights ("))
