"""The generic classifier: any backbone, attention, head and pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from thoraxlib import backbones, graphs, heads, layers, segmentation
from thoraxlib import labels as label_sets
from thoraxlib.graphs.adjacency import Builder
from thoraxlib.input_spec import InputSpec
from thoraxlib.layers import fusion as fusions
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.fusion import FusionClassifier
from thoraxlib.models.registry import ModelCard, with_options
from thoraxlib.registry import OptionError, Spec
from thoraxlib.utils.arguments import one_of


@register("classifier", card=ModelCard.read("classifier"))
def classifier(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "resnet50",
    head: Spec = "linear",
    pool: Spec | nn.Module = "avg",
    neck: Spec | nn.Module | None = None,
    attention: Spec | nn.Module | None = None,
    attention_mode: Literal["once", "cumulative"] = "once",
    stage: int = -1,
    fusion: Spec | fusions.Fusion | None = None,
    segmenter: Spec | nn.Module | None = None,
    mask: Literal["hard", "soft"] = "hard",
    train_segmenter: bool = False,
    norm: bool | None = None,
    dropout: float | None = None,
    adjacency: Spec | graphs.Graph | Builder | None = None,
    counts: Spec | graphs.LabelCounts | None = None,
    embeddings: Spec | graphs.embeddings.Embedding | None = None,
    convolution: Spec | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """Any backbone, attention, head and pooling.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, head, pool : str, mapping or module
        From :mod:`thoraxlib.backbones`, :mod:`thoraxlib.heads` and :mod:`thoraxlib.layers.pooling`. The pooling is the
        head's: a head without pooling, or a ready one, allows only the default.
    neck : str, mapping or module, optional
        From :mod:`thoraxlib.layers`, between backbone and head; a ready module may say its ``out_channels``.
    attention : str, mapping or module, optional
        From :mod:`thoraxlib.layers`.
    attention_mode : {"once", "cumulative"}
        "once": between neck and head. "cumulative": in the head, once more before each label, as some published
        weights need it; the head is then "classwise" (:class:`thoraxlib.heads.classwise.ClasswiseHead`).
    stage : int
        Index of the backbone's feature map, without `fusion`.
    fusion : str, mapping or Fusion, optional
        From :mod:`thoraxlib.layers.fusion`: it combines all maps, and organ masks, for the head; the model is then a
        :class:`thoraxlib.models.fusion.FusionClassifier`.
    segmenter : str, mapping or module, optional
        From :mod:`thoraxlib.segmentation`, for a fusion that needs masks; without it, give them with the images,
        ``model(x, masks)``. It is built with random weights: load or train them first.
    mask : {"hard", "soft"}
        Kind of masks from the segmenter's logits, see :func:`thoraxlib.segmentation.base.foreground`.
    train_segmenter : bool
        Train the segmenter, too; otherwise it is frozen.
    norm, dropout, adjacency, counts, embeddings, convolution
        Options of the head, for heads that have them: `norm` of "classwise", `dropout` of most, the others of a label
        graph (:class:`thoraxlib.heads.label_graph.LabelGraphHead`). None leaves the head's default.
    in_chans : int
        Channels of the images.
    pretrained : bool
        Published weights for the backbone. Those of VAN were trained on pixels with mean and standard deviation 0.5:
        ``input_spec={"mean": [0.5], "std": [0.5]}``.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 224 x 224 pixels and ImageNet's statistics, and for backbones of the catalogue of
        weights, such as "rad-dino", their own (:func:`thoraxlib.backbones.default_input`).

    Raises
    ------
    ValueError
        Components that do not fit each other; a map that the backbone does not have.
    """
    one_of("attention_mode", attention_mode, ("once", "cumulative"))
    names = label_sets.resolve(labels)
    spec = backbones.model_input(backbone, in_chans).updated(input_spec)
    head = with_options(
        heads.registry,
        head,
        norm=norm,
        dropout=dropout,
        adjacency=adjacency,
        counts=counts,
        embeddings=embeddings,
        convolution=convolution,
    )
    network = backbones.for_input(backbone, spec, pretrained=pretrained)
    supplied: dict[str, Any] = {"num_labels": len(names), "labels": names, "pool": pool}
    if fusion is not None:
        if neck is not None or attention is not None:
            raise ValueError("neck and attention stand before a head of one map; with fusion= leave them out")
        height, width = spec.size
        sizes = [(-(-height // stride), -(-width // stride)) for stride in network.strides]
        fuse = fusions.registry.resolve(fusion, channels=network.channels, sizes=sizes, round_masks=mask == "hard")
        channels: Any = fuse.channels if len(fuse.channels) > 1 else fuse.channels[0]
        return FusionClassifier(
            network,
            fuse,
            _head(head, in_channels=channels, sizes=fuse.sizes(sizes), **supplied),
            labels=names,
            input_spec=spec,
            segmenter=None if segmenter is None else _segmenter(segmenter, spec.channels),
            mask=mask,
            train_segmenter=train_segmenter,
        )
    if segmenter is not None:
        raise ValueError("segmenter= makes masks for a fusion: add fusion='seg_pyramid' or fusion='seg_input'")
    if not -len(network.channels) <= stage < len(network.channels):
        raise ValueError(f"stage={stage}: the backbone has {len(network.channels)} maps")
    if attention is not None and attention_mode == "cumulative":
        name, options = heads.registry.split_spec(head)
        head = {"name": "classwise" if name == "linear" else name, **options, "attention": attention}
        attention = None
    channels, necks = network.channels[stage], []
    for block in (neck, attention):
        if block is not None:
            necks.append(layers.registry.resolve(block, in_channels=channels))
            channels = getattr(necks[-1], "out_channels", channels)
    between = nn.Sequential(*necks) if len(necks) > 1 else next(iter(necks), None)
    top = _head(head, in_channels=channels, **supplied)
    return Classifier(network, top, labels=names, input_spec=spec, neck=between, stage=stage)


def _head(spec: Any, *, pool: Any, **given: Any) -> heads.Head:
    """Build a head that pools by `pool`; heads without pooling, and ready ones, allow only the default."""
    made = not isinstance(spec, (str, Mapping))
    if pool != "avg" and (made or not heads.registry.accepts(spec, "pool")):
        kind = f"a {type(spec).__name__} that is made already" if made else f"{spec!r}, which pools nothing"
        raise OptionError(f"models: the head is {kind}: pool={pool!r} cannot be set, leave it at 'avg'")
    return heads.registry.resolve(spec, pool=pool, **given)


def _segmenter(spec: Any, channels: int) -> nn.Module:
    organs = segmentation.registry.resolve(spec, in_chans=channels)
    if not isinstance(organs, nn.Module):
        raise TypeError(
            f"segmenter must be a name, a mapping with 'name', or an nn.Module, got {type(organs).__name__}"
        )
    if getattr(organs, "in_chans", channels) != channels:
        raise ValueError(f"the segmenter takes {organs.in_chans} channels, the model's images have {channels}")
    return organs
