"""The two errors that users meet, and the exit status that the command line gives them.

Every message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UsageError(ValueError):
    """An error in the command, the configuration or an argument: exit status 2."""


class DataError(ValueError):
    """An error in a file or a data set: exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the middle of a message: `; did you mean 'x'?` if a known name is close, else `;`.

    It stands between the wrong name and the list of known names.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ";"


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command-line program; turn expected errors into one sentence and an exit status.

    Returns the command's own status, 0 for None, 2 for UsageError. 1 for DataError, OSError and a missing optional
    package. 130 after Ctrl-C. Any other error is a bug and keeps its traceback.
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
