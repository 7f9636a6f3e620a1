"""Bug-compatible behaviour of published code, for its published numbers and weights and for comparison.

The registries of other subpackages list these modules, so that their components are built by name
(``cams.build("x_ray_cam", model)``); nothing else in the library imports them.
"""
