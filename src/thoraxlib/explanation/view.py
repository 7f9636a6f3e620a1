"""View, orientation and inversion of radiographs, as a check before a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from thoraxlib.images import transform_for
from thoraxlib.models.loading import load_pretrained
from thoraxlib.utils.modes import eval_view

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
        0, 90, 180 or 270: degrees by which the image is turned clockwise. Turn it back to have it upright.
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
            faults.append(f"seems to be turned by {self.turned} degrees clockwise")
        if self.inverted >= 0.5:
            faults.append(f"seems to have inverted grey values (probability {self.inverted:.2f})")
        return faults

    def __str__(self) -> str:
        probability = max(self.ap, 1 - self.ap)
        return ", ".join([f"view {self.position} ({probability:.2f})", *(self.faults or ["upright"])])

    def to_json(self) -> dict[str, Any]:
        """Return the attributes and the position as plain JSON."""
        return {"position": self.position, **asdict(self)}


class ViewCheck:
    """Estimate the :class:`View` of images; several images are one forward pass.

    It has seen adults' frontal radiographs only: a lateral view gets an answer, too.

    Parameters
    ----------
    device : torch.device
        Where the network computes.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        model = load_pretrained("view-small")
        self.model = eval_view(model, self.device)
        self.transform = transform_for(model.input_spec)
        self.labels = model.labels

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[View]:
        """Return the view of each image (1, H, W), uint8 or float in [0, 1]."""
        x = self.transform.normalize.batch([self.transform.place(image) for image in images]).to(self.device)
        p = self.model(x).float().sigmoid().cpu()
        turns = p[:, [self.labels.index(name) for name in _TURNS]].argmax(dim=1) * 90
        ap, female, inverted = (p[:, self.labels.index(name)].tolist() for name in ("AP", "Female", "Inverted"))
        return [View(*values) for values in zip(ap, female, inverted, turns.tolist(), strict=True)]
