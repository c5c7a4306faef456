"""doctor.py names what is missing and the command that repairs it, and never crashes itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from debeton.tools import doctor
from debeton.tools.doctor import Check, Package, diagnose, print_doctor

ROOT = Path(doctor.__file__).resolve().parents[3]


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make the import of these modules raise ModuleNotFoundError, as if they were not installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def test_this_environment_is_ready(checks: dict[str, Check]):
    assert print_doctor(list(checks.values())) == 0


@pytest.mark.parametrize("name", ["Python", "torch", "ffcv", "FFCV's turbojpeg", "FFCV's OpenCV", "numba's cache"])
def test_a_part_that_works_is_ok(checks: dict[str, Check], name: str):
    assert checks[name].ok, checks[name]


def test_a_parallel_kernel_runs_on_tbb(checks: dict[str, Check]):
    assert checks["numba's threading layer"].detail == "tbb"


def test_ffcv_is_reported_by_its_installed_version_not_its_dunder(checks: dict[str, Check]):
    assert checks["ffcv"].detail == "1.0.2"


def test_a_missing_needed_package_is_named_with_its_command(monkeypatch, capsys):
    hide(monkeypatch, "ffcv", "ffcv.libffcv")
    assert print_doctor(diagnose()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["MISSING", "ffcv", "not", "installed"] for line in lines)
    assert any("scripts/setup.sh" in line for line in lines)
    assert lines[-1] == "not ready: ffcv, FFCV's turbojpeg, FFCV's OpenCV"


def test_a_missing_optional_package_keeps_status_zero(monkeypatch, capsys):
    hide(monkeypatch, "wandb")
    assert print_doctor([doctor.check_package(Package("wandb", "wandb", needed=False, locked=False))]) == 0
    output = capsys.readouterr().out
    assert "wandb (optional):" in output
    assert "install" in output.split("wandb (optional):")[1]


def test_missing_torch_and_numba_are_reported_not_raised(monkeypatch):
    hide(monkeypatch, "torch", "numba")
    check, on_gpu = doctor.check_torch()
    assert (check.ok, check.needed, on_gpu) == (False, True, False)
    assert not doctor.check_threading_layer().ok


def test_a_package_that_breaks_on_import_shows_its_error(monkeypatch):
    def broken(module: str):
        raise OSError("libopencv_core.so.406: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "_import", broken)
    check = doctor.check_package(Package("ffcv", "ffcv"))
    assert not check.ok
    assert check.detail == "OSError: libopencv_core.so.406: cannot open shared object file"


def test_cupy_is_needed_only_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "check_torch", lambda: (Check("torch", True, "2"), True))
    assert next(check for check in diagnose() if check.name.startswith("cupy")).needed
    monkeypatch.setattr(doctor, "check_torch", lambda: (Check("torch", True, "2"), False))
    assert not next(check for check in diagnose() if check.name.startswith("cupy")).needed


def test_what_pyproject_requires_is_needed_and_the_rest_is_optional():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    required = {re.match(r"[\w-]+", entry)[0] for entry in dependencies} | {"llvmlite"}  # which numba requires
    for package in doctor.PACKAGES:
        assert package.needed is package.locked is (package.distribution in required), package


def test_an_installed_package_names_what_pip_installs_again(monkeypatch):
    monkeypatch.setattr(doctor, "checkout", lambda: None)
    hide(monkeypatch, "ffcv")
    fix = doctor.check_package(Package("ffcv", "ffcv")).fix
    assert "pip install" in fix
    assert fix.endswith("--force-reinstall ffcv")


@pytest.mark.parametrize(
    ("layer", "ok", "needed"), [("tbb", True, False), ("omp", False, False), ("workqueue", False, True)]
)
def test_only_the_threading_layer_that_aborts_makes_the_machine_unfit(monkeypatch, layer, ok, needed):
    monkeypatch.setattr(doctor, "_run_parallel_kernel", lambda: layer)
    check = doctor.check_threading_layer()
    assert (check.ok, check.needed) == (ok, needed)


@pytest.mark.parametrize(("packaged", "words"), [(True, "setup.sh"), (False, "apt-get install -y libtbb12")])
def test_a_packaged_tbb_that_does_not_load_is_installed_again_and_a_missing_one_comes_from_apt(
    monkeypatch, packaged, words
):
    monkeypatch.setattr(doctor, "_run_parallel_kernel", lambda: "omp")
    monkeypatch.setattr(doctor, "load_packaged_tbb", lambda: packaged)
    assert words in doctor.check_threading_layer().fix


def test_an_unwritable_numba_cache_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    check = doctor.check_numba_cache()
    assert not check.ok
    assert check.fix.startswith("export NUMBA_CACHE_DIR=")


def test_a_full_disk_is_reported(tmp_path):
    assert not doctor.check_space("here", tmp_path, 2**80, "make room", needed=True).ok
    assert not doctor.check_space("nowhere", tmp_path / "absent", 1, "make room", needed=True).ok


def test_one_command_that_repairs_several_packages_is_printed_once(capsys):
    print_doctor([Check("a", False, "gone", "mend it"), Check("b", False, "gone", "mend it")])
    output = capsys.readouterr().out
    assert output.count("mend it") == 1
    assert "a, b:" in output


def test_the_table_is_plain_where_rich_is_missing(monkeypatch, capsys):
    hide(monkeypatch, "rich", "rich.console")
    assert print_doctor([Check("Python", True, "3.11"), Check("rich", False, "not installed", "mend it")]) == 1
    assert "ok        Python  3.11" in capsys.readouterr().out


def test_importing_it_takes_the_standard_library_alone():
    code = "import debeton.tools.doctor as d, sys; sys.exit(d.print_doctor([d.Check('Python', True, '3.11')]))"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    base = sys._base_executable  # -S: no site-packages
    done = subprocess.run([base, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
