"""Heat maps exactly as alinstein/X_RAY computes them."""

from __future__ import annotations

from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.cam import CAM
from thoraxlib.cams.gradcam import GradCAM, GradCAMPlusPlus
from thoraxlib.cams.split import Split


@register("x_ray_cam")
class XRayCAM(CAM):
    """CAM of the features after a ReLU, although the head of alinstein/X_RAY's DenseNet pools signed features.

    Parameters and errors: see :class:`thoraxlib.cams.cam.CAM`.
    """

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        return super().maps(features.relu(), x, labels)


@register("x_ray_pcam")
class XRayLogitMap(CAM):
    """Logits at every location, with bias, which alinstein/X_RAY draws for PCAM instead of probabilities.

    Parameters and errors: see :class:`thoraxlib.cams.cam.CAM`.
    """

    bias = True


@register("x_ray_gradcam")
class XRayGradCAM(GradCAM):
    """Grad-CAM of the probability with the gradient set to 0 where a feature is 0, as alinstein/X_RAY.

    The original's hook reads the gradient in front of a ReLU that works in place.

    Parameters
    ----------
    model, target
        See :class:`thoraxlib.cams.gradcam.GradientMap`.
    """

    def __init__(self, model: nn.Module | Split, target: str | int | None = None) -> None:
        super().__init__(model, target, score="probability")

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return super().combine(gradients * (features != 0), features)


@register("x_ray_gradcam++")
class XRayGradCAMPlusPlus(GradCAMPlusPlus):
    """Grad-CAM++ with the denominator "product", 1e-7 added to it, and the gradients of :class:`XRayGradCAM`.

    Parameters
    ----------
    model, target
        See :class:`thoraxlib.cams.gradcam.GradientMap`.
    """

    def __init__(self, model: nn.Module | Split, target: str | int | None = None) -> None:
        super().__init__(model, target, score="probability", denominator="product", eps=1e-7)

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return super().combine(gradients * (features != 0), features)
