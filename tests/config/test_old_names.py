"""Old names of settings are read as the settings that took their place, and a note says so."""

from __future__ import annotations

import logging

import pytest

from debeton.config import as_of_now, declared, load
from debeton.config.old_names import OLD_NAMES, _note
from debeton.system.errors import UsageError

QUASI = {"training.order": "quasi_random", "loader.os_cache": False}


@pytest.fixture(autouse=True)
def _fresh_notes():
    _note.cache_clear()


@pytest.mark.parametrize(
    ("old", "value", "means"),
    [
        ("training.disable_logging", "true", {"logging.tensorboard": False}),
        ("training.disable_logging", "0", {"logging.tensorboard": True}),
        ("training.supercloud", "1", QUASI),
        ("training.supercloud", "false", {"training.order": "random", "loader.os_cache": True}),
    ],
)
def test_an_old_name_means_the_new_ones_in_yaml_and_on_the_command_line(tmp_path, old, value, means):
    file = tmp_path / "a.yaml"
    file.write_text(f"training: {{{old.split('.')[1]}: {value}}}")
    for config in (load([file]), load([], [f"--{old}", value])):
        assert {key: config[key] for key in means} == means
        assert old not in config.values


def test_one_line_in_the_log_names_the_new_settings(caplog, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("training: {supercloud: true}")
    with caplog.at_level(logging.INFO, logger="debeton"):
        logging.getLogger("debeton").propagate = True
        load([file])
        load([file])
    assert caplog.messages == [
        f"{file}: training.supercloud is an old name; use training.order and loader.os_cache",
    ]


def test_later_places_win_over_earlier_ones_whichever_name_they_use(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("training: {disable_logging: true}")
    assert load([file], ["--logging.tensorboard", "true"]).logging.tensorboard
    assert load([file], ["--training.disable_logging", "false"]).logging.tensorboard
    file.write_text("logging: {tensorboard: true}")
    assert not load([file], ["--training.disable_logging", "true"]).logging.tensorboard


def test_an_old_and_a_new_name_of_one_place_must_agree(tmp_path):
    same = ["--training.supercloud", "true", "--training.order", "quasi_random", "--loader.os_cache", "false"]
    assert load([], same)["loader.os_cache"] is False
    message = r"the command line: training\.supercloud is 'true' and training\.order is 'random'; .* is an old name"
    with pytest.raises(UsageError, match=message):
        load([], ["--training.supercloud", "true", "--training.order", "random"])
    file = tmp_path / "a.yaml"
    file.write_text("training: {disable_logging: true}\nlogging: {tensorboard: true}")
    with pytest.raises(UsageError, match=r"a\.yaml: .* means logging\.tensorboard false here: give logging\.tens"):
        load([file])
    with pytest.raises(UsageError, match=r"training\.supercloud is 'perhaps'; expected true or false"):
        load([], ["--training.supercloud", "perhaps"])


@pytest.mark.parametrize(
    ("training", "loader", "logs", "means"),
    [
        ("disable_logging: false, supercloud: false", "true", "true", ("random", True, True)),
        ("disable_logging: false, supercloud: false", "false", "false", ("random", False, False)),
        ("disable_logging: true, supercloud: true", "true", "true", ("quasi_random", False, False)),
        ("disable_logging: true, supercloud: true", "false", "false", ("quasi_random", False, False)),
    ],
)
def test_the_configuration_of_a_run_of_before_means_what_it_meant(tmp_path, caplog, training, loader, logs, means):
    """It gives every setting: a switch that was off says nothing, and one that was on decided."""
    file = tmp_path / "config.yaml"
    logging_ = f"logging: {{tensorboard: {logs}, wandb: '', progress: auto}}"
    file.write_text(f"loader: {{os_cache: {loader}}}\n{logging_}\ntraining: {{{training}}}")
    with caplog.at_level(logging.INFO, logger="debeton"):
        config = load([file])
    assert (config.training.order, config.loader.os_cache, config.logging.tensorboard) == means
    assert not caplog.messages  # nobody wrote this file by hand


def test_settings_of_an_old_run_are_those_of_a_new_one():
    old = {"training.exp_name": "", "training.supercloud": False, "data.mini_dataset": -1.0, "mine.x": "", "model": 3}
    new = {"training.exp_name": None, "data.mini_dataset": None, "mine.x": "", "model": 3}
    assert as_of_now(old) == {**new, "training.order": "random", "loader.os_cache": True}
    assert as_of_now({"training.lr": "fast"}) == {"training.lr": "fast"}  # unknown to this version, and kept
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in load().values.items()}
    assert as_of_now(values) == values


def test_the_table_names_settings_that_there_are():
    for old, entry in OLD_NAMES.items():
        assert old not in declared()
        for meaning in entry.means.values():
            for key, value in meaning.items():
                assert declared()[key].checker.check(value) == value


def test_the_order_is_part_of_what_a_run_is_and_the_reading_is_not():
    assert load([], ["--training.order", "quasi_random"]).identity_hash() != load().identity_hash()
    assert load([], ["--loader.os_cache", "false", "--logging.tensorboard", "no"]).identity_hash() == (
        load().identity_hash()
    )
