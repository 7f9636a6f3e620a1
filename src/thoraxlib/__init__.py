"""Composable building blocks and documented models for chest X-ray AI."""

__version__ = "0.1.0"
