"""The wheel: it is built without a network, and works from another folder with nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import debeton
from debeton.data.loader import pixels

assert Path(debeton.__file__).is_relative_to(sys.argv[1]), debeton.__file__
images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
spec = debeton.DatasetSpec("noise", ("even", "odd"))
debeton.write_beton(Path("noise_train.beton"), debeton.rows_from_arrays(images, np.arange(32) % 2), spec, "train")
batch = next(iter(debeton.make_loader(debeton.View.whole(debeton.open_beton("noise_train.beton")), 16)))
print(list(batch.image.shape), pixels.library().parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (file,) = folder.glob("debeton-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the wheel, as `pip install --no-deps --target` leaves them."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def outside(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with the installed package, and nothing of the checkout, on its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, *(str(word) for word in words)]
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_data_files_presets_and_the_command_travel_along(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "debeton").rglob("*")}
    package = {name for name in package if (ROOT / "src" / name).is_file() and "__pycache__" not in name}
    presets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dataset_configs").rglob("*.yaml")}
    assert package <= set(names)
    assert {f"debeton/{name}" for name in presets} <= set(names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "debeton = debeton.commands.dispatch:run" in zipfile.ZipFile(wheel).read(entry_points).decode()
    outside_of_it = {name.split("/")[0] for name in names} - {"debeton"}
    assert all(name.endswith(".dist-info") for name in outside_of_it)


@pytest.mark.slow
def test_it_writes_a_beton_and_reads_a_batch_with_its_own_decoder(installed, tmp_path):
    done = outside(installed, tmp_path, "-c", PROGRAM, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[16,", "3,", "8,", "8]", str(installed / "debeton/data/loader/__pycache__")]


@pytest.mark.slow
def test_where_its_folder_cannot_be_written_the_decoder_is_compiled_into_the_users_cache(installed, tmp_path):
    locked = tmp_path / "locked"
    (locked / "debeton").mkdir(parents=True)
    for path in (installed / "debeton").rglob("*"):
        target = locked / path.relative_to(installed)
        if path.is_dir() and path.name != "__pycache__":
            target.mkdir(exist_ok=True)
        elif path.is_file() and "__pycache__" not in path.parts:
            target.write_bytes(path.read_bytes())
    # A file in the place of the folder, as root may write into any.
    (locked / "debeton/data/loader/__pycache__").write_text("")
    done = outside(locked, tmp_path, "-c", PROGRAM, locked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(tmp_path / "cache" / "debeton")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["list"], 0, "The presets are in {presets}."),
        (["sweep", "list"], 0, "quick "),
        (["sweep", "dry-run", "quick", "--raw", "."], 0, "quick"),
        (["doctor"], 0, "ready: everything needed is here"),
        (["train", "--config-file", "dominoes", "--dry-run"], 1, "dominoes_train.beton"),  # settings, and no beton
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_its_commands_find_its_own_presets(installed, tmp_path, words, status, said):
    done = outside(installed, tmp_path, "-m", "debeton", *words)
    assert done.returncode == status, done.stderr
    assert said.format(presets=installed / "debeton" / "dataset_configs") in done.stdout + done.stderr
