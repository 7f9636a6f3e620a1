"""Components for thoraxlib. The entry points in ``pyproject.toml`` name them; nobody has to import this package."""
