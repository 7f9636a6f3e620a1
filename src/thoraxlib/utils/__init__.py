"""Shared utilities: files, arguments, arrays, modes of modules, tables as text, worker processes."""
