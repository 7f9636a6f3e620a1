"""Images: reading (PNG, JPEG, DICOM, PIL, arrays, tensors) and the preprocessing that belongs to a model.

Train-time augmentations are a room of their own, :mod:`thoraxlib.images.augmentations`, with the usual four verbs.
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
