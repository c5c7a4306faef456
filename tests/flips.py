"""Files with one flipped bit, for tests of what notices it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from debeton.system.errors import DataError


def flipped(path: Path, step: int) -> Iterator[int]:
    """Flip every step-th bit of a file, one at a time, and yield its number.

    The file is whole again at the end.

    step: shares no factor with 8, so that all bits of a byte have their turn.
    """
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), step):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield bit
    path.write_bytes(whole)


def check_flips(path: Path, step: int, read: Callable[[], Any], is_right: Callable[[Any], bool]) -> tuple[int, int]:
    """Read a file with each of its flipped bits, and return (number of noticed ones, number of harmless ones)."""
    sentences, harmless = list[str](), 0
    for bit in flipped(path, step):
        try:
            found = read()
        except DataError as error:
            sentences.append(str(error))
        else:
            assert is_right(found), f"bit {bit} of {path.name} changes what is read, without a word"
            harmless += 1
    unnamed = [sentence for sentence in sentences if str(path.parent) not in sentence]
    assert not unnamed, f"the folder of {path.name} is not named: {unnamed[:3]}"
    return len(sentences), harmless


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)
