"""CheXNet: DenseNet-121 (ReLU after its last norm), average pooling, linear layer.

Rajpurkar et al. 2017, arXiv 1711.05225v3, section 2; trained there from ImageNet weights. 6,968,206 parameters with
14 labels. ``labels="pneumonia"`` is the paper's model of one output. ``head="map"`` pools per-location logits
instead of features: the same network with average pooling; with "lse" the locations with the highest logits decide,
which sharpens heat maps.
"""

from __future__ import annotations

from thoraxlib.input_spec import CENTRE_CROP, InputSpec
from thoraxlib.models import register
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset, by_label
from thoraxlib.models.variant import variant

__all__ = ["chexnet"]


_CARD = ModelCard(
    paper="Rajpurkar et al., CheXNet: Radiologist-Level Pneumonia Detection on Chest X-Rays with Deep Learning, "
    "arXiv 1711.05225v3, 2017",
    label_sets=("nih14", "nih8", "pneumonia", "padchest_openi22"),
    input_spec=InputSpec(),
    presets={
        "paper": Preset("The default: 224 x 224 by stretching, ImageNet statistics."),
        "arnoweng": Preset(
            "arnoweng/CheXNet: shorter side 256, crop 224 (its test averages ten crops: thoraxlib.models.tta.TenCrop).",
            {"input_spec": CENTRE_CROP},
        ),
        "zoogzog": Preset(
            "zoogzog/chexnet: tested as arnoweng; DenseNet-169 and -201 by `backbone`.", {"input_spec": CENTRE_CROP}
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
        "CheXNet paper, table 2 (random split by patient, not released)": by_label(
            "nih14", ".8094 .9248 .8638 .7345 .8676 .7802 .7680 .8887 .7901 .8878 .9371 .8047 .8062 .9164"
        ),
        "arnoweng/CheXNet (its lists, ten crops)": by_label(
            "nih14", ".8294 .9165 .8870 .7143 .8597 .7873 .7745 .8726 .8142 .8932 .9254 .8304 .7831 .9104"
        ),
        "zoogzog/chexnet (same lists)": by_label(
            "nih14", ".8321 .9107 .8860 .7145 .8653 .8037 .7655 .8857 .8157 .9017 .9422 .8523 .7948 .9416"
        ),
        "jrzech/reproduce-chexnet, retrained 2022": by_label(
            "nih14", ".8180 .9090 .8827 .7156 .8377 .7756 .7617 .8776 .8002 .8945 .9316 .8251 .7889 .9175"
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


chexnet = register("chexnet", card=_CARD)(
    variant(
        classifier,
        __doc__,
        backbone="densenet121",
    )
)
