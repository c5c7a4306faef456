"""Triggers of a run: the images that carry one, and the triggers that models are measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from debeton.config import Config
from debeton.config.yaml_files import parse_yaml
from debeton.data.spec import DatasetSpec, Ints
from debeton.data.triggers.trigger import (
    TRIGGERS,
    PlantedTrigger,
    Trigger,
    TriggerOptions,
    make_trigger,
    rows_with_trigger,
)
from debeton.data.views.splits import Views, evaluated
from debeton.system.array_files import read_npy
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf
from debeton.system.regular_files import read_regular_text

# Codes of ImageNet's classes, by the names of the published class files.
IMAGENET_CLASSES = {"dogs": range(151, 269), "cats": range(281, 288)}


def plant(views: Views, config: Config) -> Views:
    """Return the views, with the configured trigger planted in their images if there is one.

    Raise UsageError for a share of images without the name of a trigger.
    """
    spurious = config.spurious
    if spurious.spurious_type == "none":
        if spurious.spurious_perc > 0:
            raise UsageError(
                f"spurious.spurious_perc is {spurious.spurious_perc}, but no trigger is named; name one with "
                f"--spurious.spurious_type ({', '.join(TRIGGERS.names())})"
            )
        return views
    trigger = configured_trigger(spurious.spurious_type, config)
    trained, measured = ("train", "target", "first"), evaluated(views)
    chosen = {"all": (*trained, *measured), "train": trained, "test": measured}[spurious.splits]
    if spurious.spurious_perc == 0:
        return views
    classes = class_codes(spurious.spurious_file, next(iter(views.values())).spec)  # all views have the same classes
    planted = {}
    for split in views.keys() & set(chosen):
        mask = rows_with_trigger(views[split].label, classes, spurious.spurious_perc, spurious.seed)
        planted[split] = replace(views[split], planted=PlantedTrigger(trigger, mask))
    return {**views, **planted}


def evaluation_triggers(config: Config) -> list[Trigger]:
    """Return the triggers that models are measured with, in all images. Without a configured trigger there are none."""
    given = config.spurious.eval_types
    names = [config.spurious.spurious_type] if given is None else [name.strip() for name in given.split(",")]
    return [configured_trigger(name, config) for name in dict.fromkeys(names) if name not in ("", "none")]


def configured_trigger(name: str, config: Config) -> Trigger:
    """Make the trigger called `name` with the options of section 'spurious'."""
    spurious = config.spurious
    options = TriggerOptions(
        size=spurious.size,
        position=spurious.position,
        colour=parse_colour(spurious.colour),
        scale=spurious.gaussian_scale,
        pattern=spurious.gaussian_pattern_path,
        hats=spurious.hats,
        overlay=spurious.overlay,
        opacity=spurious.opacity,
        seed=spurious.seed,
    )
    trigger = make_trigger(name, options, legacy=spurious.legacy)
    side = config.resolution.val_res
    trigger.layers_for(side, side)  # a trigger that does not fit the frame is an error now, not in the middle of a run
    return trigger


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return (R, G, B) of the text 'R,G,B'. Raise UsageError unless each is from 0 to 255."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdigit() and int(part) <= 255 for part in parts):
        raise UsageError(f"spurious.colour is '{text}'; expected R,G,B with each from 0 to 255, such as 255,255,0")
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def class_codes(text: str, spec: DatasetSpec) -> Ints:
    """Return the codes of the classes that `text` names, int64, sorted. Raise UsageError for an unknown class.

    text: 'all', 'dogs' or 'cats' (of ImageNet), 'a,b', or a file. Classes are names or codes. A file is .npy (numbers),
        .json or .yaml (a list), or text with one class a line.
    """
    if text == "all":
        return np.arange(spec.num_classes)
    if text in IMAGENET_CLASSES:
        if spec.num_classes != 1000:
            raise UsageError(
                f"spurious.spurious_file '{text}' means ImageNet's {text}; {spec.name} has {spec.num_classes} classes; "
                "name some of them"
            )
        return np.array(IMAGENET_CLASSES[text])
    given = _read_classes(Path(text)) if Path(text).suffix else [part.strip() for part in text.split(",")]
    by_name = {name: code for code, name in enumerate(spec.classes)}
    return np.array(sorted({_code(entry, by_name, text) for entry in given}), np.int64)


def _code(entry: object, by_name: Mapping[str, int], where: str) -> int:
    name = str(entry)
    if name in by_name:
        return by_name[name]
    if name.isdigit() and int(name) < len(by_name):
        return int(name)
    raise UsageError(
        f"spurious.spurious_file {where}: there is no class '{name}'{nearest(name, by_name)} classes are names, or "
        f"numbers from 0 to {len(by_name) - 1}"
    )


def _read_classes(path: Path) -> Sequence[object]:
    try:
        if path.suffix == ".npy":
            classes: object = read_npy(path).ravel().tolist()
        elif path.suffix == ".json":
            classes = read_json(path, ListOf((str, int)), remedy="expected a list of names or numbers")
        elif path.suffix in (".yaml", ".yml"):
            classes = parse_yaml(read_regular_text(path))
        else:
            classes = [line.strip() for line in read_regular_text(path).splitlines() if line.strip()]
    except FileNotFoundError:
        raise UsageError(
            f"spurious.spurious_file: no file {path}; give 'all', 'dogs' or 'cats', class names 'a,b', or a file"
        ) from None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as a list of classes ({error})") from None
    if not isinstance(classes, list) or not classes:
        raise DataError(f"{path} is no list of classes; expected names or numbers, one a line")
    return classes
