"""alinstein/X_RAY: backbone, [attention], pooling, dropout, linear layer.

Its own backbones are presets; pool "pcam" makes its PCAM model. The repository trains from ImageNet weights.
"""

from __future__ import annotations

from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.models.variant import variant

__all__ = ["x_ray"]

_DENSENET = {"name": "densenet121", "final_act": False}
_PCAM = {"pool": "pcam", "attention_mode": "cumulative"}
_CARD = ModelCard(
    paper="alinstein/X_RAY, Weakly supervised Classification and Localization of Chest X-ray images, 2021; no paper",
    label_sets=("nih8", "nih14", "chexpert5", "abnormal"),
    input_spec=InputSpec(),
    presets={
        "resnet18": Preset("The default: ResNet18, maximum pooling."),
        "densenet121": Preset(
            "DenseNet121: no ReLU behind the last norm, so the pooled map is signed.", {"backbone": _DENSENET}
        ),
        "efficientnet_b0": Preset(
            "EfficientNet: B0 of the TensorFlow release, pooled behind its last convolution (1280 channels).",
            {"backbone": {"name": "tf_efficientnet_b0", "conv_head": True}},
        ),
        "custom": Preset("custom: its own small network, stride 64.", {"backbone": "x_ray_custom"}),
        "resnet18_pcam": Preset("PCAM_Model with ResNet18.", _PCAM),
        "densenet121_pcam": Preset("PCAM_Model with densenet121.", {"backbone": _DENSENET, **_PCAM}),
    },
    parity={
        "x_ray_resnet18": "logits and stages, with LSE, MAX and AVG",
        "x_ray_densenet121": "the same",
        "x_ray_efficientnet_b0": "the same",
        "x_ray_custom": "the same",
        "x_ray_densenet121_pcam": "logits, logit maps, probability maps, stages",
        "x_ray_resnet18_pcam_attention": "logits and logit maps with each attention, and without",
        "x_ray_*_heatmaps": "its CAM, Grad-CAM, Grad-CAM++ (variant='x_ray'), and its boxes",
        "x_ray_boxes": "its boxes (rule 'mean_factor', variant='x_ray')",
    },
    notes=(
        "Outputs are logits; its classifiers return probabilities.",
        "Dropout acts in training only; its PCAM model drops half of every vector in testing too, at random.",
        "Attention acts wherever it is asked for, by default once; its ResNet18, DenseNet121, EfficientNet and custom "
        "ignore the flag, its PCAM model applies the block once more for each label (attention_mode='cumulative').",
        "'abnormal' is any finding; its code takes Nodule's column.",
        "224 x 224 pixels as in its README; the flag's default is 512.",
    ),
)


x_ray = register("x_ray", card=_CARD)(
    variant(
        classifier,
        __doc__,
        labels="nih8",
        backbone="resnet18",
        head={"name": "linear", "dropout": 0.5},
        pool="max",
    )
)
