"""DICOM files (extra ``dicom``): modality transform, window, polarity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

__all__ = ["read_dicom"]


def read_dicom(path: str | Path) -> tv_tensors.Image:
    """The picture that a DICOM viewer would show of a single grey frame.

    The steps of DICOM PS3.3 C.11: modality transform (rescale slope and intercept, or table), then the first VOI table
    or window, then inversion where PhotometricInterpretation is MONOCHROME1. Without table or window, 8-bit pixels
    stay as they are, and deeper ones are stretched between their 0.5 and 99.5 percentiles.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    tv_tensors.Image
        (1, H, W): uint8 for 8-bit files without window whose values the modality transform leaves as they are, else
        float32 within [0, 1].

    Raises
    ------
    ImportError
        pydicom is not installed.
    ValueError
        The file is no DICOM file, has no or damaged pixels, several frames, or colour.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.pixels import apply_modality_lut
    except ImportError as error:
        raise ImportError(f'{path}: reading DICOM needs pydicom: pip install "thoraxlib[dicom]"') from error
    try:
        dataset = pydicom.dcmread(path)
    except (InvalidDicomError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no readable DICOM file: {error}") from error
    polarity = str(dataset.get("PhotometricInterpretation", "missing"))
    if polarity not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{path}: PhotometricInterpretation must be MONOCHROME1 or MONOCHROME2, got {polarity}")
    try:
        stored = dataset.pixel_array
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise ValueError(f"{path}: the pixels cannot be decoded: {type(error).__name__}: {error}") from error
    if stored.ndim != 2 or stored.size == 0:
        raise ValueError(f"{path}: a single grey frame (rows, columns) is wanted, got shape {stored.shape}")

    values = apply_modality_lut(stored, dataset)
    shown = _first_voi(values, dataset)
    if shown is None and stored.dtype == np.uint8 and np.array_equal(values, stored):
        pixels = 255 - stored if polarity == "MONOCHROME1" else stored
        return tv_tensors.Image(torch.from_numpy(pixels.copy())[None])
    if shown is None:
        low, high = np.percentile(values, (0.5, 99.5))
        shown = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    if polarity == "MONOCHROME1":
        shown = 1 - shown
    return tv_tensors.Image(torch.from_numpy(shown.astype(np.float32))[None])


def _first_voi(values: NDArray[Any], dataset: Any) -> NDArray[np.floating[Any]] | None:
    """Within [0, 1], by the first VOI table or else window; None where the file has neither."""
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        looked_up: NDArray[Any] = apply_voi(values, dataset, index=0)
        return np.clip(looked_up / (2.0**depth - 1), 0.0, 1.0)
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    centre = float(np.atleast_1d(dataset.WindowCenter)[0])
    width = float(np.atleast_1d(dataset.WindowWidth)[0])
    return window(values, centre, width, str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR"))


def window(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR") -> NDArray[np.floating[Any]]:
    """Values through a window, within [0, 1] (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Parameters
    ----------
    values : ndarray
        After the modality transform.
    centre, width : float
        In the unit of `values`.
    function : {"LINEAR", "LINEAR_EXACT", "SIGMOID"}
        VOILUTFunction of the file.

    Raises
    ------
    ValueError
        `width` is below the function's least (1 for LINEAR, above 0 for the others), or an unknown `function`.

    Examples
    --------
    >>> window(np.array([0.0, 128.0, 255.0]), centre=128, width=256).round(3).tolist()
    [0.0, 0.502, 1.0]
    """
    x = values.astype(np.float64)
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOILUTFunction must be LINEAR, LINEAR_EXACT or SIGMOID, got {function!r}")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"WindowWidth {width} is too small for VOILUTFunction {function}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - centre) / width))
    if function == "LINEAR":  # the standard's half-pixel convention for integer values
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (x > centre).astype(np.float64)
    return np.clip((x - centre) / width + 0.5, 0, 1)
