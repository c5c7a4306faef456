"""The project's own files: those of a checkout, or those that an installed package carries.

A checkout has `main.py`, `dataset_configs/` and `scripts/` beside `src/`. A wheel has the package and the presets, as
`debeton/dataset_configs`. Standard library only, so that the doctor can use it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from debeton.system.errors import UsageError, nearest

PACKAGE = Path(__file__).resolve().parents[1]
PRESETS = "dataset_configs"
# The command that each script of a checkout starts.
SCRIPTS = {
    "main.py": "train",
    "writers/write_betons.py": "write-betons",
    "writers/generate_images.py": "generate",
    "scripts/sweep.py": "sweep",
    "scripts/report.py": "report",
    "scripts/evaluate.py": "evaluate",
    "scripts/predict.py": "predict",
    "scripts/captions.py": "captions",
    "scripts/probe.py": "probe",
}


def checkout() -> Path | None:
    """Return the root of the checkout that this package runs from; None for an installed wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "src" and (root / PRESETS).is_dir() else None


def project_root() -> Path:
    """Return the folder that relative paths of studies count from: the checkout, or else the current folder."""
    return checkout() or Path.cwd()


def presets_folder() -> Path:
    """Return the folder of the project's configuration files: the checkout's or the installed package's."""
    root = checkout()
    return (root or PACKAGE) / PRESETS


def preset_names() -> list[str]:
    """Return the presets as --config-file takes them, sorted: 'dominoes', 'methods/dfr', 'studies/quick', ..."""
    folder = presets_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def find_preset(file: str | Path, *, root: Path | None = None, kind: str = "config file", below: str = "") -> Path:
    """Return the file that a command names: a path that exists, or else a preset of the project.

    file: a path, or a preset as 'dominoes', 'methods/dfr.yaml' or 'dataset_configs/dominoes.yaml'.
    root: the folder that a relative path counts from; default: the current one.
    kind: the noun of the error message.
    below: a folder of presets whose names need not say it, as 'studies'.
    UsageError where there is neither a file nor a preset.
    """
    path = Path(file) if root is None else root / file
    if path.exists():
        return path
    folder = presets_folder()
    name = Path(file).as_posix().removeprefix(f"{PRESETS}/").removesuffix(".yaml")
    for preset in (folder / f"{name}.yaml", folder / below / f"{name}.yaml"):
        if not Path(file).is_absolute() and preset.is_file():
            return preset
    raise UsageError(
        f"no {kind} at {file}{nearest(name, preset_names())} the project's are in {folder}, and 'debeton list presets' "
        "names them"
    )


def program(script: str, root: Path) -> list[str]:
    """Return the words that start a script of the project: the file below `root`, or else `-m debeton COMMAND`."""
    if script in SCRIPTS and not (root / script).is_file():
        return [sys.executable, "-m", "debeton", SCRIPTS[script]]
    return [sys.executable, str(root / script)]
