"""Limits of memory and cores are those of control groups of both versions, and of SLURM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numba
import pytest
import torch

from debeton.system import cores, distributed, jit
from debeton.system.cores import core_limits, cores_of_process, local_processes, usable_cores
from debeton.system.memory import memory_left, memory_limits

FREE = 4000 * 2**20  # bytes that the machine has available
V2_MOUNT = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
HYBRID_MOUNTS = V1_MOUNTS + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def system(folder: Path, own: str, mounts: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Make (proc, cgroups) of a system. own: /proc/self/cgroup; files: texts by path below /sys/fs/cgroup."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {8000 * 1024} kB\nMemFree: 7 kB\nMemAvailable:  {FREE // 1024} kB\n")
    (proc / "self/status").write_text("Name:\tpython\nVmRSS:\t    2048 kB\nThreads:\t1\n")
    (proc / "self/cgroup").write_text(own)
    if mounts:
        (proc / "self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/root rw\n" + mounts)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def v2(folder: str, limit: object, used: int, inactive: int = 0, **others: object) -> dict[str, str]:
    more = {f"{folder}/memory.{name}": f"{value}\n" for name, value in others.items()}
    stat = f"anon 1\nfile {inactive + 50}\nactive_file 50\ninactive_file {inactive}\n"
    files = {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}
    return {**{f"{folder}/{name}": text for name, text in files.items()}, **more}


def v1(folder: str, limit: int, used: int, inactive: int = 0, hierarchical: int = 2**63 - 4096) -> dict[str, str]:
    stat = f"cache 5\ninactive_file 3\nhierarchical_memory_limit {hierarchical}\ntotal_inactive_file {inactive}\n"
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
    return {f"memory/{folder}/{name}": f"{text}\n" for name, text in files.items()}


NO_LIMIT = 2**63 - 4096
OWN_V1 = "9:memory:/slurm/job_7/step_0\n4:cpu,cpuacct:/slurm/job_7/step_0\n0::/\n"
MEMORY = {
    "no group": ("", "", {}, FREE),
    "no limit": ("0::/job\n", V2_MOUNT, v2("job", "max", 70), FREE),
    "own limit; only inactive file pages are free": ("0::/job\n", V2_MOUNT, v2("job", 1000, 700, 100), 400),
    "memory.high": ("0::/job\n", V2_MOUNT, v2("job", 1000, 700, high=900), 200),
    "memory.high max": ("0::/job\n", V2_MOUNT, v2("job", 1000, 700, high="max"), 300),
    "the limit of the group two above": (
        "0::/slurm/job/step\n",
        V2_MOUNT,
        v2("slurm", 5000, 4990, 40) | v2("slurm/job", "max", 80) | v2("slurm/job/step", 1000, 60),
        50,
    ),
    "more in use than the limit": ("0::/job\n", V2_MOUNT, v2("job", 1000, 1200), 0),
    "mounts are not listed": ("0::/job\n", "", v2("job", 1000, 700), 300),
    "the container's group is the root of its mount": ("0::/\n", V2_MOUNT, v2(".", 1000, 700), 300),
    "the named group is the root of the mount": (
        "0::/docker/f00/inner\n",
        V2_MOUNT.replace("{root}", "/docker/f00"),
        v2(".", 9000, 700) | v2("inner", 1000, 700),
        300,
    ),
    "the named group cannot be seen": ("0::/kubepods/pod1/c2\n", V2_MOUNT, v2(".", 1000, 700), 300),
    "the group lies outside of the namespace": ("0::/../sibling\n", V2_MOUNT, v2(".", 1000, 700), 300),
    "version 1": (OWN_V1, V1_MOUNTS, v1("slurm/job_7/step_0", NO_LIMIT, 9) | v1("slurm/job_7", 1000, 800, 60), 260),
    "version 1, limit of a group that cannot be seen": (OWN_V1, V1_MOUNTS, v1(".", NO_LIMIT, 800, 60, 1000), 260),
    "version 1 without listed mounts": (OWN_V1, "", v1("slurm/job_7", 1000, 800), 200),
    "hybrid": (OWN_V1, HYBRID_MOUNTS, v1("slurm", 1000, 800) | {"unified/cgroup.procs": "1\n"}, 200),
    "unreadable numbers": ("0::/job\n", V2_MOUNT, v2("job", 1000, 700) | {"job/memory.current": "?\n"}, FREE),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_left_is_the_least_that_any_limit_leaves(case: str, tmp_path: Path):
    own, mounts, files, expected = MEMORY[case]
    proc, cgroups = system(tmp_path, own, mounts.replace("{root}", "/"), files)
    assert memory_left(proc, cgroups, {}) == expected


RSS = 2 * 2**20
SLURM_MEMORY = [
    ({"SLURM_MEM_PER_NODE": "100"}, 100 * 2**20 - RSS),
    ({"SLURM_MEM_PER_NODE": "100", "SLURM_TASKS_PER_NODE": "4(x2),2"}, 25 * 2**20 - RSS),
    ({"SLURM_MEM_PER_NODE": "100", "SLURM_TASKS_PER_NODE": "4", "SLURM_STEP_TASKS_PER_NODE": "2"}, 50 * 2**20 - RSS),
    ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "3"}, 300 * 2**20 - RSS),
    ({"SLURM_MEM_PER_GPU": "100", "SLURM_GPUS_ON_NODE": "2"}, 200 * 2**20 - RSS),
    ({"SLURM_MEM_PER_NODE": "0"}, FREE),  # all of the node's memory
    ({"SLURM_MEM_PER_CPU": "100"}, FREE),  # of an unknown number
    ({"SLURM_MEM_PER_NODE": "9000"}, FREE),
    ({"SLURM_MEM_PER_NODE": "1"}, 0),
]


@pytest.mark.parametrize(("environ", "expected"), SLURM_MEMORY)
def test_memory_that_slurm_gives_a_task_is_a_limit(environ: dict[str, str], expected: int, tmp_path: Path):
    proc, cgroups = system(tmp_path, "", "", {})
    assert memory_left(proc, cgroups, environ) == expected


def test_the_origin_of_the_lowest_memory_limit_is_known(tmp_path: Path):
    proc, cgroups = system(tmp_path, "0::/job\n", V2_MOUNT.replace("{root}", "/"), v2("job", 2000, 700, high=1000))
    lowest = min(memory_limits(proc, cgroups, {}), key=lambda limit: limit.limit)
    assert lowest.origin == f"memory.high of the control group {cgroups / 'job'}"
    assert (lowest.limit, lowest.left) == (1000, 300)


def test_memory_left_is_zero_where_the_system_does_not_say(tmp_path: Path):
    assert memory_left(tmp_path / "proc", tmp_path / "cgroup", {"SLURM_MEM_PER_NODE": "100"}) == 0
    assert memory_left() > 2**20


QUOTA_V1 = {"cpu.cfs_quota_us": "250000\n", "cpu.cfs_period_us": "100000\n"}
CORES = {
    "no quota": ("0::/job\n", V2_MOUNT, {"job/cpu.max": "max 100000\n"}, {}, 16),
    "a quota": ("0::/job\n", V2_MOUNT, {"job/cpu.max": "400000 100000\n"}, {}, 4),
    "a part of a core counts": ("0::/job\n", V2_MOUNT, {"job/cpu.max": "150000 100000\n"}, {}, 2),
    "less than a core": ("0::/job\n", V2_MOUNT, {"job/cpu.max": "5000 100000\n"}, {}, 1),
    "the quota of the group above": (
        "0::/pod/c\n",
        V2_MOUNT,
        {"pod/c/cpu.max": "800000 100000\n", "pod/cpu.max": "30000 10000\n"},
        {},
        3,
    ),
    "a container's own root": ("0::/\n", V2_MOUNT, {"cpu.max": "200000 100000\n"}, {}, 2),
    "version 1": (OWN_V1, V1_MOUNTS, {f"cpu,cpuacct/slurm/{name}": text for name, text in QUOTA_V1.items()}, {}, 3),
    "version 1, not listed": (OWN_V1, "", {f"cpu/{name}": text for name, text in QUOTA_V1.items()}, {}, 3),
    "version 1, no quota": (OWN_V1, V1_MOUNTS, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, {}, 16),
    "SLURM": ("", "", {}, {"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "12"}, 6),
    "SLURM's tasks": ("", "", {}, {"SLURM_CPUS_ON_NODE": "12", "SLURM_TASKS_PER_NODE": "5"}, 2),
    "more than there are": (
        "0::/job\n",
        V2_MOUNT,
        {"job/cpu.max": "9900000 100000\n"},
        {"SLURM_CPUS_PER_TASK": "64"},
        16,
    ),
}


@pytest.mark.parametrize("case", CORES)
def test_cores_are_the_least_of_machine_quota_and_slurm(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "_affinity", lambda: 16)
    own, mounts, files, environ, expected = CORES[case]
    proc, cgroups = system(tmp_path, own, mounts.replace("{root}", "/"), files)
    assert min(limit.cores for limit in core_limits(proc, cgroups, environ)) == expected


def test_the_processes_of_a_machine_divide_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 7)
    for environ, processes, share in (({}, 1, 7), ({"LOCAL_WORLD_SIZE": "3"}, 3, 2), ({"LOCAL_WORLD_SIZE": "9"}, 9, 1)):
        assert (local_processes(environ), cores_of_process(environ)) == (processes, share)


def test_threads_follow_the_quota_unless_they_are_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    monkeypatch.setattr(jit, "cores_of_process", lambda: 3)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert [jit.threads_for(given) for given in (None, 0, 2, 5, 20)] == [3, 3, 2, 5, 8]
    monkeypatch.setenv("NUMBA_NUM_THREADS", "8")
    assert jit.threads_for(None) == 8


def test_torch_takes_no_more_threads_than_the_quota_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "cores_of_process", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    distributed.pick_device("cpu")
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    distributed.pick_device("cpu")
    assert torch.get_num_threads() == 1


def test_this_machine_has_a_core():
    assert usable_cores() >= 1
