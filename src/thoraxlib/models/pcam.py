"""PCAM: logit maps, probability-weighted pooling of each label's features, the same layer again.

Ye et al. 2020, arXiv 2005.14480. ``cams.build("pcam", model)`` gives its probability maps. The default input is
512 x 512 pixels. The published code's attention is "cumulative", its "fc_bn" is
``head={"name": "classwise", "norm": True}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.models.variant import variant

__all__ = ["JF_INPUT", "pcam"]

#: jfhealthcare/Chexpert: equalised, blurred, longer side 512, padded at right and bottom by 128, (x - 128) / 64.
JF_INPUT: Mapping[str, Any] = {
    "size": [512, 512],
    "mean": [128 / 255],
    "std": [64 / 255],
    "resize": "pad_end",
    "fill": 128 / 255,
    "equalize": True,
    "blur": 3,
}

_INPUT = InputSpec(size=(512, 512))
_CARD = ModelCard(
    paper="Ye et al., Weakly Supervised Lesion Localization With Probabilistic-CAM Pooling, arXiv 2005.14480, 2020",
    label_sets=("nih14", "nih8", "chexpert5"),
    input_spec=_INPUT,
    presets={
        "paper": Preset("The default: ResNet-34, as the paper's experiments on ChestX-ray14."),
        "jfhealthcare": Preset(
            "jfhealthcare/Chexpert, the paper's code (example_PCAM.json): DenseNet-121, CheXpert's five tasks, its "
            "input. Other trunks of that code by `backbone`: densenet169, densenet201, vgg19, vgg19_bn, inception_v3.",
            {
                "labels": "chexpert5",
                "backbone": "densenet121",
                "attention_mode": "cumulative",
                "input_spec": JF_INPUT,
            },
        ),
    },
    parity={
        "jfhealthcare_densenet121_pcam": "preset 'jfhealthcare': logits, logit maps, stages; its other poolings; fc_bn",
        "jfhealthcare_inception_v3_pcam": "the same with inception_v3, also with its transform_input",
        "jfhealthcare_vgg19_bn_pcam": "the same with vgg19_bn",
        "wsp_pool_*": "every pooling",
    },
    notes=(
        "The paper's network (ResNet-34) was not published as code: its parts have records, the whole has none.",
        "The paper's tables of AUROC and localisation could not be had here: see the paper. The code's README gives "
        "mean AUROC on CheXpert's 200 validation studies: AVG 0.895, LSE 0.896, PCAM 0.896.",
        "Not stated in the abstract and decided here: 512 x 512 pixels (as the code), ImageNet statistics.",
    ),
)


pcam = register("pcam", card=_CARD)(
    variant(
        classifier,
        __doc__,
        input_spec=_INPUT,
        backbone="resnet34",
        head="classwise",
        pool="pcam",
    )
)
