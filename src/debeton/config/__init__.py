"""Settings: sections, files, overrides and checkers."""

from debeton.config.settings import IMPLIED, NOT_IDENTITY, Config, declared, help_text, imply, load

__all__ = ["IMPLIED", "NOT_IDENTITY", "Config", "declared", "help_text", "imply", "load"]
