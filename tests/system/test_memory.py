"""Freed memory that a process keeps: the system need not clear its pages again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from debeton.system.distributed import pick_device

pick_device("cpu")
sizes = [1 << 25] * 100  # bytes: each is larger than any that glibc keeps by itself
torch.ones(sizes[0], dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in sizes:
    torch.ones(size, dtype=torch.uint8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / sum(sizes))
"""


def share_of_new_pages(**environ: str) -> float:
    """Return the share of the pages of freed and allocated tensors that the system gave anew."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env={**os.environ, **environ}
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_on_a_cpu_use_freed_memory_again_unless_the_environment_says_how():
    assert share_of_new_pages() < 0.3
    assert share_of_new_pages(MALLOC_ARENA_MAX="8") > 0.9
