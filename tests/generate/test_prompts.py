"""Prompts: grammar, all cells of all data sets, the published wording, and wrong prompt files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from debeton.data.sources import SOURCES
from debeton.data.sources.bffhq import SPEC as BFFHQ
from debeton.data.sources.spuco_animals import CELLS
from debeton.data.sources.spuco_animals import SPEC as SPUCO
from debeton.data.sources.utkface import SPEC as UTKFACE
from debeton.data.sources.waterbirds import SPEC as WATERBIRDS
from debeton.generate.prompts import Condition, PromptSet, load_prompts, prompt_sets
from debeton.system.errors import UsageError

PETS = {
    "template": "a photo of {a} {subject}",
    "noun": "animal",
    "label": {"cat": ["tabby cat", "ocelot"], "dog": ["pug"]},
    "attribute": {"indoors": ["* in a kitchen"], "outdoors": ["* in a park", "wet * in the rain"]},
}


def write(path: Path, **changes) -> Path:
    path.write_text(yaml.safe_dump({k: v for k, v in {**PETS, **changes}.items() if v is not None}, sort_keys=False))
    return path


def every_prompt(prompts: PromptSet, condition: Condition, draws: int = 400) -> set[str]:
    rng = np.random.default_rng(0)
    return {prompts.prompt(condition, rng) for _ in range(draws)}


def test_phrases_with_a_star_extend_the_noun_and_get_the_right_article(tmp_path):
    prompts = load_prompts(write(tmp_path / "pets.yaml"))
    assert every_prompt(prompts, Condition("cat", "outdoors")) == {
        "a photo of a tabby cat in a park",
        "a photo of a wet tabby cat in the rain",
        "a photo of an ocelot in a park",
        "a photo of a wet ocelot in the rain",
    }
    assert every_prompt(prompts, Condition("dog", None)) == {"a photo of a pug"}
    assert [str(c) for c in prompts.conditions()] == ["cat, indoors", "cat, outdoors", "dog, indoors", "dog, outdoors"]
    assert prompts.conditions(blind=True) == [Condition("cat", None), Condition("dog", None)]


def test_phrases_of_a_whole_cell_replace_those_of_label_and_attribute(tmp_path):
    prompts = load_prompts(write(tmp_path / "pets.yaml", both={"cat, indoors": ["cat on a sofa"]}))
    assert every_prompt(prompts, Condition("cat", "indoors")) == {"a photo of a cat on a sofa"}
    assert len(every_prompt(prompts, Condition("cat", "outdoors"))) == 4


def test_phrases_are_drawn_evenly(tmp_path):
    prompts, rng = load_prompts(write(tmp_path / "pets.yaml")), np.random.default_rng(1)
    drawn = [prompts.prompt(Condition("cat", "indoors"), rng) for _ in range(2000)]
    assert abs(sum("ocelot" in prompt for prompt in drawn) - 1000) < 5 * np.sqrt(500)


SPECS = {"utkface": UTKFACE, "waterbirds": WATERBIRDS, "bffhq": BFFHQ, "spuco_animals": SPUCO}


@pytest.mark.parametrize("name", sorted(prompt_sets()))
def test_every_cell_of_a_data_set_has_prompts_under_its_own_names(name):
    assert name in SOURCES
    prompts = load_prompts(prompt_sets()[name])
    if name in SPECS:
        spec = SPECS[name]
        assert set(prompts.label) == set(spec.classes)
        assert set(prompts.attribute) == set(spec.attributes)
        cells = {(spec.classes[a], spec.attributes[b]) for a, b in CELLS} if name == "spuco_animals" else None
        assert cells is None or {(c.label, c.attribute) for c in prompts.conditions()} == cells
    for condition in [*prompts.conditions(), *prompts.conditions(blind=True)]:
        for prompt in every_prompt(prompts, condition, 60):
            assert "*" not in prompt
            assert "{" not in prompt
            assert "  " not in prompt
            assert not re.search(r"\b(\w+) \1\b", prompt), prompt  # 'in in the garden'
            assert not re.search(r"\ba [aeiou]", prompt), prompt


def test_all_forty_attributes_of_celeba_have_phrases_and_go_with_any_other():
    path = prompt_sets()["celeba"]
    columns = yaml.safe_load(path.read_text())["columns"]
    assert len(columns) == 40
    for name, values in columns.items():
        assert list(values) == (["Female", "Male"] if name == "Male" else [f"not {name}", name])
        other = "Male" if name != "Male" else "Young"
        prompts = load_prompts(path, name, other)
        assert len(prompts.conditions()) == 4
        for condition in prompts.conditions():
            assert all(
                p.startswith(("a headshot of a ", "a headshot of an ")) for p in every_prompt(prompts, condition, 9)
            )


def test_spuco_has_as_many_breeds_and_places_as_published():
    prompts = load_prompts(prompt_sets()["spuco_animals"])
    assert {name: len(set(breeds)) for name, breeds in prompts.label.items()} == {
        "landbird": 35,
        "waterbird": 24,
        "small_dog": 36,
        "big_dog": 74,
    }
    assert {k: len(v) for k, v in prompts.attribute.items()} == {"Land": 20, "Water": 10, "Indoors": 11, "Outdoors": 10}
    run_together = re.compile(r"[a-z][A-Z]|bitternbird|kingpenguin")
    assert not [breed for breeds in prompts.label.values() for breed in breeds if run_together.search(breed)]


@pytest.mark.parametrize(
    ("name", "condition", "prompts"),
    [
        (
            "celeba_hq",
            ("not Smiling", "Female"),
            {"a headshot of Female celebrity with serious face", "a headshot of Female celebrity with straight face"},
        ),
        ("celeba_hq", ("Smiling", "Male"), {"a headshot of Male celebrity Smiling"}),
        (
            "utkface",
            ("Male", "young"),
            {
                "a headshot of a human Male baby",
                "a headshot of a human Male aged three years old",
                "a headshot of a human Male aged four years old",
                "a headshot of a human Male aged five years old",
            },
        ),
    ],
)
def test_legacy_prompts_are_the_published_ones(name, condition, prompts):
    assert every_prompt(load_prompts(prompt_sets()[name], published=True), Condition(*condition)) == prompts


def test_the_published_places_of_spuco_keep_their_double_preposition():
    found = every_prompt(
        load_prompts(prompt_sets()["spuco_animals"], published=True), Condition("big_dog", "Indoors"), 3000
    )
    assert "a photo of pug in in the sink" in found
    assert len({re.sub(r".* in ", "", prompt.split(" in ", 1)[1]) for prompt in found}) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lable": {}}, "unknown key 'lable'; did you mean 'label'"),
        ({"template": "a photo"}, r"template is 'a photo'; expected a sentence with \{subject\}"),
        ({"label": {"cat": "tabby"}}, "label 'cat' is 'tabby'; expected a list of phrases"),
        ({"label": {"cat": ["* and *"]}}, "the phrase '\\* and \\*'; expected words with one star"),
        ({"label": None}, "no phrases for the label 'label'"),
        ({"cells": [["cat", "indoor"]]}, "unknown 'indoor'; did you mean 'indoors'"),
        ({"both": {"cow, indoors": ["x"]}}, "unknown 'cow'"),
    ],
)
def test_a_wrong_prompt_file_gives_a_clear_error(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load_prompts(write(tmp_path / "pets.yaml", **changes))


def test_missing_and_equal_columns_are_named_in_the_error(tmp_path):
    path = prompt_sets()["celeba"]
    with pytest.raises(UsageError, match=r"no phrases for the label 'Smile'; did you mean 'Smiling'"):
        load_prompts(path, "Smile", "Male")
    with pytest.raises(UsageError, match="label and attribute are both 'Male'"):
        load_prompts(path, "Male", "Male")
    with pytest.raises(UsageError, match="has no published prompts; leave out --legacy-prompts"):
        load_prompts(prompt_sets()["bffhq"], published=True)
    with pytest.raises(UsageError, match="no prompt file at"):
        load_prompts(tmp_path / "none.yaml")


def test_the_hash_changes_with_any_phrase(tmp_path):
    first = load_prompts(write(tmp_path / "a.yaml"))
    second = load_prompts(write(tmp_path / "b.yaml", noun="beast"))
    assert first.hash() == load_prompts(write(tmp_path / "c.yaml")).hash() != second.hash()
