"""The version of this package, installed or not; equal to that in pyproject.toml."""

__version__ = "0.1.0"
