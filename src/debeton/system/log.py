"""Messages: to the console of the main process, and to the run's log.txt."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

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
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)


def show_progress(setting: str) -> bool:
    """Return whether to draw progress bars: 'on', 'off', or 'auto' for only on a terminal."""
    return setting == "on" or (setting == "auto" and sys.stderr.isatty())
