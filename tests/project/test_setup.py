"""scripts/setup.sh: what it says where it may not install, and that a finished set-up costs nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    "g++",
    "pkg-config",
    "libopencv-core-dev",
    "libopencv-imgproc-dev",
    "libturbojpeg0-dev",
    "libjpeg-dev",
    "dataset-fashion-mnist",
]
TOOLS = ["bash", "cat", "cut", "dirname", "env", "grep", "readlink", "sha256sum"]


def fingerprint(root: Path) -> str:
    """Return the stamp of a finished set-up of the checkout at `root`: 64 hex digits."""
    project = (root / "pyproject.toml").read_text().rstrip("\n").split("[tool.ruff]")[0]
    texts = [(root / "requirements.lock").read_text(), (root / "scripts" / "setup.sh").read_text(), project]
    return hashlib.sha256(f"{''.join(texts)}\n{root}\n".encode()).hexdigest()


class Checkout:
    """A copy of the files setup.sh reads, and a PATH that holds stubs and nothing that could change this machine."""

    def __init__(self, folder: Path):
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for script in ("setup.sh", "apt.sh"):
            shutil.copy(ROOT / "scripts" / script, self.root / "scripts")
        for file in ("requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / file, self.root)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.stub("id", "echo 1000")
        self.stub("dpkg-query", "exit 1")
        self.stub("apt-get", 'echo "apt-get was called: $*" >&2; exit 1')
        self.stub("uv", 'echo "uv was called: $*" >&2; exit 1')
        self.python = str(Path(sys._base_executable))

    def stub(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def finish(self) -> None:
        """Make the files that a finished set-up leaves behind."""
        (self.root / ".venv" / "bin").mkdir(parents=True)
        (self.root / ".venv" / "bin" / "python").symlink_to(self.python)
        (self.root / ".venv" / ".debeton-setup").write_text(fingerprint(self.root) + "\n")

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it from another folder, without a terminal."""
        return subprocess.run(
            ["bash", str(self.root / "scripts" / "setup.sh")],
            cwd="/",
            env={"PATH": str(self.bin), "PYTHON": self.python, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_without_root_and_sudo_it_names_what_is_missing_and_stops(checkout):
    done = checkout.setup()
    assert done.returncode == 1
    assert f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}\n" in done.stderr
    assert "environment.yml" in done.stderr
    assert "was called" not in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_a_sudo_that_asks_for_a_password_is_no_sudo_without_a_terminal(checkout):
    checkout.stub("sudo", "exit 1")
    done = checkout.setup()
    assert done.returncode == 1
    assert "neither root nor may use sudo" in done.stderr


def test_it_names_only_what_is_missing(checkout):
    checkout.stub("dpkg-query", 'case "$*" in *g++ | *pkg-config) echo "install ok installed" ;; *) exit 1 ;; esac')
    done = checkout.setup()
    assert done.returncode == 1
    assert f"missing and this account is neither root nor may use sudo: {' '.join(PACKAGES[2:])}\n" in done.stderr


def test_a_removed_package_whose_settings_remain_counts_as_missing(checkout):
    checkout.stub("dpkg-query", 'echo "deinstall ok config-files"')
    assert " ".join(PACKAGES) in checkout.setup().stderr


def test_where_there_is_no_dpkg_it_points_to_conda(checkout):
    (checkout.bin / "dpkg-query").unlink()
    done = checkout.setup()
    assert done.returncode == 1
    assert "conda env create -f environment.yml" in done.stderr


def test_a_failing_apt_stops_it(checkout):
    checkout.stub("id", "echo 0")
    done = checkout.setup()
    assert done.returncode == 1
    assert "apt-get could not install" in done.stderr


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo 3.10", "is Python 3.10; debeton runs on 3.11 to 3.14"),
        ("echo 3.15", "is Python 3.15; debeton runs on 3.11 to 3.14"),
        ("exit 1", "does not start"),
    ],
)
def test_a_python_that_cannot_serve_is_refused(checkout, body, expected):
    checkout.stub("other", body)
    done = checkout.setup(PYTHON=str(checkout.bin / "other"))
    assert done.returncode == 1
    assert expected in done.stderr


def test_a_python_without_headers_that_is_not_apts_is_not_blamed_on_apt(checkout):
    script = (
        f'case "$*" in *ensurepip*) exit 1 ;; *_base_executable*) echo {checkout.bin}/other ;; *) echo 3.12 ;; esac'
    )
    checkout.stub("other", script)
    done = checkout.setup(PYTHON=str(checkout.bin / "other"))
    assert done.returncode == 1
    assert "lacks its C headers" in done.stderr
    assert "no apt package adds them" in done.stderr


def test_a_finished_setup_ends_at_once(checkout):
    checkout.finish()
    start = time.perf_counter()
    done = checkout.setup()
    assert (done.returncode, done.stderr) == (0, "")
    assert time.perf_counter() - start < 5


def test_a_changed_lock_is_set_up_again(checkout):
    checkout.finish()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert checkout.setup().returncode == 1  # gets as far as the missing packages


@pytest.mark.parametrize(("line", "status"), [('[project.scripts]\nother = "a:b"\n', 1), ("[tool.mypy]\n", 0)])
def test_a_change_of_what_is_installed_is_set_up_again_and_one_of_the_linters_is_not(checkout, line, status):
    checkout.finish()
    project = checkout.root / "pyproject.toml"
    before, _, after = project.read_text().partition("[tool.ruff]")
    project.write_text(f"{before}{line}[tool.ruff]{after}" if status else f"{before}[tool.ruff]{after}{line}")
    assert checkout.setup().returncode == status


def test_a_checkout_that_was_moved_is_set_up_again(checkout):
    checkout.finish()
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    assert checkout.setup().returncode == 1


def test_a_venv_whose_interpreter_vanished_is_set_up_again(checkout):
    checkout.finish()
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert checkout.setup().returncode == 1


def test_an_unfinished_installation_loses_its_stamp(checkout):
    checkout.finish()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    checkout.stub("dpkg-query", 'echo "install ok installed"')
    for tool in ("mktemp", "mkdir", "rm"):
        (checkout.bin / tool).symlink_to(shutil.which(tool))
    done = checkout.setup()
    assert done.returncode != 0
    assert "uv was called: pip" in done.stderr
    assert not (checkout.root / ".venv" / ".debeton-setup").exists()


def test_this_checkout_is_set_up():
    stamp = ROOT / ".venv" / ".debeton-setup"
    if not stamp.exists() or stamp.read_text().strip() != fingerprint(ROOT):
        pytest.skip("this checkout's .venv was not made by scripts/setup.sh as it stands")
    start = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    subprocess.run(["bash", str(ROOT / "scripts" / "setup.sh")], cwd="/", env=environment, check=True, timeout=120)
    assert time.perf_counter() - start < 5
