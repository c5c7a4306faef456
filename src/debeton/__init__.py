"""debeton: training that does not take the shortcut."""

__version__ = "0.1.0"
