"""List the published checkpoint files of each layout; the other columns of the table are computed."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Published files of a layout (empty: none is known) and the models that they fit."""

    published: str
    models: tuple[str, ...] = ()
    other: str = ""


FILES: dict[str, Source] = {
    "chexnet_arnoweng": Source("``model.pth.tar``", ("chexnet",)),
    "chexnet_zoogzog": Source("``m-25012018-123527.pth.tar``", ("chexnet",)),
    "chexnet_jrzech": Source("``checkpoint`` of 2018 and of 2022", ("chexnet",)),
    "jfhealthcare": Source("``pre_train.pth``; torchxrayvision's copy of it", ("jf_top1",)),
    "x_ray": Source("", ("x_ray",)),
    "jaydurant": Source("", ("unified_dcnn_padchest", "unified_dcnn", "chexnet")),
    "ag_cnn": Source("three files; only the fusion's was available", ("ag_cnn",)),
    "anaxnet": Source("", ("anaxnet",)),
    "cxr_lka": Source("", ("van", "vangcn", "seg_vangcn", "segfusion_van", "segfusion_vangcn", "segfusion_vanvit")),
    "cxr_vtnet": Source("", ("vtnet",)),
    "cxr_dense_and_van": Source("", ("dense_and_van",)),
    "cxr_densevan": Source("", ("densevan",)),
    "cxr_vanillanet": Source("", ("vanillanet",)),
    "plain": Source("ImageNet weights of timm and torchvision", (), "any backbone of timm or torchvision"),
    "transformers_dinov2": Source("RAD-DINO, RAD-DINO-MAIRA-2, CXformer", (), "DINOv2 as a backbone"),
    "biovil": Source("BioViL's image encoder", (), "resnet50 as a backbone"),
    "efficientnet": Source("EfficientNet-Lite0", ("timm",), "tf_efficientnet_lite0 as a backbone"),
    "softmax_pair": Source("torchxrayvision's models of view and sex", ("classifier",)),
    "thoraxlib": Source("", (), "every model of the same configuration"),
}
