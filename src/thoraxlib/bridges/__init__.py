"""Bridges: networks of other packages as parts of the rooms.

Each module is a plug-in that comes with the library: its parts are named by the library's own entry points, so that
nothing is imported before one of them is used, and the other package is an extra.
"""
