"""--help shows the sections, one of them, or all of them."""

from __future__ import annotations

import re

import pytest
from tests.running import run

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import declared, section_text
from debeton.config.section import SECTIONS
from debeton.system.errors import UsageError


def helped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(["--help", *words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_prints_the_flags_and_a_line_about_every_section(capsys):
    text = helped(capsys)
    for flag in ("--config-file", "--dry-run", "--list", "--doctor"):
        assert flag in text
    for name, entry in SECTIONS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", text, re.MULTILINE), name
    assert "--training.lr" not in text


def test_help_of_one_section_prints_its_settings_alone(capsys):
    text = helped(capsys, "jtt")
    for key in declared():
        assert (f"--{key} " in text) == key.startswith("jtt."), key
    assert "further copies of each error row" in text
    assert "[a whole number of at least 0; default 50]" in text
    assert "[a number of at least 0; or null; default null]" in text


def test_help_all_prints_every_setting_with_its_help(capsys):
    text = helped(capsys, "all")
    joined = " ".join(text.split())
    for key, one in declared().items():
        assert f"--{key} " in text, key
        assert one.help in joined, key
    assert max(map(len, text.splitlines())) <= 100
    assert "--training.supercloud is an old name of training.order and loader.os_cache" in text


def test_an_unknown_section_is_an_error_with_the_nearest_name(capsys):
    assert run(["--help", "trainin"]) == 2
    assert "--help trainin: there is no such section; did you mean 'training'?" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"--help training\.lr: .* did you mean 'training'"):
        section_text("training.lr")


def test_help_lines_are_plain(capsys):
    """A help line is no half sentence, has short sentences, and says the meaning of null."""
    from debeton.config.checkers import OrNull

    for key, one in declared().items():
        for sentence in re.split(r"[.;:] ", one.help):
            assert len(sentence.split()) <= 30, key
        assert not re.match(r"(of|in|as|that|what|how|whether|where|which|off|on|instead)\b", one.help), key
        assert ("null:" in one.help or "null or" in one.help) == isinstance(one.checker, OrNull), key
        assert not one.help.endswith("."), key
