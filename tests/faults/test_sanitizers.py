"""pixels.c under the sanitizers for addresses and undefined behaviour: no call reads or writes outside its images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running import ROOT

from debeton.data.loader import pixels

CALLS = 3000
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g"]


def runtime(compiler: str) -> str:
    """Return the compiler's library of the address sanitizer; '' where it has none."""
    try:
        found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    path = found.stdout.strip()
    return path if os.path.isabs(path) else ""


def sanitized(folder: Path, source: Path = pixels.SOURCE) -> tuple[Path, dict[str, str]]:
    """Compile a source with the sanitizers. Return the library, and the environment to use it in."""
    command = pixels.compile_command(folder / "pixels.so", source)
    preload = runtime(command[0])
    if not preload:
        pytest.skip("the compiler has no address sanitizer")
    flags = [word for word in command if word != "-O3"]
    done = subprocess.run(
        [flags[0], *SANITIZE, *flags[1:], f"-I{pixels.SOURCE.parent}"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"the sanitizers cannot be used: {done.stderr.splitlines()[0] if done.stderr else ''}")
    options = {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return folder / "pixels.so", {**os.environ, **options, "PYTHONPATH": paths}


def run(library: Path, environment: dict[str, str], calls: int) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("sanitized_pixels.py")
    words = [sys.executable, str(script), str(library), "0", str(calls)]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not pixels.AVAILABLE, reason=f"pixels.c is not compiled: {pixels.MISSING}")
def test_random_and_damaged_rows_give_no_report(tmp_path):
    done = run(*sanitized(tmp_path), CALLS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > CALLS // 2  # so many images were decoded, not refused


@pytest.mark.skipif(not pixels.AVAILABLE, reason=f"pixels.c is not compiled: {pixels.MISSING}")
def test_a_write_behind_a_block_would_be_reported(tmp_path):
    source = tmp_path / "broken.c"
    text = pixels.SOURCE.read_text()
    source.write_text(text + "\n__attribute__((constructor)) static void beyond(void)\n{\n"
                      "    volatile unsigned char *block = malloc(8);\n    block[8] = 1;\n}\n")  # fmt: skip
    done = run(*sanitized(tmp_path, source), 1)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr or "runtime error: store to address" in done.stderr
