"""The table of `--doctor`: everything that debeton needs, its state, and the command that repairs it.

Importing this module needs the standard library alone. A package that is missing or broken is reported and never
raises an error, because each import happens inside its own check.
"""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from debeton.system.cores import core_limits
from debeton.system.memory import memory_limits
from debeton.system.project import PACKAGE, checkout, presets_folder
from debeton.system.tbb import load_packaged_tbb

# 8 x 16 pixels as a JPEG of 290 bytes: the left half (200, 60, 20), the right half (20, 60, 200), each within 2.
TINY_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5a"
    "YVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAAR"
    "CAAIABADAREAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAABf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/xAAWAQEBAQAAAAAAAAAAAAAAAAAG"
    "BQf/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwAxGKhbRQN//9k="
)
PYTHONS = (3, 11), (3, 14)  # the oldest and the newest, as in pyproject.toml
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the table.

    name: of the thing that is checked.
    ok: whether it is as it should be.
    detail: the version, the path or the error.
    fix: the command that repairs it; '' if there is none.
    needed: whether debeton cannot do without it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Package:
    """A package by the name it is imported by and the name it is installed by.

    needed: whether debeton cannot do without it.
    locked: whether it is in requirements.lock, so that the set-up installs it.
    """

    module: str
    distribution: str
    needed: bool = True
    locked: bool = True  # in requirements.lock, so that the set-up installs it


PACKAGES = (
    Package("torchvision", "torchvision"),
    Package("ffcv", "ffcv"),
    Package("numba", "numba"),
    Package("llvmlite", "llvmlite"),
    Package("numpy", "numpy"),
    Package("cv2", "opencv-python-headless"),
    Package("PIL", "pillow"),
    Package("fastargs", "fastargs"),
    Package("yaml", "pyyaml"),
    Package("sklearn", "scikit-learn"),
    Package("pandas", "pandas"),
    Package("matplotlib", "matplotlib"),
    Package("rich", "rich"),
    Package("tqdm", "tqdm"),
    Package("tensorboard", "tensorboard"),
    Package("diffusers", "diffusers"),
    Package("transformers", "transformers"),
    Package("wandb", "wandb", needed=False, locked=False),
)


def diagnose() -> list[Check]:
    """Check this machine and this interpreter. It takes some seconds, because it imports every package."""
    torch_check, on_gpu = check_torch()
    checks = [check_debeton(), check_python(), check_platform(), check_hardware(), torch_check]
    checks += [check_package(package) for package in PACKAGES]
    checks.append(check_package(Package("cupy", "cupy-cuda13x", needed=on_gpu)))
    checks += [check_jpeg(), check_resize(), check_pixels(), check_threading_layer(), check_numba_cache()]
    checks.append(check_space("free space here", Path.cwd(), GIB, "df -h . # then make room", needed=True))
    shm = Path("/dev/shm")
    checks.append(check_space("free space in /dev/shm", shm, GIB // 4, f"mount -o remount,size=2G {shm}", needed=False))
    return checks


def print_doctor(checks: Sequence[Check]) -> int:
    """Print the table and the commands that repair what is missing.

    Returns 0 if everything needed is there, else 1.
    """
    rows = [(_state(check), check.name, check.detail) for check in checks]
    try:
        _print_rich(rows)
    except ImportError:
        width = max(len(name) for _, name, _ in rows)
        for state, name, detail in rows:
            print(f"{state:<8}  {name:<{width}}  {detail}")
    # The commands stand outside the table, which would break them over lines. One command may repair several packages.
    commands: dict[str, list[str]] = {}
    for check in checks:
        if check.fix and not check.ok:
            commands.setdefault(check.fix, []).append(check.name if check.needed else f"{check.name} (optional)")
    for command, names in commands.items():
        print(f"{', '.join(names)}:\n  {command}")
    missing = [check.name for check in checks if check.needed and not check.ok]
    print(f"not ready: {', '.join(missing)}" if missing else "ready: everything needed is here")
    return 1 if missing else 0


def _state(check: Check) -> str:
    """Return the first column of a check: 'ok', 'MISSING' or 'optional'."""
    return "ok" if check.ok else "MISSING" if check.needed else "optional"


def _print_rich(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print the rows (state, name, detail) in colour."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "MISSING": "bold red", "optional": "yellow"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for state, name, detail in rows:
        table.add_row(Text(state, colours[state]), Text(name), Text(detail))
    Console(highlight=False).print(table)


# --- commands that repair a package ---------------------------------------------------------


def _reinstall(distributions: str) -> str:
    """Return the command that brings this environment back to the locked packages, or that makes one with them.

    distributions: the packages to install again where debeton is an installed package, and there is no lock.
    """
    root = checkout()
    if root is None:
        return _install(f"--force-reinstall {distributions}")
    venv, setup = root / ".venv", f"bash {_shell(root / 'scripts' / 'setup.sh')}"
    if os.environ.get("CONDA_PREFIX") and Path(sys.prefix) == Path(os.environ["CONDA_PREFIX"]):
        return f"conda env update -f {_shell(root / 'environment.yml')}"
    if Path(sys.prefix) == venv:
        return f"rm -rf {_shell(venv)} && {setup}"
    return f"{setup} && source {_shell(venv / 'bin' / 'activate')}"


def _install(distribution: str) -> str:
    """Return the command that adds one package to this environment, or to .venv if this is the system's Python."""
    root, system = checkout(), sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ
    python = _shell(root / ".venv" / "bin" / "python" if root and system else sys.executable)
    project_uv = root / ".uv" / "bin" / "uv" if root else None
    uv = shutil.which("uv") or (project_uv if project_uv and project_uv.exists() else None)
    return (
        f"{_shell(uv)} pip install --python {python} {distribution}"
        if uv
        else f"{python} -m pip install {distribution}"
    )


def _shell(path: str | Path) -> str:
    """Return `path` as one word of a shell command, relative to the current folder if it lies below it."""
    path = Path(path)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


# --- the checks -------------------------------------------------------------------------------


def _import(module: str) -> ModuleType:
    """Import a module by name; tests replace this function."""
    return importlib.import_module(module)


def _version(distribution: str, module: ModuleType | None = None) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(distribution)  # ffcv 1.0.2 calls itself 0.0.3rc1 in __version__
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "of unknown version"))


def _one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _attempt(name: str, fix: str, look: Callable[[], str]) -> Check:
    """Run `look`. Its result is the state of the check, and any error makes the check fail."""
    try:
        return Check(name, True, look())
    except Exception as error:  # a broken package may raise anything on import: OSError, RuntimeError, ...
        return Check(name, False, _one_line(error), fix)


def check_debeton() -> Check:
    """Return the version of the package, its folder, and the folder of the project's configuration files."""
    return Check("debeton", True, f"{_version('debeton')} in {PACKAGE}, presets in {presets_folder()}")


def check_python() -> Check:
    """Check for a Python of 3.11 to 3.14."""
    detail = f"{platform.python_version()} at {sys.executable}"
    return Check("Python", PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1], detail, _reinstall("debeton"))


def check_platform() -> Check:
    """Check for Linux, because FFCV reads by libc's pread."""
    return Check("platform", platform.system() == "Linux", platform.platform(), "run on Linux (on Windows: in WSL 2)")


def check_hardware() -> Check:
    """Show the cores and the memory that this process may use, and the origin of each limit."""
    fewest = min(core_limits(), key=lambda limit: limit.cores)
    parts = [f"{fewest.cores} cores ({fewest.origin})"]
    if limits := memory_limits():
        lowest, least = min(limits, key=lambda limit: limit.limit), min(limits, key=lambda limit: limit.left)
        parts.append(f"{lowest.limit / GIB:.1f} GiB ({lowest.origin})")
        of_other = "" if least.origin == lowest.origin else f" ({least.origin})"
        parts.append(f"{max(0, least.left) / GIB:.1f} GiB of memory left{of_other}")
    return Check("cores and memory", True, ", ".join(parts))


def check_torch() -> tuple[Check, bool]:
    """Check that torch can be imported; return also whether it sees a GPU."""
    try:
        torch: Any = _import("torch")
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return Check("torch", True, f"{torch.__version__}, {build}, {', '.join(devices) or 'no GPU'}"), bool(devices)
    except Exception as error:
        return Check("torch", False, _one_line(error), _reinstall("torch")), False


def check_package(package: Package) -> Check:
    """Check that a package can be imported, and show its version."""
    name = package.distribution
    try:
        return Check(name, True, _version(name, _import(package.module)), needed=package.needed)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == package.module
        detail = "not installed" if absent else _one_line(error)
        return Check(name, False, detail, _reinstall(name) if package.locked else _install(name), package.needed)


def check_jpeg() -> Check:
    """Check that FFCV's compiled library decodes a JPEG to the right colours."""

    def look() -> str:
        np: Any = _import("numpy")
        libffcv: Any = _import("ffcv.libffcv")
        source = np.frombuffer(TINY_JPEG, np.uint8)
        image = np.zeros((8, 16, 3), np.uint8)
        status = libffcv.imdecode(source, image, 8, 16, 8, 16)
        expected = np.where(np.arange(16)[None, :, None] < 8, (200, 60, 20), (20, 60, 200))
        if status != 0 or abs(image - expected).max() > 4:
            raise RuntimeError(f"decoded wrongly: status {status}, corner pixel {image[0, 0].tolist()}")
        return "decodes"

    return _attempt("FFCV's turbojpeg", _reinstall("ffcv"), look)


def check_resize() -> Check:
    """Check that FFCV's compiled library resizes by area averages."""

    def look() -> str:
        np: Any = _import("numpy")
        libffcv: Any = _import("ffcv.libffcv")
        source = np.zeros((4, 4, 3), np.uint8)
        source[:, 2:] = 100
        image = np.zeros((2, 2, 3), np.uint8)
        libffcv.resize_crop(source, 0, 4, 0, 4, image)
        if image[..., 0].tolist() != [[0, 100], [0, 100]]:
            raise RuntimeError(f"resized wrongly: {image[..., 0].tolist()}")
        return "resizes"

    return _attempt("FFCV's OpenCV", _reinstall("ffcv"), look)


def check_pixels() -> Check:
    """Check that pixels.c is compiled; without it images take the slower way through FFCV's functions."""
    name = "the loader's own decoder"
    try:
        pixels: Any = _import("debeton.data.loader.pixels")
    except Exception as error:
        return Check(name, False, _one_line(error), _reinstall("debeton"), needed=False)
    if pixels.AVAILABLE:
        return Check(name, True, "compiled", needed=False)
    fix = "apt-get install -y g++ libjpeg-dev"
    return Check(name, False, f"not compiled, FFCV's is used: {pixels.MISSING}", fix, needed=False)


def check_threading_layer() -> Check:
    """Check which threading layer a parallel kernel of numba runs on.

    `workqueue` aborts the process when two loaders run at once. `omp` only kills forked workers. `tbb` does neither.
    """
    name = "numba's threading layer"
    try:
        layer = _run_parallel_kernel()
    except Exception as error:
        return Check(name, False, _one_line(error), _reinstall("numba tbb"))
    fix = _reinstall("tbb") if load_packaged_tbb() else "apt-get install -y libtbb12"
    return Check(name, layer == "tbb", layer, fix, needed=layer not in ("tbb", "omp"))


def _run_parallel_kernel() -> str:
    """Run a parallel sum in numba and return the name of its threading layer."""
    load_packaged_tbb()
    numba: Any = _import("numba")
    np: Any = _import("numpy")
    prange = numba.prange

    def total(values: Any) -> Any:
        result = 0.0
        for i in prange(values.size):
            result += values[i]
        return result

    if numba.njit(parallel=True)(total)(np.ones(1000)) != 1000.0:
        raise RuntimeError("a parallel sum came out wrong")
    return str(numba.threading_layer())


def check_numba_cache() -> Check:
    """Check for a folder where compiled kernels can be kept; without one, every start compiles for seconds."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    folders = [Path(given)] if given else [Path(__file__).parent / "__pycache__", user_cache]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return Check("numba's cache", True, str(folder))
        except OSError:
            continue
    detail = f"cannot write {' or '.join(str(folder) for folder in folders)}"
    fix = f"export NUMBA_CACHE_DIR={shlex.quote(tempfile.gettempdir())}/numba-$USER"
    return Check("numba's cache", False, detail, fix, needed=False)


def check_space(name: str, place: Path, wanted: int, fix: str, *, needed: bool) -> Check:
    """Check that at least `wanted` bytes are free at `place`."""
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(name, False, _one_line(error), fix, needed)
    return Check(name, free >= wanted, f"{free / GIB:.1f} GiB", fix, needed)
