"""CheXNet: DenseNet-121, average pooling, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from thoraxlib.backbones import Backbone
from thoraxlib.input_spec import InputSpec
from thoraxlib.labels import build as label_set
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.registry import Spec

__all__ = ["chexnet"]


def _nih14(*values: float) -> dict[str, float]:
    return dict(zip(label_set("nih14"), values, strict=True))


_CROP = {"resize": "crop", "crop_ratio": 224 / 256}
_CARD = ModelCard(
    paper="Rajpurkar et al., CheXNet: Radiologist-Level Pneumonia Detection on Chest X-Rays with Deep Learning, "
    "arXiv 1711.05225v3, 2017",
    label_sets=("nih14", "nih8", "pneumonia", "padchest_openi22"),
    presets={
        "paper": Preset("The default: 224 x 224 by stretching, ImageNet statistics."),
        "arnoweng": Preset(
            "arnoweng/CheXNet: shorter side 256, crop 224 (its test averages ten crops: thoraxlib.models.tta.TenCrop).",
            {"input_spec": _CROP},
        ),
        "zoogzog": Preset(
            "zoogzog/chexnet: tested as arnoweng; DenseNet-169 and -201 by `backbone`.", {"input_spec": _CROP}
        ),
        "jrzech": Preset(
            "jrzech/reproduce-chexnet: shorter side 224, centre crop 224.", {"input_spec": {"resize": "crop"}}
        ),
        "seed": Preset(
            "jaydurant/ChestX-ray_classification_and_localization: 22 findings, 250 x 250 by stretching, pixels in "
            "[0, 1] without mean and deviation although the trunk is ImageNet's (for its weights only).",
            {
                "labels": "padchest_openi22",
                "input_spec": {"size": [250, 250], "mean": [0.0], "std": [1.0]},
            },
        ),
    },
    published={
        "CheXNet paper, table 2 (random split by patient, not released)": _nih14(
            0.8094,
            0.9248,
            0.8638,
            0.7345,
            0.8676,
            0.7802,
            0.7680,
            0.8887,
            0.7901,
            0.8878,
            0.9371,
            0.8047,
            0.8062,
            0.9164,
        ),
        "arnoweng/CheXNet (its lists, ten crops)": _nih14(
            0.8294,
            0.9165,
            0.8870,
            0.7143,
            0.8597,
            0.7873,
            0.7745,
            0.8726,
            0.8142,
            0.8932,
            0.9254,
            0.8304,
            0.7831,
            0.9104,
        ),
        "zoogzog/chexnet (same lists)": _nih14(
            0.8321,
            0.9107,
            0.8860,
            0.7145,
            0.8653,
            0.8037,
            0.7655,
            0.8857,
            0.8157,
            0.9017,
            0.9422,
            0.8523,
            0.7948,
            0.9416,
        ),
        "jrzech/reproduce-chexnet, retrained 2022": _nih14(
            0.8180,
            0.9090,
            0.8827,
            0.7156,
            0.8377,
            0.7756,
            0.7617,
            0.8776,
            0.8002,
            0.8945,
            0.9316,
            0.8251,
            0.7889,
            0.9175,
        ),
    },
    parity={
        "chexnet_densenet121": "logits, probabilities, map after the last ReLU, CAM",
        "chexnet_arnoweng": "logits, probabilities, CAM, ten-crop probabilities",
        "chexnet_losses": "weighted binary cross-entropy",
        "chexnet_preprocess": "inputs of arnoweng, zoogzog, jrzech and seed, within one grey level",
    },
    notes=(
        "Outputs are logits; the re-implementations return probabilities (use model.predict_proba).",
        "Labels are in the order of NIH ChestX-ray14; the paper's text lists them alphabetically.",
        "Its 'Wang et al.' comparison column equals neither table of Wang et al.",
    ),
)


@register("chexnet", card=_CARD)
def chexnet(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | Backbone = "densenet121",
    pool: Spec | nn.Module = "avg",
    head: Spec = "linear",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """CheXNet: DenseNet-121 (ReLU after its last norm), average pooling, linear layer.

    Rajpurkar et al. 2017, arXiv 1711.05225v3, section 2. 6,968,206 parameters with 14 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels; "pneumonia" is the paper's one-output model.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`.
    head : str or mapping
        From :mod:`thoraxlib.heads`. "map" pools per-location logits instead of features: the same network with average
        pooling; with "lse" the places with the highest logits decide, which sharpens heat maps.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone, as in the paper.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224 stretched, ImageNet statistics).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        head=head,
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=input_spec,
    )
