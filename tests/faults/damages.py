"""Damages of JSON files: what a kill, a bad disk, an editor or another program leaves behind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from debeton.system.errors import run_command

Said = Callable[[], str]  # what the commands have written to stderr since the last call

# A text that no reader may take, by the kind of damage.
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "no byte": lambda content: b"",
    "half of it": lambda content: content[: len(content) // 2],
    "zero bytes": lambda content: bytes(len(content)),
    "binary": lambda content: bytes(range(256)) * 4,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"3\n",
    "null": lambda content: b"null\n",
    "deep": lambda content: b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "a key twice": lambda content: content.replace(b"{", b'{"twice": 1, "twice": 2, ', 1),
    "words": lambda content: b"hello there\n",
}
VALUES: tuple[Any, ...] = (
    None,
    "x",
    "0.5",
    -1,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    "\ud800",
    "a\0b",
)
DROPPED = object()


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON content, below the content itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


def changed(content: bytes, place: tuple[Any, ...], value: Any) -> bytes:
    """Return a JSON text with another value at a place, or without that key."""
    whole = json.loads(content)
    table = whole
    for key in place[:-1]:
        table = table[key]
    if value is DROPPED:
        del table[place[-1]]
    else:
        table[place[-1]] = value
    return json.dumps(whole, indent=1 if b"\n " in content else None).encode() + b"\n" * content.endswith(b"\n")


def value_damages(content: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, the text) for values of another kind at random places of a JSON text."""
    draw, all_places = random.Random(seed), list(places(json.loads(content)))
    for _ in range(count):
        place, value = draw.choice(all_places), draw.choice((*VALUES, DROPPED))
        text = changed(content, place, value)
        yield f"{'.'.join(map(str, place))} = {'nothing' if value is DROPPED else repr(value)}", text


def assert_one_sentence(status: int, stderr: str, file: str, what: str = "") -> None:
    """Check that a command ended with status 1 and one sentence that names the file."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (1, 1), (what, status, stderr[-500:])
    assert file in errors[0], (what, errors[0])
    assert "Traceback" not in stderr


def assert_texts_refused(path: Path, command: Callable[[], int | None], said: Said, but: Sequence[str] = ()) -> None:
    """Check that every damage of TEXTS, but some, is one sentence; put the file back."""
    content = path.read_bytes()
    for what, damage in TEXTS.items():
        if what not in but:
            path.write_bytes(damage(content))
            assert_one_sentence(run_command(command), said(), path.name, what)
    path.write_bytes(content)


def assert_values_named_or_unused(path: Path, command: Callable[[], int | None], said: Said, seed: int = 0) -> int:
    """Return how many values of another kind are refused, each in one sentence; the others are not used."""
    content, refused = path.read_bytes(), 0
    for what, text in value_damages(content, seed, 30):
        path.write_bytes(text)
        status, stderr = run_command(command), said()
        if status:
            assert_one_sentence(status, stderr, path.name, what)
            refused += 1
    path.write_bytes(content)
    return refused
