"""Learned zeroth-order optimization: minimise what you can only query."""

__version__ = "0.1.0"
