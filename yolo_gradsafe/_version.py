"""The version, in a place that every module and the build can read."""

__all__ = ["__version__"]

__version__ = "0.1.0"
