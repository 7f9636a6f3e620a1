"""View, orientation and inversion of radiographs, as a check before a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from thoraxlib.images import preprocess_for
from thoraxlib.images.reading import Source
from thoraxlib.models.loading import load_pretrained
from thoraxlib.utils.modes import eval_view

_AT_ONCE = 256  # images in a forward pass
_TURNS = ("Upright", "Turned 90", "Turned 180", "Turned 270")


@dataclass(frozen=True)
class View:
    """View of a frontal radiograph, estimated by the weights ``view-small``.

    Attributes
    ----------
    ap : float
        Probability that the view is AP and not PA.
    female : float
        Probability that the patient is female.
    inverted : float
        Probability that the grey values are inverted.
    turned : int
        0, 90, 180 or 270: degrees by which the image is turned clockwise;
        ``torch.rot90(image, turned // 90, (-2, -1))`` puts it upright.
    """

    ap: float
    female: float
    inverted: float
    turned: int

    @property
    def position(self) -> str:
        """The more probable view, "AP" or "PA"."""
        return "AP" if self.ap >= 0.5 else "PA"

    @property
    def faults(self) -> list[str]:
        """Descriptions of what is unusual; empty for an upright image that is not inverted."""
        faults = []
        if self.turned:
            back = {90: "90 degrees counterclockwise", 180: "180 degrees", 270: "90 degrees clockwise"}[self.turned]
            faults.append(f"seems to be turned by {self.turned} degrees clockwise: turn it by {back}")
        if self.inverted >= 0.5:
            faults.append(f"seems to have inverted grey values ({self.inverted:.2f}): invert them")
        return faults

    def __str__(self) -> str:
        probability = max(self.ap, 1 - self.ap)
        return ", ".join([f"view {self.position} ({probability:.2f})", *(self.faults or ["upright"])])

    def to_json(self) -> dict[str, Any]:
        """Return the attributes and the position as plain JSON."""
        return {"position": self.position, **asdict(self)}


class ViewCheck:
    """Estimate the :class:`View` of images by the weights ``view-small``, 256 images in one forward pass.

    They have seen frontal radiographs of adults of one hospital only. A lateral view gets an answer, too; on images of
    other hospitals, trust orientation and inversion, not view and sex (``thoraxlib.weights.describe("view-small")``).

    Parameters
    ----------
    device : torch.device
        Where the network computes.

    Examples
    --------
    >>> view, _ = ViewCheck()(torch.rand(2, 1, 80, 60))
    >>> view.position in ("AP", "PA"), view.turned in (0, 90, 180, 270)
    (True, True)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        model = load_pretrained("view-small")
        self.model = eval_view(model, self.device)
        self.preprocess = preprocess_for(model)
        self.labels = model.labels

    @torch.inference_mode()
    def __call__(self, images: Source | Sequence[Source]) -> list[View]:
        """Return the view of each image; `images` as :func:`thoraxlib.preprocess_for` takes them."""
        parts = torch.split(self.preprocess(images), _AT_ONCE)
        p = torch.cat([self.model(x.to(self.device)).float().sigmoid().cpu() for x in parts])
        turns = p[:, [self.labels.index(name) for name in _TURNS]].argmax(dim=1) * 90
        ap, female, inverted = (p[:, self.labels.index(name)].tolist() for name in ("AP", "Female", "Inverted"))
        return [View(*values) for values in zip(ap, female, inverted, turns.tolist(), strict=True)]
