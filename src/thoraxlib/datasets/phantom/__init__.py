"""A procedural thorax: frontal films with findings, boxes, masks and regions, without any file.

Data flows one way: `labels` draws what each film shows, `anatomy` the patient's shape, `findings` change it, `body`
puts it on a `canvas`, `film` develops it, `regions` reads off where things are, and `dataset` is what a user sees.
"""

from thoraxlib.datasets.phantom.dataset import Phantom

__all__ = ["Phantom"]
