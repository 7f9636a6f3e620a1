"""torchxrayvision's pretrained classifiers as models.

Needs the extra: ``pip install "thoraxlib[xrv]"``, which is imported when a model is built. The networks are this
library's own, with torchxrayvision's weights, labels and operating points. Its segmenter is
:class:`thoraxlib.segmentation.torchxrayvision.PSPNet`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thoraxlib import backbones
from thoraxlib.checkpoints import load_checkpoint
from thoraxlib.heads.linear import LinearHead
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import Classifier, ModelCard, register
from thoraxlib.segmentation.torchxrayvision import not_had, torchxrayvision
from thoraxlib.utils.arguments import one_of

_CARD = ModelCard.read("torchxrayvision", input_spec=None)


class OperatingPointHead(LinearHead):
    """Linear head whose logit is 0 if the probability is the label's operating point.

    torchxrayvision's ``op_norm`` in terms of logits: with a label's threshold t, the probability p = sigmoid(linear)
    becomes ``p / 2t`` up to t and ``1 - (1 - p) / 2(1 - t)`` above, which is an increasing function. ``logit_maps`` are
    those of the linear layer.

    Parameters
    ----------
    in_channels : int
        C.
    thresholds : Tensor
        (K,), above 0 and below 1.
    """

    thresholds: Tensor

    def __init__(self, in_channels: int, thresholds: Tensor) -> None:
        super().__init__(in_channels, len(thresholds))
        self.register_buffer("thresholds", thresholds)

    def forward(self, features: Any) -> Tensor:
        """Logits (N, K)."""
        logits = super().forward(features)
        logits = logits.to(
            torch.promote_types(logits.dtype, torch.float32)
        )  # half precision is too coarse near 0 and 1
        t = self.thresholds.to(logits.dtype)
        # each side is clamped at the operating point, so that its gradient is finite
        below = F.logsigmoid(logits) - (2 * t - logits.sigmoid().minimum(t)).log()
        above = (2 * (1 - t) - (-logits).sigmoid().minimum(1 - t)).log() - F.logsigmoid(-logits)
        return torch.where(logits.sigmoid() < t, below, above)


@register("xrv_densenet121", card=_CARD)
def xrv_densenet121(
    *,
    weights: str = "all",
    calibrated: bool = True,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """DenseNet-121 of torchxrayvision, for 224 x 224 pixels, trained on one data set or on seven.

    Parameters
    ----------
    weights : {"all", "nih", "pc", "chex", "mimic_nb", "mimic_ch", "rsna"}
        Name of the weights, which determines labels and operating points, also without `pretrained`. "pc" is PadChest,
        "mimic_nb" and "mimic_ch" are MIMIC-CXR with either of its label files, "rsna" is the RSNA pneumonia challenge;
        "all" is these and Google's and OpenI's labels.
    calibrated : bool
        Return logits in which every label's operating point is 0 (:class:`OperatingPointHead`); otherwise those of the
        linear layer.
    pretrained : bool
        Load these weights, downloaded by torchxrayvision; otherwise random weights, without a download.
    input_spec : mapping or InputSpec, optional
        Changes to the input of the weights, e.g. of its size.

    Raises
    ------
    ImportError
        torchxrayvision is not installed.
    ValueError
        Unknown `weights`; another number of channels than 1.
    RuntimeError
        The weights cannot be downloaded.
    """
    return _classifier("densenet121", "densenet121-res224-", weights, calibrated, pretrained, input_spec)


@register("xrv_resnet50", card=_CARD)
def xrv_resnet50(
    *,
    weights: str = "all",
    calibrated: bool = True,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """ResNet-50 of torchxrayvision, for 512 x 512 pixels, trained on PadChest, NIH, RSNA, SIIM and VinDr.

    torchxrayvision has no operating point for two of the 18 outputs, Lung Lesion and Enlarged Cardiomediastinum, and
    returns 0.5 for every image; this model leaves them out.

    Parameters
    ----------
    weights : {"all"}
        See :func:`xrv_densenet121`.
    calibrated, pretrained, input_spec
        See :func:`xrv_densenet121`, also for the errors.
    """
    return _classifier("resnet50", "resnet50-res512-", weights, calibrated, pretrained, input_spec)


def _classifier(
    backbone: str,
    prefix: str,
    weights: str,
    calibrated: bool,
    pretrained: bool,
    input_spec: Mapping[str, Any] | InputSpec | None,
) -> Classifier:
    published = torchxrayvision().models.model_urls
    known = [name.removeprefix(prefix) for name in published if name.startswith(prefix)]
    one_of("weights", weights, known)
    facts = published[prefix + weights]
    rows = [k for k, label in enumerate(facts["labels"]) if label and not math.isnan(facts["op_threshs"][k])]
    labels = [facts["labels"][k] for k in rows]
    spec = InputSpec(size=facts["input_resolution"], channels=1, mean=(0.5,), std=(1 / 2048,), resize="crop")
    spec = spec.updated(input_spec)
    if spec.channels != 1:
        raise ValueError(f"input_spec: torchxrayvision's models take 1 channel, got channels={spec.channels}")
    network = backbones.build(backbone, in_chans=1)
    thresholds = torch.tensor([facts["op_threshs"][k] for k in rows])
    width = network.channels[-1]
    head = OperatingPointHead(width, thresholds) if calibrated else LinearHead(width, len(labels))
    model = Classifier(network, head, labels=labels, input_spec=spec)
    if pretrained:
        load_state(model, _downloaded(prefix + weights), rows)
    return model


def load_state(model: Classifier, state: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> None:
    """Load torchxrayvision's state dict into a model of this module.

    Parameters
    ----------
    model : Classifier
        The model of the same weights.
    state : mapping
        State dict with a row for each of torchxrayvision's 18 labels.
    rows : sequence of int, optional
        Rows of the model's labels; by default found by name.
    """
    if rows is None:
        known = torchxrayvision().datasets.default_pathologies
        rows = [known.index(label) for label in model.labels]
    own = {key.removeprefix("model."): value for key, value in state.items() if key != "op_threshs"}
    own = {key: value[rows] if key.startswith(("classifier.", "fc.")) else value for key, value in own.items()}
    if isinstance(model.head, OperatingPointHead):
        own["head.thresholds"] = model.head.thresholds
    load_checkpoint(model, own, layout="plain", labels=model.labels)


def _downloaded(name: str) -> Mapping[str, Tensor]:
    """Return the state dict that torchxrayvision downloads as `name`."""
    try:
        net = torchxrayvision().models.get_model(name)
    except Exception as error:
        raise not_had(name, error) from error
    state: Mapping[str, Tensor] = getattr(net, "model", net).state_dict()  # the ResNet is inside
    return state
