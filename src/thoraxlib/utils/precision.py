"""Precision of a forward pass, by Lightning's names."""

from __future__ import annotations

import torch

from thoraxlib.utils.arguments import one_of

_DTYPES = {"32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision.

    Parameters
    ----------
    device : torch.device
        The model's device.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        "32-true" computes in the precision of the weights.
    """
    one_of("precision", precision, tuple(_DTYPES))
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
