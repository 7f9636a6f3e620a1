"""PCAM's probability maps."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.cams import register
from thoraxlib.cams.cam import CAM


@register("pcam")
class ProbabilityMap(CAM):
    """A label's probability at every location, in [0, 1] (Ye et al. 2020, arXiv 2005.14480): no backward pass.

    Made for PCAM pooling, whose logit comes from these maps; defined for every head with per-location logits.

    Parameters
    ----------
    model, target
        See :class:`thoraxlib.cams.cam.CAM`.

    Raises
    ------
    TypeError
        When called: the head has no per-location logits.
    """

    name = "pcam"
    bias = True

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        return super().maps(features, x, labels).sigmoid()
