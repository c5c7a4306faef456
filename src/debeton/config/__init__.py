"""Settings: typed sections, files, overrides and checkers."""

from debeton.config.help import section_text, sections_text
from debeton.config.identity import run_seeds, setting_identity
from debeton.config.loading import IMPLIED, Config, as_of_now, imply, load, suggest
from debeton.config.phases import PhaseSettings, phase_setting, phase_settings
from debeton.config.section import declared, section, setting

__all__ = [
    "IMPLIED",
    "Config",
    "PhaseSettings",
    "as_of_now",
    "declared",
    "imply",
    "load",
    "phase_setting",
    "phase_settings",
    "run_seeds",
    "section",
    "section_text",
    "sections_text",
    "setting",
    "setting_identity",
    "suggest",
]
