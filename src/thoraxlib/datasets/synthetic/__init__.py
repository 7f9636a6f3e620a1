"""A procedural thorax: frontal images with findings, boxes, masks and regions, without any file.

Data flows one way: `labels` draws what each image shows, `anatomy` the patient's shape, `findings` change it, `body`
puts it on a `canvas`, `image` develops it, `regions` reads off where things are, and `dataset` is what a user sees.
"""

from thoraxlib.datasets.synthetic.dataset import SyntheticDataset

__all__ = ["SyntheticDataset"]
