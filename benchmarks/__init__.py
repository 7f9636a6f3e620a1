"""Measure the library against reference libraries in the same run: ``python -m benchmarks [NAME ...]``."""
