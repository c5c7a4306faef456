"""pyproject.toml, requirements.lock and environment.yml say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from debeton.tools import doctor

ROOT = Path(__file__).resolve().parents[2]

# What conda itself brings in place of pip's package, and by which name.
FROM_CONDA = {"opencv-python-headless": "opencv", "tbb": "tbb", "tcmlib": "tbb"}


def read_lock() -> list[tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(entry.split(" --hash=")[0]), re.findall(r"--hash=(\S+)", entry)) for entry in entries]


def read_project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_conda() -> tuple[dict[str, str], list[Requirement]]:
    """conda's own packages (name to the rest of the entry) and what it leaves to pip."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    own = dict(re.match(r"([\w-]+)(.*)", entry).groups() for entry in dependencies if isinstance(entry, str))
    (left_to_pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return own, [Requirement(entry) for entry in left_to_pip]


def pins(requirements: list[Requirement]) -> set[str]:
    """`name==version ; marker`, spelt one way."""
    return {f"{canonicalize_name(r.name)}{r.specifier}{f' ; {r.marker}' if r.marker else ''}" for r in requirements}


RUNTIME = [Requirement(entry) for entry in read_project()["project"]["dependencies"]]
EXTRAS = read_project()["project"]["optional-dependencies"]
LOCKED_EXTRAS = [Requirement(entry) for extra in ("dev", "gpu") for entry in EXTRAS[extra]]


def test_every_locked_package_is_pinned_with_hashes():
    for requirement, hashes in read_lock():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "pyproject.toml"])
def test_no_file_names_an_index_or_an_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--[a-z-]*index[a-z-]*|--find-links|--trusted-host)\b", text, re.MULTILINE)


@pytest.mark.parametrize("wanted", RUNTIME + LOCKED_EXTRAS, ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_the_project(wanted):
    locked = [entry for entry, _ in read_lock() if canonicalize_name(entry.name) == canonicalize_name(wanted.name)]
    assert locked, f"{wanted.name} is not in requirements.lock; lock again (CONTRIBUTING.md, 'Dependencies')"
    for entry in locked:
        (specifier,) = entry.specifier
        assert wanted.specifier.contains(specifier.version), f"{entry} does not satisfy {wanted}"


@pytest.mark.parametrize("wanted", RUNTIME, ids=lambda requirement: requirement.name)
def test_conda_has_every_runtime_dependency(wanted):
    own, left_to_pip = read_conda()
    name = canonicalize_name(wanted.name)
    assert name in {canonicalize_name(entry.name) for entry in left_to_pip} or FROM_CONDA.get(name) in own


def test_conda_leaves_to_pip_exactly_the_locked_versions():
    _, left_to_pip = read_conda()
    locked = pins([entry for entry, _ in read_lock() if canonicalize_name(entry.name) not in FROM_CONDA])
    missing, stale = sorted(locked - pins(left_to_pip)), sorted(pins(left_to_pip) - locked)
    assert (missing, stale) == ([], []), f"environment.yml: put in {missing}; take out {stale}"


def test_conda_brings_what_ffcv_compiles_against():
    own, _ = read_conda()
    assert {"python", "pip", "cxx-compiler", "pkg-config", "libjpeg-turbo", "opencv", "tbb"} == set(own)


def test_every_file_names_the_same_versions_of_python():
    supported = Requirement(f"python{read_project()['project']['requires-python']}").specifier
    versions = [f"3.{minor}" for minor in range(30) if supported.contains(f"3.{minor}.0")]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    own, _ = read_conda()
    assert Requirement(f"python{own['python']}").specifier == supported
    assert [".".join(map(str, version)) for version in doctor.PYTHONS] == [versions[0], versions[-1]]
    (in_setup,) = re.findall(r"^VERSIONS=\((.*?)\)", (ROOT / "scripts" / "setup.sh").read_text(), re.MULTILINE)
    assert sorted(in_setup.split()) == versions
    assert read_project()["tool"]["ruff"]["target-version"] == "py311"
    assert read_project()["tool"]["mypy"]["python_version"] == versions[0]


def test_the_lock_was_made_by_the_documented_command():
    command = "uv pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11"
    assert command in (ROOT / "requirements.lock").read_text()
    assert command in (ROOT / "CONTRIBUTING.md").read_text()
