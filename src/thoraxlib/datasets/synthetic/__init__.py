"""Synthetic frontal chest X-rays with findings, boxes, masks and regions, computed without any file.

`labels` draws the findings of each image, `anatomy` the patient's shape; `findings` change it, `body` draws it on a
`canvas`, `image` computes the grey levels, and `regions` the organ masks and regions. `dataset` has the data set.
"""

from thoraxlib.datasets.synthetic.dataset import SyntheticDataset

__all__ = ["SyntheticDataset"]
