"""Settings: typed sections, files, overrides and checkers."""

from debeton.config.help import section_text, sections_text
from debeton.config.loading import IMPLIED, NOT_IDENTITY, Config, as_of_now, imply, load
from debeton.config.phases import PhaseSettings, phase_setting, phase_settings
from debeton.config.section import declared, section, setting

__all__ = [
    "IMPLIED",
    "NOT_IDENTITY",
    "Config",
    "PhaseSettings",
    "as_of_now",
    "declared",
    "imply",
    "load",
    "phase_setting",
    "phase_settings",
    "section",
    "section_text",
    "sections_text",
    "setting",
]
