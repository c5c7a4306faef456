"""A command whose reader has ended, such as `debeton list models | head -1`."""

from __future__ import annotations

import subprocess
import sys

CODE = "import sys; from debeton.system.errors import run_command; sys.exit(run_command({command}))"
PRINTS = "lambda: [print('x' * 100) for _ in range(10000)] and 0"


def test_it_ends_without_a_word():
    words = [sys.executable, "-c", CODE.format(command=PRINTS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "x" * 100 + "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + 13


def test_another_broken_pipe_is_an_error():
    raises = "lambda: (_ for _ in ()).throw(BrokenPipeError(32, 'Broken pipe'))"
    done = subprocess.run([sys.executable, "-c", CODE.format(command=raises)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 32] Broken pipe\n")
