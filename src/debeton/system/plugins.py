"""Plugins: files and modules outside the package that register methods, group finders, data sets and the like.

`--plugins FILE_OR_MODULE` loads one, and so does an installed package with an entry point of the group
`debeton.plugins`. A run folder names the plugins of its run in `plugins.json`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType

from debeton.system.errors import UsageError
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table
from debeton.system.log import logger

GROUP = "debeton.plugins"
RECORD = "plugins.json"


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    name: as --plugins takes it again: the absolute path of a file, or a module.
    file: absolute path of its source. sha256: of that file, 64 hex digits.
    package: the installed package whose entry point loads it; empty for one of --plugins.
    """

    name: str
    file: str
    sha256: str
    package: str = ""


_LOADED: dict[str, Plugin] = {}  # by file


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add --plugins to a command's options."""
    parser.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="FILE_OR_MODULE",
        help="load your own methods, sources, triggers, augmentations or networks; may be repeated (docs/library.md)",
    )


def use_plugins(argv: Sequence[str]) -> None:
    """Load the plugins of installed packages, and those that --plugins names among a command's words.

    Commands call it before they make their parser, as a plugin may add names and options to it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_argument(parser)
    load_plugins(parser.parse_known_args(list(argv))[0].plugins)


def load_plugins(names: Sequence[str]) -> None:
    """Import the plugins of installed packages, and then those named; each once in this process.

    names: Python files, or modules that can be imported.
    UsageError with the file, the line and the cause where one is missing or fails.
    """
    _load_entry_points()
    for name in names:
        is_file = name.endswith(".py") or "/" in name
        module = _import_file(Path(name)) if is_file else _import_module(name)
        _remember(module, str(Path(name).resolve()) if is_file else name)


def plugin_words() -> list[str]:
    """Return the words that load the same plugins in another process: ['--plugins', NAME, ...]."""
    return [word for plugin in _LOADED.values() if not plugin.package for word in ("--plugins", plugin.name)]


def hashes_of_plugins() -> list[str]:
    """Return the SHA-256 of the file of each loaded plugin, sorted."""
    return sorted(plugin.sha256 for plugin in _LOADED.values())


def record_plugins(folder: Path) -> None:
    """Write the loaded plugins into a run folder; nothing where there is none."""
    if _LOADED:
        (folder / RECORD).write_text(json.dumps([asdict(plugin) for plugin in _LOADED.values()], indent=1))


def warn_of_changes(folder: Path) -> None:
    """Warn where a plugin of the run in `folder` is not loaded now, or has changed since the run began."""
    for recorded in _recorded(folder):
        loaded = _counterpart(recorded)
        if loaded is None:
            logger.warning("warning: %s began with the plugin %s, which is not loaded now", folder, recorded.name)
        elif loaded.sha256 != recorded.sha256:
            logger.warning("warning: the plugin %s has changed since %s began", loaded.name, folder)


def require_plugins_of(folder: Path) -> None:
    """Check that the plugins of a run are loaded, so that its settings, method and network are known.

    UsageError names the first one that is missing. It is never loaded from the record alone: a run folder may come from
    anyone, and reading it runs no code.
    """
    missing = [recorded for recorded in _recorded(folder) if _counterpart(recorded) is None]
    if not missing:
        return
    first = missing[0]
    remedy = f"install the package {first.package}" if first.package else f"give it with --plugins {first.name}"
    raise UsageError(f"the run {folder} was made with the plugin {first.name}, which is not loaded; {remedy}")


def _recorded(folder: Path) -> list[Plugin]:
    file = folder / RECORD
    if not file.is_file():
        return []
    remedy = "remove the file, and give the plugins with --plugins"
    entry = Table(keys={one.name: str for one in fields(Plugin)}, others=None)
    return [Plugin(**values) for values in read_json(file, ListOf(entry), remedy=remedy)]


def _counterpart(recorded: Plugin) -> Plugin | None:
    """Return the loaded plugin of the same file, or of one with the same file name elsewhere; None without either."""
    same_name = [plugin for plugin in _LOADED.values() if Path(plugin.file).name == Path(recorded.file).name]
    return _LOADED.get(recorded.file) or next(iter(same_name), None)


@functools.cache
def _load_entry_points() -> None:
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = "unknown" if entry.dist is None else entry.dist.name
        try:
            importlib.import_module(entry.module)
        except Exception as error:
            raise UsageError(
                f"the plugin {entry.name} of the installed package {package} cannot be loaded: "
                f"{_place(error, '')}{_cause(error)}; mend the package or uninstall it"
            ) from error
        _remember(sys.modules[entry.module], entry.module, package)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]
        hint = "; a file is named with its suffix, as in my_methods.py" if absent else ""
        raise UsageError(f"--plugins {name} cannot be loaded: {_place(error, '')}{_cause(error)}{hint}") from error


def _import_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, once for each absolute path."""
    file = path.resolve()
    if not file.is_file():
        raise UsageError(f"--plugins {path}: there is no such file")
    name = f"debeton_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugins {path} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"--plugins {path} cannot be loaded: {_place(error, str(file))}{_cause(error)}") from error
    return module


def _place(error: Exception, file: str) -> str:
    """Return 'FILE, line N: ' of an error: its last line in `file`, or outside this package and Python's import."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).resolve().parents[1])
    own = [f for f in frames if f.filename == file or (not file and not f.filename.startswith(("<frozen", package)))]
    own = [frame for frame in own if not frame.filename.endswith("importlib/__init__.py")]
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""


def _cause(error: Exception) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return message if isinstance(error, UsageError) else f"{type(error).__name__}: {message}"


def _remember(module: ModuleType, name: str, package: str = "") -> None:
    file = getattr(module, "__file__", None) or ""
    if file not in _LOADED:
        _LOADED[file] = Plugin(name, file, _sha256(Path(file)) if file else "", package)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
