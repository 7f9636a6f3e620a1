"""AnaXNet: features of anatomical regions, a graph over the regions, and findings in each."""

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
from thoraxlib.metrics.studies import image_level
from thoraxlib.models import register
from thoraxlib.models.base import ChestModel
from thoraxlib.models.registry import ModelCard, with_options
from thoraxlib.registry import OptionError, Spec
from thoraxlib.utils.modes import eval_view


class AnaXNetOutput(NamedTuple):
    """Everything an :class:`AnaXNet` computes of N images.

    Attributes
    ----------
    logits : Tensor
        (N, R, K); those of absent regions have no meaning.
    attention : Tensor or None
        (N, R, R): attention of each region to each region; None if the head has none.
    regions : Regions
        Boxes, scores, presence and features; boxes and scores are None if the input was features.
    """

    logits: Tensor
    attention: Tensor | None
    regions: Regions

    @property
    def image_logits(self) -> Tensor:
        """Logits of whole images (N, K): the highest of the present regions; NaN without one."""
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
        Train it, too; otherwise it is frozen: no gradient, always in eval mode.

    Attributes
    ----------
    input_spec : InputSpec
        The detector's; missing without one.
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

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Return images with a detector; else features of regions (batch, R, D), and which of them are present."""
        if self.detector is not None:
            return super().example_inputs(batch)
        shape = (batch, len(self.region_names))
        return torch.randn(*shape, self.in_features), torch.rand(shape) < 0.8

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
            Images (N, C, h, w), if the model has a detector; or features of regions (N, R, D).
        present : Tensor, optional
            bool (N, R): regions that the features are known of; by default all. Not with images, as the detector
            decides.

        Raises
        ------
        TypeError, ValueError
            Images without a detector, or with `present`; features of another shape or type.
        """
        return self.forward_head(self.forward_features(x, present))

    def forward_features(self, x: Tensor, present: Tensor | None = None) -> Regions:
        """Regions of images, or of given features; see :meth:`forward`.

        Raises
        ------
        ValueError
            Images for a model without detector; `present` with images.
        """
        if x.ndim == 3:
            self._check(x, present)
            all_present = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            return Regions(None, None, all_present if present is None else present, x)  # type: ignore[arg-type]
        if self.detector is None:
            raise ValueError(
                f"this model has no detector: it takes features (N, {len(self.region_names)}, {self.in_features}), got "
                f"{tuple(x.shape)}; thoraxlib.build('anaxnet', detector=...) takes images"
            )
        if present is not None:
            raise ValueError("present goes with features: for images, the detector decides which regions are present")
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


@register("anaxnet", card=ModelCard.read("anaxnet", input_spec=None))
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
        From :mod:`thoraxlib.detection`: the model takes images. Without it, the model takes features (N, R, D), for
        instance of a :class:`thoraxlib.detection.FeatureStore`.
    train_detector : bool
        Train the detector's features, too; otherwise it is frozen, as in the paper.
    head : str, mapping or RegionHead
        From :mod:`thoraxlib.heads.regions`: ``{"name": "region_graph", "scale": True}``; "region_linear" is the
        paper's baseline without graph.
    adjacency : str, mapping or Graph, optional
        From :mod:`thoraxlib.graphs.adjacency`, for a head with a graph; with `counts`, the paper's "jaccard"; without
        both, the head's default, which is counted on the synthetic data set.
    counts : RegionCounts or mapping, optional
        Counts of the training labels: ``thoraxlib.graphs.RegionCounts.of(store.region_targets, ...)``.
    in_features : int, optional
        D; by default the detector's, 1024 without one.

    Raises
    ------
    ValueError
        A detector of other regions or of another width.
    OptionError
        `adjacency` or `counts` for a head without a graph, for one with its own, or for a ready one; a head for other
        names or another width.
    """
    findings, names = label_sets.resolve(labels), label_sets.resolve(regions)
    network = None if detector is None else detection.registry.resolve(detector, regions=names)
    if network is not None and tuple(network.region_names) != names:
        raise ValueError(f"the detector finds {list(network.region_names)}, the model has regions={list(names)}")
    width: int = getattr(network, "feature_dim", in_features or 1024)
    if in_features not in (None, width):
        raise ValueError(f"in_features={in_features}, but the detector's features are {width} wide")
    own = {} if not isinstance(head, Mapping) else head
    twice = [key for key, value in (("adjacency", adjacency), ("counts", counts)) if value is not None and key in own]
    if twice:
        raise OptionError(f"models: {twice} given to the model and to its head {own['name']!r}: give it once")
    if counts is not None and adjacency is None:
        adjacency = "jaccard"
    supplied = {"in_features": width, "num_labels": len(findings), "labels": findings, "regions": names}
    spec = with_options(region_heads.registry, head, adjacency=adjacency, counts=counts)
    _check_head(spec, supplied)
    return AnaXNet(
        region_heads.registry.resolve(spec, **supplied),
        labels=findings,
        regions=names,
        in_features=width,
        detector=network,
        train_detector=train_detector,
    )


def _check_head(head: Spec | RegionHead, supplied: Mapping[str, Any]) -> None:
    """Raise if the head's own options have another width, or other names, than the model."""
    spec = head if isinstance(head, (str, Mapping)) else getattr(head, "registry_spec", {"name": ""})
    for key, value in region_heads.registry.split_spec(spec)[1].items():
        if value is None or key not in supplied:
            continue
        theirs = label_sets.resolve(value) if key in ("labels", "regions") else value
        if theirs != supplied[key]:
            raise OptionError(f"models: the head has {key}={value!r}, the model {supplied[key]!r}")
