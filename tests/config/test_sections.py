"""Typed sections: fields carry checkers and help, values have their annotated types, and mypy sees them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from fastargs.state import get_current_config
from tests.running import ROOT

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import Config, PhaseSettings, load, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Checker, Float, FloatList, Int, OrNull, Text
from debeton.config.section import SECTIONS, Setting, declared_field, setting_key
from debeton.system.errors import UsageError


def is_of_type(value: Any, annotation: Any) -> bool:
    """Return whether a value has an annotated type; an int is no float here, and True is no int."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(is_of_type(one, get_args(annotation)[0]) for one in value)
    if options := get_args(annotation):
        return any(is_of_type(value, option) for option in options)
    return type(value) is annotation


@pytest.fixture
def forget() -> Any:
    """Forget the sections that a test declares."""
    before, config = set(SECTIONS), get_current_config()
    yield
    for name in set(SECTIONS) - before:
        for path in config.sections_to_entries.pop((name,)):
            config.entries.pop(path)
        config.sections.pop((name,))
        SECTIONS.pop(name)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_every_value_has_its_annotated_type(name):
    cls = SECTIONS[name].cls
    types, values = get_type_hints(cls), load().section(cls)
    for field in fields(cls):
        assert is_of_type(getattr(values, field.name), types[field.name]), field.name
        assert (NoneType in get_args(types[field.name])) == isinstance(
            SECTIONS[name].settings[setting_key(field)].checker, OrNull
        ), field.name


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.lr", "1", 1.0),
        ("training.clip_grad", "2", 2.0),
        ("data.folds", "5", 5),
        ("groupdro.generalization_adjustment", "1,2", (1.0, 2.0)),
        ("dfr.class_weights", "1", (1.0,)),
    ],
)
def test_a_given_value_has_the_type_of_its_setting(key, text, value):
    read = load([], [f"--{key}", text])[key]
    assert (type(read), read) == (type(value), value)


def test_a_module_outside_the_package_declares_a_section(forget, tmp_path):
    @section("mine", "a method of my own")
    @dataclass(frozen=True)
    class MySettings:
        strength: float = setting(Float(0, 1), "strength of the method", default=0.5)
        table: str | None = setting(OrNull(Text()), "CSV of rows; null: none", default=None)

    (tmp_path / "mine.yaml").write_text("mine: {strength: 1}")
    mine = load([tmp_path / "mine.yaml"], ["--mine.table", "rows.csv"]).section(MySettings)
    assert mine == MySettings(1.0, "rows.csv")
    assert load().section(MySettings) == MySettings()
    with pytest.raises(UsageError, match=r"mine\.strength is '2'; expected a number from 0 to 1"):
        load([], ["--mine.strength", "2"])
    with pytest.raises(UsageError, match=r"did you mean 'mine\.strength'"):
        load([], ["--mine.strenght", "1"])


def test_a_section_that_is_declared_twice_is_an_error_that_names_both_places(forget):
    @section("twice", "first")
    @dataclass(frozen=True)
    class First:
        a: int = setting(Int(), "a number", default=0)

    with pytest.raises(UsageError, match=r"'twice' is declared by .*First and by .*Second; give one of them"):

        @section("twice", "second")
        @dataclass(frozen=True)
        class Second:
            a: int = setting(Int(), "a number", default=0)


def test_a_section_is_a_frozen_dataclass_of_settings(forget):
    @dataclass
    class Open:
        a: int = setting(Int(), "a number", default=0)

    @dataclass(frozen=True)
    class Plain:
        a: int = 0

    with pytest.raises(TypeError, match="Open is no frozen dataclass"):
        section("open", "")(Open)
    with pytest.raises(TypeError, match=r"Plain.a has no checker"):
        section("plain", "")(Plain)
    with pytest.raises(TypeError, match="Plain declares no section"):
        load().section(Plain)
    with pytest.raises(ValueError):
        setting(Int(0), "a number", default=-1)


def test_a_section_that_is_declared_after_the_configuration_was_loaded_is_a_sentence(forget):
    config = load()

    @section("late", "a section")
    @dataclass(frozen=True)
    class Late:
        a: int = setting(Int(), "a number", default=0)

    with pytest.raises(UsageError, match=r"no late\.a: it was loaded before section 'late' was declared"):
        config.section(Late)


def test_a_section_is_read_once_and_cannot_be_changed():
    config = load()
    assert config.training is config.training
    with pytest.raises(AttributeError, match="cannot assign"):
        config.training.lr = 1.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.trainign  # type: ignore[attr-defined] # noqa: B018


# --- not set -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checker", "spellings", "value", "read"),
    [
        (OrNull(Text()), [None, "", "null", "NULL"], "none", "none"),
        (OrNull(Int(1), 0), [None, "", "null", 0, "0", 0.0], "3", 3),
        (OrNull(Float(), -1), [None, "null", -1, "-1", "-1.0"], 0, 0.0),
        (OrNull(Text(), "auto"), [None, "auto"], "automatic", "automatic"),
        (OrNull(FloatList(at_least=1), []), [None, [], ""], [1], (1.0,)),
    ],
)
def test_null_has_one_spelling_and_older_ones_are_read(checker: Checker[Any], spellings, value, read):
    assert [checker.check(spelling) for spelling in spellings] == [None] * len(spellings)
    assert checker.check(value) == read
    with pytest.raises((ValueError, TypeError)):
        OrNull(Int(1), 0).check(False)


def test_null_is_null_in_yaml_and_on_the_command_line(tmp_path):
    (tmp_path / "a.yaml").write_text("training: {exp_name: x, clip_grad: 1}\ndata: {mini_dataset: 0.5}")
    (tmp_path / "b.yaml").write_text("training: {exp_name: null, clip_grad: }")
    config = load([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["--data.mini_dataset", "null"])
    assert (config.training.exp_name, config.training.clip_grad, config.data.mini_dataset) == (None, None, None)
    assert "exp_name: null" in config.dump()
    assert config.values == load().values


def test_a_configuration_of_before_is_read_as_this_one(tmp_path):
    """The config.yaml of a run that was written when not set was '', -1, 0 or 'auto', depending on the setting."""
    (tmp_path / "config.yaml").write_text(
        """
        training: {exp_name: '', clip_grad: 0.0, ema: 0.0, num_workers: 0, eval_batch_size: 0}
        data: {train_path: '', label: '', aligned: '', mini_dataset: -1.0, folds: 0, bias_rate: 0.0, pseudo_groups: ''}
        synthetic: {per_cell: 0}
        model: {checkpoint: ''}
        spurious: {eval_types: '', size: '', position: '', hats: '', overlay: '', gaussian_pattern_path: ''}
        logging: {wandb: ''}
        jtt: {lr: -1, weight_decay: -1, optimizer: auto}
        ffr: {epochs: -1, lr: -1.0, weight_decay: -1, optimizer: auto}
        cdpm: {min_snr: 0.0, epochs: -1, resolution: -1, augment: auto, decoder_train: auto, lr_scheduler: auto}
        amplifier: {match_resolution: 0, decoder_train: auto, clip_grad: -1}
        ddb: {cdpm: '', images: '', amplifier: '', pseudo_labels: '', oracle: '', steps: 0}
        dfr: {checkpoint: '', class_weights: []}
        """
    )
    assert load([tmp_path / "config.yaml"]).values == load().values


# --- one phase -----------------------------------------------------------------------------------


def test_a_phase_has_the_values_of_its_section_and_those_of_training_for_the_rest(forget):
    @section("probing", "a phase of its own")
    @dataclass(frozen=True)
    class Probing:
        steps: int = setting(Int(), "a number that is no setting of training", default=3)
        lr: float | None = phase_setting("lr", "probing", default=0.5)
        ema: float | None = phase_setting("ema", "probing")
        resolution: int | None = phase_setting("resolution", "probing")
        augment: str | None = phase_setting("augment", "probing")

    config = load([], ["--training.ema", "0.9", "--training.augment", "none", "--resolution.val_res", "32"])
    training = phase_settings(config)
    assert training == PhaseSettings(**vars(config.training), resolution=32)
    assert phase_settings(config, config.section(Probing)) == replace(training, lr=0.5)
    own = load([], ["--training.ema", "0.9", "--probing.ema", "0", "--probing.resolution", "8", "--probing.lr", "null"])
    settings = phase_settings(own, own.section(Probing))
    assert (settings.lr, settings.ema, settings.resolution) == (own.training.lr, None, 8)


def test_a_phase_setting_names_the_setting_that_null_means():
    text = SECTIONS["amplifier"].settings
    assert text["lr"].help == "peak learning rate (phase 'amplifier'); null: training.lr"
    assert text["decoder_train"].help.endswith("null: training.decoder_val")
    assert SECTIONS["cdpm"].settings["resolution"].help.endswith("null: resolution.val_res")


# --- mypy ----------------------------------------------------------------------------------------

SNIPPET = """
from dataclasses import dataclass, replace

from debeton.config import Config, phase_settings, section, setting
from debeton.config.checkers import Float


@section("mine", "a method")
@dataclass(frozen=True)
class Mine:
    strength: float = setting(Float(), "strength", default=0.5)
    wrong: int = setting(Float(), "not an int", default=0.5)


def use(config: Config) -> None:
    reveal_type(config.training.lr)
    reveal_type(config.training.exp_name)
    reveal_type(config.section(Mine).strength)
    config.training.lrr
    config.section(Mine).strenght
    config.trianing
    config.training.lr = 1.0
    replace(phase_settings(config), epoch=1)
    replace(phase_settings(config), epochs="1")
"""


@pytest.mark.slow
def test_mypy_sees_types_and_misspelt_settings(tmp_path):
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    # A process of its own: mypy's millions of objects would stay, and slow the garbage collector in all later tests.
    words = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    out = done.stdout
    assert not done.stderr
    lines = {
        line.strip(): "".join(said for said in out.splitlines(keepends=True) if f"{file.name}:{number}:" in said)
        for number, line in enumerate(SNIPPET.splitlines(), 1)
    }
    for line, shown in (
        ("reveal_type(config.training.lr)", "float"),
        ("reveal_type(config.training.exp_name)", "str | None"),
        ("reveal_type(config.section(Mine).strength)", "float"),
    ):
        assert f'Revealed type is "{shown}"' in lines[line].replace("builtins.", ""), (line, out)
    for line, word in (
        ("config.training.lrr", '"Training" has no attribute "lrr"'),
        ("config.section(Mine).strenght", '"Mine" has no attribute "strenght"'),
        ("config.trianing", '"Config" has no attribute "trianing"'),
        ("config.training.lr = 1.0", "read-only"),
        ("replace(phase_settings(config), epoch=1)", 'Unexpected keyword argument "epoch"'),
        ('replace(phase_settings(config), epochs="1")', 'incompatible type "str"'),
        ('wrong: int = setting(Float(), "not an int", default=0.5)', "Incompatible types in assignment"),
    ):
        assert word in lines[line], (line, out)


def test_settings_are_fields_with_a_declaration():
    declaration = Setting(Int(), "a number", 1)
    assert declared_field(declaration).metadata[Setting.__name__] is declaration
    assert Config({"training.lr": 1})["training.lr"] == 1
