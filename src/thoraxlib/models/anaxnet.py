"""AnaXNet: anatomical regions, what each looks like, a graph over them, and findings in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoraxlib import detection, graphs
from thoraxlib import labels as label_sets
from thoraxlib.detection import Regions
from thoraxlib.graphs.adjacency import Builder
from thoraxlib.heads import regions as region_heads
from thoraxlib.heads.regions import RegionHead
from thoraxlib.metrics.image_level import image_level
from thoraxlib.models import register
from thoraxlib.models.base import ChestModel
from thoraxlib.models.registry import ModelCard
from thoraxlib.registry import OptionError, Spec
from thoraxlib.utils.modes import eval_view


class AnaXNetOutput(NamedTuple):
    """Everything an :class:`AnaXNet` computes of N images.

    Attributes
    ----------
    logits : Tensor
        (N, R, K); those of absent regions mean nothing.
    attention : Tensor or None
        (N, R, R): how much region r looked at each region, where the head has that.
    regions : Regions
        Boxes, scores, presence and features; boxes and scores are None where features were given.
    """

    logits: Tensor
    attention: Tensor | None
    regions: Regions

    @property
    def image_logits(self) -> Tensor:
        """Logits of whole images (N, K): the highest of the regions that are present, NaN where none is."""
        return image_level(torch.where(self.regions.present[..., None], self.logits, torch.nan))


class AnaXNet(ChestModel):
    """``head(detector(images))``, or the head alone on features: logits (N, R, K) of K findings in R regions.

    Parameters
    ----------
    head : RegionHead
        Features (N, R, D) -> logits.
    labels : str or sequence of str
        The K findings.
    regions : str or sequence of str
        The R regions.
    in_features : int
        D.
    detector : RegionDetector, optional
        Images -> :class:`~thoraxlib.detection.Regions`, from :mod:`thoraxlib.detection`.
    train_detector : bool
        Otherwise it is frozen: no gradient, always in eval mode.

    Attributes
    ----------
    input_spec : InputSpec
        The detector's; absent without one.
    """

    def __init__(
        self,
        head: RegionHead,
        *,
        labels: str | Sequence[str],
        regions: str | Sequence[str],
        in_features: int,
        detector: detection.RegionDetector | None = None,
        train_detector: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.region_names = label_sets.resolve(labels), label_sets.resolve(regions)
        self.in_features, self.train_detector = in_features, train_detector
        self.head = head
        self.detector = detector
        if detector is not None and hasattr(detector, "input_spec"):  # a plain module may have none
            self.input_spec = detector.input_spec
        if detector is not None and not train_detector:
            detector.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AnaXNet:
        """Training or eval mode; a frozen detector stays in eval mode."""
        super().train(mode)
        if self.detector is not None and not self.train_detector:
            self.detector.eval()
        return self

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits (N, R, K).

        Parameters
        ----------
        x : Tensor
            Images (N, C, h, w), with a detector; features of regions (N, R, D), with or without.
        present : Tensor, optional
            bool (N, R), of features: the regions that are there; by default all.

        Raises
        ------
        TypeError, ValueError
            Images without a detector, or with `present`, which the detector says; features of another shape or type.
        """
        return self.forward_head(self.forward_features(x, present))

    def forward_features(self, x: Tensor, present: Tensor | None = None) -> Regions:
        """The regions of images, or of features as they are; see :meth:`forward`.

        Raises
        ------
        ValueError
            Images for a model without detector; `present` beside images.
        """
        if x.ndim == 3:
            self._check(x, present)
            everywhere = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            return Regions(None, None, everywhere if present is None else present, x)  # type: ignore[arg-type]
        if self.detector is None:
            raise ValueError(
                f"this model has no detector: it takes features (N, {len(self.region_names)}, {self.in_features}), got "
                f"{tuple(x.shape)}; thoraxlib.build('anaxnet', detector=...) takes images"
            )
        if present is not None:
            raise ValueError("present goes with features: of images, the detector says which regions are there")
        with torch.set_grad_enabled(self.train_detector and torch.is_grad_enabled()):
            regions: Regions = self.detector(x)
        return regions

    def forward_head(self, regions: Regions) -> Tensor:
        """Logits (N, R, K) of the regions."""
        return self.head(regions.features, regions.present)  # type: ignore[no-any-return]

    def forward_all(self, x: Tensor, present: Tensor | None = None) -> AnaXNetOutput:
        """Logits, attention, and the regions; see :meth:`forward`."""
        regions = self.forward_features(x, present)
        return AnaXNetOutput(*self.head.forward_all(regions.features, regions.present), regions)

    @torch.inference_mode()
    def predict_proba(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Probabilities (N, R, K) in [0, 1]: the logits' sigmoid in eval mode, NaN in absent regions, no gradients."""
        output = eval_view(self).forward_all(x, present)
        return torch.where(output.regions.present[..., None], output.logits.sigmoid(), torch.nan)

    def _check(self, x: Tensor, present: Tensor | None) -> None:
        wanted = (len(self.region_names), self.in_features)
        if not x.is_floating_point():
            raise TypeError(f"features must be floating point, got {x.dtype}")
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(f"features must be (N, {wanted[0]}, {wanted[1]}): regions, width; got {tuple(x.shape)}")
        if present is not None and (present.dtype != torch.bool or present.shape != x.shape[:2]):
            raise ValueError(
                f"present must be bool (N, {wanted[0]}), N={x.shape[0]}, got {present.dtype} {tuple(present.shape)}"
            )


@register("anaxnet", card=ModelCard.read("anaxnet"))
def anaxnet(
    *,
    labels: str | Sequence[str] = "imagenome9",
    regions: str | Sequence[str] = "regions18",
    detector: Spec | detection.RegionDetector | None = None,
    train_detector: bool = False,
    head: Spec | RegionHead = "region_graph",
    adjacency: Spec | graphs.Graph | Builder | None = None,
    counts: Mapping[str, Any] | graphs.RegionCounts | None = None,
    in_features: int | None = None,
) -> AnaXNet:
    """AnaXNet: region detector, region graph with attention, findings in each region.

    Agu et al. 2021, arXiv 2105.09937. The head has 4,205,577 parameters.

    Parameters
    ----------
    labels : str or sequence of str
        The K findings.
    regions : str or sequence of str
        The R regions.
    detector : str, mapping or module, optional
        From :mod:`thoraxlib.detection`: the model takes images. Without, it takes features (N, R, D), such as a
        :class:`thoraxlib.detection.FeatureStore` has.
    train_detector : bool
        Train the detector's features along; otherwise it is frozen, as in the paper.
    head : str, mapping or RegionHead
        From :mod:`thoraxlib.heads.regions`: ``{"name": "region_graph", "scale": True}``; "region_linear" is the
        paper's baseline without graph.
    adjacency : str, mapping or Graph, optional
        From :mod:`thoraxlib.graphs.adjacency`, for a head with a graph; with `counts`, the paper's "jaccard"; without,
        the head's default, which is counted on the synthetic data set.
    counts : RegionCounts or mapping, optional
        Of the training labels: ``thoraxlib.graphs.RegionCounts.of(store.region_targets, ...)``.
    in_features : int, optional
        D; by default the detector's, 1024 without one.

    Raises
    ------
    ValueError
        A detector of other regions or of another width.
    OptionError
        `adjacency` or `counts`, and a head without graph, with its own, or made already; a head that is for other
        names or another width.
    """
    findings, places = label_sets.resolve(labels), label_sets.resolve(regions)
    finder = None if detector is None else detection.registry.resolve(detector, regions=places)
    if finder is not None and tuple(finder.region_names) != places:
        raise ValueError(f"the detector finds {list(finder.region_names)}, the model has regions={list(places)}")
    found: int = getattr(finder, "feature_dim", in_features or 1024)
    width = found if in_features is None else in_features
    if width != found:
        raise ValueError(f"in_features={in_features}, but the detector's features are {found} wide")
    graph = {key: value for key, value in (("adjacency", adjacency), ("counts", counts)) if value is not None}
    _check_graph(head, graph)
    supplied = {"in_features": width, "num_labels": len(findings), "labels": findings, "regions": places}
    _check_head(head, supplied)
    if counts is not None:
        graph = {"adjacency": "jaccard", **graph}
    made = region_heads.registry.resolve(head, **supplied, **graph)
    return AnaXNet(
        made, labels=findings, regions=places, in_features=width, detector=finder, train_detector=train_detector
    )


def _check_graph(head: Spec | RegionHead, graph: Mapping[str, Any]) -> None:
    """Raise where a head has no use for what is given of a graph, or has it from elsewhere."""
    if not isinstance(head, (str, Mapping)):
        if graph:
            kept = f"head is a {type(head).__name__} that is made already, so that it keeps its graph"
            raise OptionError(f"models: {kept}")
        return
    kind, own = region_heads.registry.split_spec(head)
    unknown = sorted(set(graph) - set(region_heads.describe(kind).options))
    if unknown:
        raise OptionError(f"models: head {kind!r} has no graph, so that {unknown} cannot be set")
    twice = sorted(set(graph) & set(own))
    if twice:
        raise OptionError(f"models: {twice} given to the model and to its head {kind!r}: give it once")


def _check_head(head: Spec | RegionHead, supplied: Mapping[str, Any]) -> None:
    """Raise where a head says of itself that it is for another width, or for other names than the model's."""
    spec = head if isinstance(head, (str, Mapping)) else getattr(head, "registry_spec", {"name": ""})
    for key, value in region_heads.registry.split_spec(spec)[1].items():
        if value is None or key not in supplied:
            continue
        theirs = label_sets.resolve(value) if key in ("labels", "regions") else value
        if theirs != supplied[key]:
            raise OptionError(f"models: the head has {key}={value!r}, the model {supplied[key]!r}")
