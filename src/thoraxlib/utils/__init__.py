"""Shared utilities: files, arguments, arrays, train/eval modes, tables as text, worker processes."""
