"""YAML whose aliases stand for too many values, or whose values are none: one sentence."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from tests.faults.damages import (
    Said,
)
from tests.running import run

from debeton.config.yaml_files import MAX_VALUES, parse_yaml


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return what reads that the last commands wrote to stderr."""
    return lambda: capsys.readouterr().err


def laughs(levels: int, merge: bool) -> str:
    """Return YAML whose last alias stands for 9 ** levels values."""
    if merge:
        lines = ["a0: &a0 {k0: 1}"]
        lines += [f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}], k{k}: 1}}" for k in range(1, levels)]
    else:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(20, merge=False), f"aliases on and below line .* stand for more than {MAX_VALUES:,} values"),
        (laughs(20, merge=True), f"aliases on and below line .* stand for more than {MAX_VALUES:,} values"),
        ("a: &a [*a]", "the alias on line 1 stands for a value that it is part of"),
        ("a: &a {b: *a}", "the alias on line 1 stands for a value that it is part of"),
        ("a: " + "[" * 5000 + "]" * 5000, "nests lists or mappings too deeply"),
        ("a: 2001-13-01", "a value cannot be read as what its form or its tag says"),
        ("a: !!int x", "a value cannot be read as what its form or its tag says"),
        ("a: !!bool maybe", "a value cannot be read as what its form or its tag says"),
        ("a: 1" + ":1" * 60_000, "the number on line 1 has 120,001 letters; quote it if it is text"),
        ("a: 0x" + "f" * 4000, "the number on line 1 has 4,002 letters; quote it if it is text"),
        ("[" + "1," * 200_000 + "1]", "it has more than 100,000 lines and commas; give a shorter file"),
        ("a: " + "x" * (1 << 20), "it is longer than 1 MiB"),
        ("a: !!timestamp x", "a value cannot be read as what its form or its tag says"),
    ],
    ids=lambda value: value[:30],
)
def test_yaml_that_would_not_end_or_lies_is_one_sentence(text, words, tmp_path, said, toy_args):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=words):
        parse_yaml(text)
    assert run(["--config-file", file, *toy_args]) == 2
    assert time.monotonic() - began < 20
    assert said().count("error: ") == 1


def test_aliases_of_a_reasonable_size_stay(tmp_path):
    content: Any = parse_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: &c {x: 1}\nd: {<<: *c, y: 2}")
    assert content == {"a": [1, 2], "b": [[1, 2], [1, 2]], "c": {"x": 1}, "d": {"x": 1, "y": 2}}
