"""The library's own entries of the room; imported on the first use of one of its verbs."""

from importlib.util import find_spec

from thoraxlib.datasets import register
from thoraxlib.datasets.nih14 import NIH14

register("nih14")(NIH14)

_spec = find_spec("thoraxlib.datasets.phantom")
if _spec is not None and _spec.origin is not None:  # until the phantom lands
    from thoraxlib.datasets.phantom import Phantom

    register("phantom")(Phantom)
