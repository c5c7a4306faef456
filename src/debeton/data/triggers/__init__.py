"""Triggers: shortcuts planted in images."""
