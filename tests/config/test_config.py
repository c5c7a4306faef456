"""The configuration is strict: whatever is wrong is one sentence that names key, place and nearest known key."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from debeton.config import declared, load, section_text
from debeton.config.old_names import WITHOUT_EFFECT
from debeton.config.yaml_files import parse_yaml
from debeton.system.errors import UsageError, nearest


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_stand_where_nothing_is_given():
    config = load()
    assert config.training.epochs == 60
    assert config["training.lr"] == 0.1
    assert config.data.dataset == "dominoes"


def test_the_command_line_beats_the_later_file_beats_the_earlier_file(tmp_path):
    first = write(tmp_path / "a.yaml", "training: {lr: 0.1, epochs: 1, momentum: 0.1}")
    second = write(tmp_path / "b.yaml", "training: {lr: 0.2, epochs: 2}")
    config = load([first, second], ["--training.lr", "0.3"])
    assert (config.training.lr, config.training.epochs, config.training.momentum) == (0.3, 2, 0.1)


def test_environment_variables_do_not_override(monkeypatch):
    monkeypatch.setenv("training.lr", "9")
    assert load().training.lr == 0.1


@pytest.mark.parametrize("given", [["--training.lr", "0.25"], ["--training.lr=0.25"]])
def test_both_spellings_of_an_override_work(given):
    assert load(overrides=given).training.lr == 0.25


@pytest.mark.parametrize(
    ("text", "value"), [("False", False), ("true", True), ("0", False), ("off", False), ("yes", True)]
)
def test_booleans_mean_what_they_say(text, value):
    assert load(overrides=["--model.pretrained", text]).model.pretrained is value


def test_yaml_scientific_notation_is_a_number(tmp_path):
    assert load([write(tmp_path / "a.yaml", "training: {weight_decay: 5e-5}")]).training.weight_decay == 5e-5


def test_milestones_are_read_from_text_and_from_a_list(tmp_path):
    assert load(overrides=["--training.lr_milestones", "10,20"]).training.lr_milestones == (10, 20)
    assert load([write(tmp_path / "a.yaml", "training: {lr_milestones: [3, 4]}")]).training.lr_milestones == (3, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {epcohs: 3}", ["training.epcohs", "did you mean 'training.epochs'", "a.yaml"]),
        ("trianing: {epochs: 3}", ["trianing", "did you mean 'training'", "a.yaml"]),
        ("training: {epochs: many}", ["training.epochs", "'many'", "a whole number"]),
        ("training: {epochs: 3.7}", ["training.epochs", "3.7", "a whole number"]),
        ("training: {epochs: -1}", ["training.epochs", "-1", "at least 0"]),
        ("training: {lr: .nan}", ["training.lr", "nan", "a number"]),
        ("training: {lr: true}", ["training.lr", "True", "a number"]),
        ("model: {pretrained: maybe}", ["model.pretrained", "maybe", "true or false"]),
        ("training: {lr_scheduler: cosin}", ["training.lr_scheduler", "did you mean 'cosine'"]),
        ("training: {method: [erm]}", ["training.method", "text"]),
        ("training: {lr: }", ["training.lr", "no value"]),
        ("training: 3", ["section 'training' is 3"]),
        ("[1, 2]", ["holds list"]),
        ("training: {lr: 1", ["not valid YAML"]),
        ("data: {arch: resnet18}", ["data.arch", "did you mean 'model.arch'"]),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(tmp_path, text, words):
    with pytest.raises(UsageError) as error:
        load([write(tmp_path / "a.yaml", text)])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--training.eopchs", "3"], ["training.eopchs", "did you mean 'training.epochs'", "command line"]),
        (["--training.ep", "5"], ["unknown key 'training.ep'"]),
        (["--training.epochs"], ["--training.epochs has no value"]),
        (["epochs=3"], ["unexpected argument 'epochs=3'"]),
        (["--lr", "3"], ["did you mean 'training.lr'"]),
    ],
)
def test_a_wrong_command_line_is_an_error_that_names_the_key(overrides, words):
    with pytest.raises(UsageError) as error:
        load(overrides=overrides)
    for word in words:
        assert word in str(error.value)


def test_missing_and_binary_files_are_errors(tmp_path):
    with pytest.raises(UsageError, match="no config file at"):
        load([tmp_path / "none.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.yaml"):
        load([tmp_path / "binary.yaml"])


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path):
    assert load([write(tmp_path / "a.yaml", ""), write(tmp_path / "b.yaml", "training:\n")]).values == load().values


def test_the_dump_reads_back_to_the_same_configuration(tmp_path):
    config = load(
        overrides=["--training.lr_milestones", "3,5", "--training.weight_decay", "5e-5", "--data.dataset", "ü"]
    )
    again = load([write(tmp_path / "dump.yaml", config.dump())])
    assert again.values == config.values
    assert again.identity_hash() == config.identity_hash()


def test_the_identity_ignores_where_and_how_fast_but_not_what():
    base = load().identity_hash()
    for same in (
        ["--training.outdir", "x"],
        ["--training.num_workers", "7"],
        ["--training.eval_batch_size", "7"],
        ["--loader.os_cache", "no"],
        ["--logging.progress", "on"],
    ):
        assert load(overrides=same).identity_hash() == base
    for other in (
        ["--training.seed", "1"],
        ["--training.lr", "0.2"],
        ["--data.seed", "1"],
        ["--model.arch", "resnet50"],
    ):
        assert load(overrides=other).identity_hash() != base


def test_help_names_every_key_with_its_default():
    text = section_text("all")
    for key in declared():
        assert f"--{key} " in text
    assert "default 0.1" in text


def test_all_unknown_names_of_a_file_are_in_one_error(tmp_path):
    text = "training: {epcohs: 3, lr: 0.1, hue: red}\ntrianing: {epochs: 3, lr: 1}\nlr: 0.1\nnowhere: {x: 1, y: 2}"
    with pytest.raises(UsageError) as error:
        load([write(tmp_path / "a.yaml", text)])
    assert str(error.value) == (
        f"{tmp_path / 'a.yaml'}: 2 unknown sections: 'trianing' (did you mean 'training'?), 'nowhere'; 3 unknown keys: "
        "'training.epcohs' (did you mean 'training.epochs'?), 'training.hue', 'lr' (did you mean 'training.lr'?); "
        "see --help all"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("logging.do_if_finished", ";"),
        ("training.xyz", ";"),
        ("training.momentun", "; did you mean 'training.momentum'?"),
        ("training.weight", "; did you mean 'training.weight_decay'?"),
        ("training.LR", "; did you mean 'training.lr'?"),
        ("training.rl", "; did you mean 'training.lr'?"),
        ("training.q", ";"),
    ],
)
def test_a_hint_is_a_name_that_a_slip_of_the_keys_explains(name, hint):
    assert nearest(name, declared()) == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {lr: 0.1, epochs: 1,\n lr: 0.5}",
            "key 'training.lr' is given twice, on line 1 (0.1) and on line 2",
        ),
        (
            "training:\n  lr: 0.1\nmodel: {}\ntraining: {lr: 0.5}",
            "'training' is given twice, on line 1 (keys and values)",
        ),
        ("data: {folds: [1, {a: 1, a: [2]}]}", "'data.folds.a' is given twice, on line 1 (1) and on line 1 (a list)"),
        ("data: {1: a, 1.0: b}", "the key 'data.1.0' is given twice, on line 1 (a) and on line 1 (b)"),
        ('{"training": {"lr": 1, "lr": 2}}', "the key 'training.lr' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_an_error_with_both_values(tmp_path, text, message):
    with pytest.raises(UsageError) as error:
        load([write(tmp_path / "a.yaml", text)])
    assert message in str(error.value)
    assert "a.yaml is not valid YAML: the key" in str(error.value)


def test_anchors_and_merge_keys_may_give_a_value_that_the_mapping_replaces(tmp_path):
    text = "model: &m {arch: resnet18}\nresolution: {val_res: 64}\ntraining: &t {lr: 0.1, epochs: 3}\n"
    assert parse_yaml(text + "other: {<<: [*t, *m], lr: 0.5}\nsame: *t")["other"] == {
        "arch": "resnet18",
        "lr": 0.5,
        "epochs": 3,
    }
    with pytest.raises(yaml.YAMLError, match=r"key 'other\.lr' is given twice"):
        parse_yaml(text + "other: {<<: *t, lr: 0.5, lr: 0.6}")


def test_keys_of_the_published_files_without_an_effect_are_accepted_with_a_note(tmp_path, caplog, monkeypatch):
    """The files of MadryLab/bias-transfer have them, and its code reads none of them."""
    text = "logging: {do_if_complete: False, mmap_logdir: ''}\ndata: {num_classes: 2, upsample: True}\n"
    path = write(tmp_path / "celeba.yaml", text + "training: {lr: 0.25}")
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("debeton"), "propagate", False)
    with caplog.at_level(logging.INFO, logger="debeton"):
        config = load([path])
    assert caplog.messages == [
        f"{path}: without effect, as in the published bias-transfer code: "
        "logging.do_if_complete, logging.mmap_logdir, data.num_classes, data.upsample"
    ]
    assert config.training.lr == 0.25
    assert config.values.keys() == declared().keys()
    assert config.identity_hash() == load(overrides=["--training.lr", "0.25"]).identity_hash()
    assert not set(WITHOUT_EFFECT) & declared().keys()
    with pytest.raises(UsageError, match=r"unknown key 'data\.num_class'; see"):
        load([write(tmp_path / "b.yaml", text.replace("classes", "class"))])


def test_a_file_is_read_again_once_it_has_changed(tmp_path):
    file = tmp_path / "a.yaml"
    for rate in (0.5, 0.25):
        file.write_text(f"training: {{lr: {rate}}}\n")
        assert [load([file])["training.lr"] for _ in range(2)] == [rate, rate]


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 50_000, "{a: " * 50_000, "? " * 50_000, "[" * 400])
def test_deep_nesting_is_one_sentence_and_does_not_end_the_process(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
