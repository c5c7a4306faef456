"""The text of --help: the sections of settings, one section, or all of them."""

from __future__ import annotations

import textwrap

from debeton.config.old_names import OLD_NAMES
from debeton.config.section import SECTIONS, Setting, show
from debeton.system.errors import UsageError, nearest

WIDTH = 100
INDENT = " " * 33
ALL = "all"


def sections_text() -> str:
    """Return one line about every section, for --help."""
    width = max(map(len, SECTIONS))
    lines = [f"  {name:<{width}}  {entry.help}" for name, entry in SECTIONS.items()]
    return "\n".join(
        [
            "Settings are written --section.key VALUE, or in a config file. The sections:",
            "",
            *lines,
            "",
            "--help SECTION prints the settings of one section, --help all those of every section.",
        ]
    )


def section_text(name: str) -> str:
    """Return the settings of one section, or of all; UsageError with the nearest name for an unknown one."""
    if name == ALL:
        return "\n\n".join(section_text(known) for known in SECTIONS)
    if name not in SECTIONS:
        raise UsageError(f"--help {name}: there is no such section{_nearest(name)} see --help for their names")
    lines = [f"{name}: {SECTIONS[name].help}"]
    lines += [setting_text(f"{name}.{key}", one) for key, one in SECTIONS[name].settings.items()]
    old = {key: entry.replaced_by for key, entry in OLD_NAMES.items() if key.startswith(f"{name}.")}
    lines += [f"  --{key} is an old name of {' and '.join(new)}; it is still accepted" for key, new in old.items()]
    return "\n".join(lines)


def _nearest(name: str) -> str:
    """Return `; did you mean ...?` for a section, or for the section of a key such as 'training.lr'."""
    part = name.split(".")[0].lstrip("-")
    return f"; did you mean '{part}'?" if part in SECTIONS else nearest(name, [*SECTIONS, ALL])


def setting_text(key: str, one: Setting) -> str:
    """Return two or more lines about a setting: name and help, then values and default."""
    accepted = f"[{one.checker.help()}; default {show(one.default)}]"
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)
    wrapper.initial_indent = f"  --{key:<28} "
    first = wrapper.wrap(one.help)
    wrapper.initial_indent = INDENT
    return "\n".join([*first, *wrapper.wrap(accepted)])
