"""Prompts of every (class, attribute) cell, built from lists of phrases in a YAML file.

A phrase without a star is a noun and comes first. A phrase with a star changes the text so far, which replaces the
star: 'smiling *' and '* with a hat' turn the noun 'celebrity' into 'smiling celebrity with a hat'. The phrase of the
label is applied before the phrase of the attribute. `both` has phrases for a whole cell, in place of these two. {a} in
the template is replaced by 'a' or 'an', as the next word needs.

    template: a photo of {a} {subject}
    noun: animal                                  # used where no phrase is a noun
    label: {cat: [tabby cat, Siamese cat], dog: [pug, beagle]}
    attribute: {indoors: ["* in a kitchen"], outdoors: ["* in a park"]}
    cells: [[cat, indoors], [dog, outdoors]]      # the cells that exist; default: all combinations
    both: {"cat, indoors": [cat on a sofa]}
    columns: {size: {small: ["small *"], large: ["large *"]}}   # further choices for --label and --attribute
    published: {template: ...}                    # with --legacy-prompts, these keys replace the same keys above
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from debeton.config.yaml_files import check_keys, read_mapping
from debeton.data.spec import DatasetSpec
from debeton.system.errors import UsageError, nearest

FOLDER = Path(__file__).parent / "prompt_sets"
KEYS = (
    "datasets",
    "template",
    "noun",
    "label_name",
    "attribute_name",
    "label",
    "attribute",
    "both",
    "cells",
    "columns",
    "published",
)
Phrases = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Condition:
    """Class and attribute that an image is to show; attribute None: the prompt names no attribute."""

    label: str
    attribute: str | None

    def __str__(self) -> str:
        return self.label if self.attribute is None else f"{self.label}, {self.attribute}"


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one task; the module's docstring explains the phrases.

    name: name of the prompt file.
    template: sentence that contains {subject}, and {a} if wanted.
    noun: noun of the subject where no phrase is a noun.
    label: phrases by class name.
    attribute: phrases by attribute name.
    both: phrases by 'label, attribute'.
    cells: (label, attribute) of the cells that exist; empty: all combinations.
    """

    name: str
    template: str
    noun: str
    label: Phrases
    attribute: Phrases
    both: Phrases = field(default_factory=dict)
    cells: tuple[tuple[str, str], ...] = ()

    def hash(self) -> str:
        """Return a fingerprint of the template, all phrases and the cells: 16 hex digits."""
        content = [self.template, self.noun, self.label, self.attribute, self.both, self.cells]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    def conditions(self, *, blind: bool = False) -> list[Condition]:
        """Return every cell; with `blind`, every class without an attribute."""
        if blind:
            return [Condition(label, None) for label in self.label]
        cells = self.cells or tuple((label, attribute) for label in self.label for attribute in self.attribute)
        return [Condition(label, attribute) for label, attribute in cells]

    def prompt(self, condition: Condition, rng: np.random.Generator) -> str:
        """Return one prompt for a condition; `rng` draws one phrase of each list."""
        whole = self.both.get(str(condition), ())
        chosen = [whole] if whole else [self.label[condition.label]]
        if not whole and condition.attribute is not None:
            chosen.append(self.attribute[condition.attribute])
        phrases = [choices[int(rng.integers(len(choices)))] for choices in chosen]
        subject = self.noun
        for phrase in sorted(phrases, key=lambda phrase: "*" in phrase):  # nouns first; a stable sort keeps the rest
            subject = phrase.replace("*", subject)
        article = "an" if subject[:1].lower() in "aeiou" else "a"
        return self.template.replace("{subject}", subject).replace("{a}", article)


def prompt_sets() -> dict[str, Path]:
    """Return the project's prompt files by data set."""
    by_dataset = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for name in _read(path).get("datasets") or [path.stem]:
            by_dataset[name] = path
    return by_dataset


def prompts_from_names(spec: DatasetSpec) -> PromptSet:
    """Return prompts 'class, attribute' for every cell of a data set, for generators that read no prompt."""
    cells = tuple(
        (label, attribute)
        for i, label in enumerate(spec.classes)
        for j, attribute in enumerate(spec.attributes)
        if spec.has_cell(i, j)
    )
    labels, attributes = {name: (name,) for name in spec.classes}, {name: (f"*, {name}",) for name in spec.attributes}
    return PromptSet(spec.name, "{subject}", "", labels, attributes, {}, cells)


def load_prompts(path: Path, label: str = "", attribute: str = "", *, published: bool = False) -> PromptSet:
    """Read a prompt file.

    path: the YAML file; the module's docstring has the format.
    label, attribute: names of columns of the file; empty: the file's own label and attribute.
    published: use the published prompts (--legacy-prompts).

    UsageError: the file does not follow the format, or a column is unknown.
    """
    content = _read(path)
    if published:
        if "published" not in content:
            raise UsageError(f"{path} has no published prompts; leave out --legacy-prompts")
        content = _overlaid(content, content["published"])
    label_name, attribute_name = content.get("label_name", "label"), content.get("attribute_name", "attribute")
    label_phrases = _column(path, content, "label", label or label_name)
    attribute_phrases = _column(path, content, "attribute", attribute or attribute_name)
    if (label or label_name) == (attribute or attribute_name):
        raise UsageError(f"{path}: label and attribute are both '{label or label_name}'; they must differ")
    is_own = (label or label_name, attribute or attribute_name) == (label_name, attribute_name)
    cells = tuple((str(a), str(b)) for a, b in content.get("cells") or ()) if is_own else ()
    both = {str(k): _phrases(path, f"both '{k}'", v) for k, v in (content.get("both") or {}).items()} if is_own else {}
    for a, b in [*cells, *(key.split(", ", 1) for key in both)]:
        for name, known in ((a, label_phrases), (b, attribute_phrases)):
            if name not in known:
                raise UsageError(f"{path}: unknown '{name}'{nearest(name, known)} known: {', '.join(known)}")
    template, noun = _template(path, content), str(content.get("noun", ""))
    return PromptSet(path.stem, template, noun, label_phrases, attribute_phrases, both, cells)


def _read(path: Path) -> dict[str, Any]:
    content = read_mapping(path, "prompt file", ", ".join(KEYS))
    check_keys(content, KEYS, f"prompt file {path}")
    return content


def _overlaid(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Replace our phrases by the published ones; values without published phrases keep ours."""
    merged = {key: value for key, value in content.items() if key not in ("both", "published")}
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged


def _column(path: Path, content: Mapping[str, Any], role: str, name: str) -> Phrases:
    """Return the phrases by value of the column called `name`. role: 'label' or 'attribute'."""
    columns = content.get("columns") or {}
    own = content.get(f"{role}_name", role)
    values = columns.get(name) if name != own or not content.get(role) else content[role]
    if values is None:
        known = list(dict.fromkeys([*([own] if content.get(role) else []), *columns]))
        raise UsageError(f"{path}: no phrases for the {role} '{name}'{nearest(name, known)} known: {', '.join(known)}")
    if not isinstance(values, Mapping) or len(values) < 1:
        raise UsageError(f"{path}: {role} '{name}' is {values!r}; expected phrases by value")
    return {str(value): _phrases(path, f"{role} '{value}'", given) for value, given in values.items()}


def _phrases(path: Path, where: str, given: Any) -> tuple[str, ...]:
    """Check a list of phrases, each with at most one star, and return it."""
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or not given
        or not all(isinstance(g, str) for g in given)
    ):
        raise UsageError(f"{path}: {where} is {given!r}; expected a list of phrases")
    bad = [phrase for phrase in given if phrase.count("*") > 1 or not phrase.strip("* ")]
    if bad:
        raise UsageError(f"{path}: {where} has the phrase '{bad[0]}'; expected words with one star at most")
    return tuple(given)


def _template(path: Path, content: Mapping[str, Any]) -> str:
    """Check the template, which must contain {subject}, and return it."""
    template = content.get("template")
    if not isinstance(template, str) or "{subject}" not in template:
        raise UsageError(f"{path}: template is {template!r}; expected a sentence with {{subject}} in it")
    return template
