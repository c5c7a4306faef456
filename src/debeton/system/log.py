"""Messages: to the console of the main process, and to the run's log.txt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from debeton.system.failed_writes import naming_failed_writes

logger = logging.getLogger("debeton")


def set_up_logging(*, is_main: bool) -> None:
    """Send messages of the main process to standard error, and only warnings of the other processes."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if is_main else logging.WARNING)
    logger.propagate = False


def log_to_file(path: Path) -> None:
    """Append messages with the time to the file `path`; an earlier run's file in this process is closed."""
    close_log_file()
    with naming_failed_writes(path):
        file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings inside the context in the list that is yielded. Nothing goes to the console or a file."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handlers = logger.handlers[:]
    logger.handlers[:] = [Collector(logging.WARNING)]
    try:
        yield messages
    finally:
        logger.handlers[:] = handlers


class _LogFile(logging.FileHandler):
    """A file of messages. Where it cannot be written, a warning says so once, and the work goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logger.removeHandler(self)
        with suppress(OSError):
            self.close()
        logger.warning("warning: %s cannot be written (%s); further messages are not in it", self.baseFilename, error)


def close_log_file() -> None:
    """Close the file of `log_to_file`; nothing where there is none."""
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk; a message that is lost
            handler.close()


def show_progress(setting: str) -> bool:
    """Return whether to draw progress bars: 'on', 'off', or 'auto' for only on a terminal."""
    return setting == "on" or (setting == "auto" and sys.stderr.isatty())
