"""Read images (PNG, JPEG, DICOM, PIL, arrays, tensors) and preprocess them for a model.

Augmentations for training have a registry of their own, :mod:`thoraxlib.images.augmentations`.
"""

from thoraxlib.images import augmentations
from thoraxlib.images.copies import TrainingCopy
from thoraxlib.images.dicom import read_geometry
from thoraxlib.images.geometry import Geometry
from thoraxlib.images.reading import Source, read
from thoraxlib.images.resize import Resize, placement
from thoraxlib.images.transforms import InputTransform, Preprocessor, preprocess_for, transform_for
from thoraxlib.images.windows import Window, window

__all__ = [
    "Geometry",
    "InputTransform",
    "Preprocessor",
    "Resize",
    "Source",
    "TrainingCopy",
    "Window",
    "augmentations",
    "placement",
    "preprocess_for",
    "read",
    "read_geometry",
    "transform_for",
    "window",
]
