"""The two errors that users meet, and the exit status that the command line gives them.

Every message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence


class UsageError(ValueError):
    """An error in the command, the configuration or an argument: exit status 2."""


class DataError(ValueError):
    """An error in a file or a data set: exit status 1."""


class DamagedFile(DataError):
    """An error for a file that does not hold what was written to it: altered, cut short, or another file."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the middle of a message: `; did you mean 'x'?` if a known name is close, else `;`.

    It stands between the wrong name and the list of known names. A name is close if each of its parts, which dots
    separate, is close: see `_is_close`.
    """
    parts = name.lower().split(".")
    slips = {}
    for other in known:
        pairs = list(zip(parts, other.lower().split(".")))
        if len(parts) == other.count(".") + 1 and all(_is_close(*pair) for pair in pairs):
            slips[other] = sum(_slips(*pair) for pair in pairs)
    return f"; did you mean '{min(slips, key=lambda other: slips[other])}'?" if slips else ";"


def first_names(names: Sequence[str]) -> str:
    """Return the first five names in one text, and '...' if there are more."""
    return "; ".join(names[:5]) + ("; ..." if len(names) > 5 else "")


def _is_close(name: str, other: str) -> bool:
    """Return whether a name may be meant as another one.

    At most a third of its letters are wrong, and one of a short name. Or both begin alike: by four letters or more, and
    by three quarters of the shorter name.
    """
    shorter, longer = sorted((len(name), len(other)))
    if _slips(name, other) <= min(max(1, longer // 3), max(0, shorter - 1)):
        return True
    alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(name, other)))
    return alike >= 4 and 4 * alike >= 3 * shorter


def _slips(name: str, other: str) -> int:
    """Return the number of slips between two names: letters left out, put in, replaced, or two exchanged."""
    before, row = list[int](), list(range(len(other) + 1))
    for i, letter in enumerate(name):
        older, before, row = before, row, [i + 1]
        for j, wanted in enumerate(other):
            least = min(before[j + 1] + 1, row[j] + 1, before[j] + (letter != wanted))
            if i and j and letter == other[j - 1] and name[i - 1] == wanted:
                least = min(least, older[j - 1] + 1)
            row.append(least)
    return row[-1]


def unknown_names(kind: str, hints: Mapping[str, str]) -> str:
    """Return the part of a message that names unknown keys or sections, and ends with `;` or `?`.

    kind: the word for such a name, in the singular.
    hints: what `nearest` says to each name, by name.
    """
    if len(hints) == 1:
        ((name, hint),) = hints.items()
        return f"unknown {kind} '{name}'{hint}"
    named = [f"'{name}'{f' ({hint[2:]})' if len(hint) > 1 else ''}" for name, hint in hints.items()]
    return f"{len(named)} unknown {kind}s: {', '.join(named)};"


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command-line program; turn expected errors into one sentence and an exit status.

    Returns the command's own status, 0 for None, 2 for UsageError. 1 for DataError, OSError, a missing optional
    package and too little memory. 130 after Ctrl-C. 141 where the reader of the output has ended, as `head` does.
    Any other error is a bug and keeps its traceback.
    """
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if _output_is_read():
            print(f"error: {error}", file=sys.stderr)
            return 1
        # What is left in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_file_trouble(error)}", file=sys.stderr)
        return 1
    except (DataError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        shortage = memory_shortage(error)
        if not shortage:
            raise
        print(f"error: {shortage}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _file_trouble(error: OSError) -> str:
    """Return the sentence about an error of the system, which names the file where the error does."""
    if error.errno is None or error.strerror is None:
        return str(error)
    if error.filename is None:
        return f"the output, or a file that the system does not name: {error.strerror}; check the disk and the rights"
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else error.filename
    return f"{name} cannot be used ({error.strerror}); check this path, its rights and the disk"


def memory_shortage(error: BaseException) -> str:
    """Return the sentence about an error that says that memory is used up; empty for any other error.

    error: a MemoryError, or the error of torch, of a GPU's memory or of the machine's.
    """
    text = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError" or "CUDA error: out of memory" in text
    if not on_gpu and not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in text:
        return ""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)|[Uu]nable to allocate ([\d.]+ \w+)", text)
    size = asked[1] or asked[2] if asked else ""
    if size.endswith(" bytes"):  # the machine's memory, as torch says it
        size = f"{int(size.split()[0]) / 2**30:,.2f} GiB"
    size = f": {size} more did not fit" if size else ""
    return (
        f"the memory of {'the GPU' if on_gpu else 'this machine'} is used up{size}; take smaller batches "
        "(--training.batch_size, --training.eval_batch_size or --batch-size), cut each training step into parts with "
        "--training.accumulate, or end other programs that use this memory"
    )


def _output_is_read() -> bool:
    """Return whether another program still reads the standard output."""
    try:
        print(end="\n", flush=True)
    except BrokenPipeError:
        return False
    return True
