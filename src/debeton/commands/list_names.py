"""Print the names that settings and options take, one a line.

debeton list                 every kind but networks and presets
debeton list methods
debeton list models          every network of the project and of torchvision
debeton list timm            every network of timm; debeton list open_clip: those with published weights
debeton list presets         the project's configuration files, and the folder that they are in
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from debeton.system import plugins

Names = list[tuple[str, str]]  # (name, line about it)


def _methods() -> Names:
    from debeton.methods import METHODS

    return [(entry.name, entry.summary) for entry in METHODS]


def _finders() -> Names:
    from debeton.methods import FINDERS

    return [(entry.name, entry.summary) for entry in FINDERS]


def _datasets() -> Names:
    from debeton.data.sources import SOURCES

    return [(entry.name, entry.summary) for entry in SOURCES]


def _triggers() -> Names:
    from debeton.data.triggers.trigger import TRIGGERS

    return [(entry.name, entry.summary) for entry in TRIGGERS]


def _augmentations() -> Names:
    from debeton.data.loader.augment import OPS

    return [(entry.name, entry.summary) for entry in OPS]


def _generators() -> Names:
    from debeton.generate.generators import GENERATORS

    return [(entry.name, entry.summary) for entry in GENERATORS]


def _models() -> Names:
    from debeton.nets.models import model_names

    return [
        *((name, "") for name in model_names()),
        ("timm:NAME", "a network of timm; debeton list timm names them"),
        ("open_clip:NAME@WEIGHTS", "an image tower of open_clip; debeton list open_clip names those with weights"),
        ("hf:FOLDER", "an image model of transformers, in a folder of save_pretrained"),
    ]


def _timm() -> Names:
    from debeton.nets.timm_networks import timm_names

    return [(name, "") for name in timm_names()]


def _open_clip() -> Names:
    from debeton.nets.open_clip_networks import open_clip_names

    return [(name, "") for name in open_clip_names()]


def _presets() -> Names:
    from debeton.system.project import preset_names, presets_folder

    summaries = [(presets_folder() / f"{name}.yaml").read_text(encoding="utf-8") for name in preset_names()]
    lines = [text.splitlines()[0].removeprefix("#").strip() for text in summaries]
    return list(zip(preset_names(), lines, strict=True))


KINDS: dict[str, Callable[[], Names]] = {
    "methods": _methods,
    "finders": _finders,
    "datasets": _datasets,
    "triggers": _triggers,
    "augmentations": _augmentations,
    "generators": _generators,
    "models": _models,
    "timm": _timm,
    "open_clip": _open_clip,
    "presets": _presets,
}


LONG = ("models", "timm", "open_clip", "presets")  # kinds that are printed only when asked for


def print_names(kind: str) -> None:
    """Print the names of one kind, each with the line about it."""
    for name, summary in KINDS[kind]():
        print(f"{name:<16} {summary}".rstrip())


def main(argv: Sequence[str]) -> int:
    """Print the names of the kind that is asked for, or of all kinds but networks."""
    from debeton.system.project import presets_folder

    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", nargs="?", choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    plugins.add_argument(parser)
    arguments = parser.parse_args(list(argv))
    plugins.use_plugins(argv)
    kinds = [arguments.kind] if arguments.kind else [kind for kind in KINDS if kind not in LONG]
    for number, kind in enumerate(kinds):
        if len(kinds) > 1:
            print(("\n" if number else "") + f"{kind}:")
        print_names(kind)
    if not arguments.kind:
        print("\n'debeton list models' names the networks.")
    if arguments.kind in (None, "presets"):
        print(f"The presets are in {presets_folder()}.")
    return 0
