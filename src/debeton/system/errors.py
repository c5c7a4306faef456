"""The two errors users meet, and what the command line does with them.

Every message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UsageError(ValueError):
    """The command, the configuration or an argument is wrong: exit status 2."""


class DataError(ValueError):
    """A file or a data set is not what it should be: exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, or `;`: what stands between what is wrong and what is known."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ";"


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command-line program; turn expected errors into one sentence and an exit status.

    Returns: 0, the command's own status, 2 for UsageError, 1 for DataError, OSError and a
    missing optional package. Anything else is a bug and keeps its traceback.
    """
    try:
        return command() or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (DataError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
