"""Two processes that stay: whole runs in both at once, with what torchrun would set, and imports paid for once.

As a program it is one of the two: it reads a run a line, a JSON list of its environment and arguments, and answers with
a line that holds the exit status. What runs print goes to a file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.running import ROOT, run


class Pair:
    """`run(args)` is main.py in two gloo processes; folder: where they write what they print."""

    def __init__(self, folder: Path):
        self.logs = [folder / f"rank{rank}.log" for rank in (0, 1)]
        fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **fixed},
            )
            for log in self.logs
        ]

    def run(self, args: Sequence[Any], status: int = 0) -> list[str]:
        """Return what each of the two printed. Fails with it unless both end with this status."""
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        for rank, process in enumerate(self.processes):
            environment = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            assert process.stdin is not None
            process.stdin.write(json.dumps([environment, [str(word) for word in args]]) + "\n")
            process.stdin.flush()
        before = [len(log.read_text()) if log.exists() else 0 for log in self.logs]
        watchdog = threading.Timer(240, self.kill)  # one that fails leaves the other waiting for it
        watchdog.start()
        answers = [process.stdout.readline() for process in self.processes if process.stdout is not None]
        watchdog.cancel()
        said = [log.read_text()[start:] if log.exists() else "" for log, start in zip(self.logs, before, strict=True)]
        assert answers == [f"{status}\n"] * 2, f"the two processes ended with {answers}:\n{said[0]}\n{said[1]}"
        return said

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def close(self) -> None:
        for process in self.processes:
            process.communicate(timeout=60)  # the end of its input is its end


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def serve(log: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        for line in sys.stdin:
            environment, args = json.loads(line)
            os.environ.update(environment)
            answers.write(f"{run(args)}\n")
            answers.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
