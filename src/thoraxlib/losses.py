"""Losses of multi-label classification, and of organ masks, from logits.

Labels are in [0, 1] (soft labels included), or NaN for unknown, of any type; unknown labels are ignored. A label
outside [0, 1], such as CheXpert's -1 for uncertain, makes the loss NaN; an error would make the host wait for the
device at every step. Losses are computed in float32 under autocast, and are 0 with zero gradients if no label is known.
A loss whose weights come from the training set has a method ``fit(targets)``, which training calls first. Logits and
labels are (N, K); for "dice" and "dice_bce" they are (N, C, H, W), with the pixels of masks as labels.

>>> import torch
>>> loss = build("bce")
>>> float(loss(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])))
0.6931471824645996
>>> masks = torch.zeros(2, 3, 8, 8)
>>> masks[:, 0] = 1
>>> float(build("dice")(torch.where(masks > 0, 50.0, -50.0), masks))
0.0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from typing_extensions import Self

from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import one_of

registry: Registry[nn.Module] = Registry("losses")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

#: Number of images: one for each label, or a single one.
Counts = Sequence[float] | Tensor | float

REDUCTIONS = ("mean", "sum", "label_sum")
SCOPES = ("batch", "per_label", "dataset")


def label_counts(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Count positives and negatives of each label: two float tensors (K,) from targets (N, K), without NaN.

    Raises
    ------
    ValueError
        Targets that are not (N, K), or lie outside [0, 1].

    Examples
    --------
    >>> label_counts(torch.tensor([[1, float("nan")], [0, 1], [0, 1]]))
    (tensor([1., 2.]), tensor([2., 0.]))
    """
    targets = full_precision(targets)
    if targets.ndim < 2:
        raise ValueError(f"targets must be (N, K), got shape {tuple(targets.shape)}")
    known = ~targets.isnan()
    ones = targets.nan_to_num()
    outside = ones[(ones < 0) | (ones > 1)]
    if len(outside):
        raise ValueError(
            f"targets must lie in [0, 1], or be NaN for unknown; {len(outside)} do not, the first is {outside[0]:g}"
        )
    positives = ones.sum(dim=0)
    return positives, known.sum(dim=0) - positives


def full_precision(x: Tensor) -> Tensor:
    """Convert half precision, integers and booleans to float32; return float32 and float64 unchanged."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def known_labels(labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the labels, with 0 for unknown and NaN outside [0, 1], and a mask of the known ones."""
    labels = labels.to(dtype)
    y = labels.nan_to_num()
    return torch.where((y >= 0) & (y <= 1), y, torch.nan), ~labels.isnan()


def terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return -y ln p, -(1 - y) ln(1 - p), and 1 where the label is known, else 0; all (N, ..., K).

    Raises
    ------
    ValueError
        Logits and labels of different shapes.
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}: both must be (N, K), with one "
            "column for each label of the model"
        )
    logits = full_precision(logits)
    y, known = known_labels(labels, logits.dtype)
    zero = logits.new_zeros(())
    positive = torch.where(known, -y * logsigmoid(logits), zero)
    negative = torch.where(known, -(1 - y) * logsigmoid(-logits), zero)
    return positive, negative, known.to(logits.dtype)


def _reduce(entries: Tensor, known: Tensor, reduction: str) -> Tensor:
    """Return the sum, the mean over known labels, or the sum over labels of the mean over known images."""
    if reduction == "sum":
        return entries.sum()
    if reduction == "mean":
        return entries.sum() / known.sum().clamp(min=1)
    images = tuple(range(entries.ndim - 1))
    return (entries.sum(dim=images) / known.sum(dim=images).clamp(min=1)).sum()


def _stacked(positives: Counts | None, negatives: Counts | None) -> Tensor | None:
    """Stack the counts that are given as options, (2, K); None if neither is given."""
    if positives is None and negatives is None:
        return None
    if positives is None or negatives is None:
        raise ValueError("positives and negatives go together: give both, or neither")
    p, n = (torch.as_tensor(counts, dtype=torch.float32) for counts in (positives, negatives))
    p, n = (counts if counts.ndim else counts[None] for counts in (p, n))
    if p.ndim != 1 or p.shape != n.shape or not bool(((p >= 0) & (n >= 0)).all()):
        raise ValueError(
            f"positives and negatives must be K numbers each, 0 or more, got {positives!r} and {negatives!r}"
        )
    return torch.stack([p, n])


@register("bce")
class BCE(nn.Module):
    """Binary cross-entropy of each label, averaged over the known ones.

    ``-(w y ln p + (1 - y) ln(1 - p))`` with p = sigmoid(logit). CheXNet (Rajpurkar et al. 2017, section 5) sums over
    labels: ``reduction="label_sum"``; its re-implementations take the mean. ``reduction="sum"`` is the unweighted
    cross-entropy (CEL) of Wang et al. 2017.

    Parameters
    ----------
    pos_weight : sequence of float, Tensor or "batch", optional
        w of each label, (K,). "batch": negatives over positives of the label in the batch, as in jfhealthcare/Chexpert
        (``batch_weight``) and the PCAM model of alinstein/X_RAY; 1 without positives.
    reduction : {"mean", "sum", "label_sum"}
        Over the known labels; ``"label_sum"`` is the mean over images, summed over labels.
    skip_absent : bool
        Ignore a label without a positive in the batch, negatives included, as in these two repositories.

    Raises
    ------
    ValueError
        `pos_weight` is not K numbers of 0 or more.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        pos_weight: Sequence[float] | Tensor | str | None = None,
        reduction: str = "mean",
        skip_absent: bool = False,
    ) -> None:
        super().__init__()
        one_of("reduction", reduction, REDUCTIONS)
        self.reduction, self.skip_absent = reduction, skip_absent
        self.by_batch = isinstance(pos_weight, str)
        if isinstance(pos_weight, str):
            one_of("pos_weight", pos_weight, ("batch",))
            pos_weight = None
        weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)
        if weight is not None and (weight.ndim != 1 or not bool((weight >= 0).all())):
            raise ValueError(f"pos_weight must be K numbers, 0 or more, got {pos_weight!r}")
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, K) and labels (N, K) in [0, 1] or NaN."""
        positive, negative, known = terms(logits, labels)
        if self.pos_weight is not None:
            _check_width("pos_weight", self.pos_weight, logits)
            positive = positive * self.pos_weight.to(positive)
        if self.by_batch or self.skip_absent:
            images = tuple(range(labels.ndim - 1))
            ones = labels.detach().to(positive.dtype).nan_to_num().sum(dim=images)
            zeros = known.sum(dim=images) - ones
            if self.by_batch:
                positive = positive * torch.where(ones > 0, zeros / ones.clamp(min=1e-12), 1)
            if self.skip_absent:
                positive, negative = positive * (ones > 0), negative * (ones > 0)
        return _reduce(positive + negative, known, self.reduction)


@register("w_cel")
class WCEL(nn.Module):
    """W-CEL: cross-entropy weighted by the rarity of positives and negatives (Wang et al. 2017, equation 1).

    ``b_P sum_{y=1} -ln p + b_N sum_{y=0} -ln(1 - p)`` with ``b_P = (P + N) / P``, ``b_N = (P + N) / N``, where P and N
    are the numbers of ones and zeros. If one of them is 0, its term is 0. The weights have no gradient.

    Parameters
    ----------
    scope : {"batch", "per_label", "dataset"}
        Labels over which P and N are counted: all labels of the batch together (as in the paper's text); each label of
        the batch by itself; or all labels of the training set together (needs :meth:`fit`, or `positives` and
        `negatives`).
    reduction : {"mean", "sum", "label_sum"}
        ``"sum"`` is the formula; its scale grows with the batch.
    positives, negatives : float, sequence of float or Tensor, optional
        P and N for ``scope="dataset"``, in total or for each label (then summed); :meth:`fit` does not change them.

    Raises
    ------
    ValueError
        Counts for another scope than "dataset", or only one of the two.
    RuntimeError
        When called without the counts of the data set.
    """

    counts: Tensor | None

    def __init__(
        self,
        *,
        scope: str = "batch",
        reduction: str = "mean",
        positives: Counts | None = None,
        negatives: Counts | None = None,
    ) -> None:
        super().__init__()
        one_of("scope", scope, SCOPES)
        one_of("reduction", reduction, REDUCTIONS)
        self.scope, self.reduction = scope, reduction
        given = _stacked(positives, negatives)
        if given is not None and scope != "dataset":
            raise ValueError(f"positives and negatives belong to scope='dataset', got scope={scope!r}")
        self.given = given is not None
        self.register_buffer("counts", None if given is None else given.sum(dim=1), persistent=False)

    def fit(self, targets: Tensor) -> Self:
        """Count P and N over training targets (N, K), for ``scope="dataset"``."""
        if self.scope == "dataset" and not self.given:
            self.counts = torch.stack([counts.sum() for counts in label_counts(targets)]).float()
        return self

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, K) and labels (N, K) in [0, 1] or NaN."""
        positive, negative, known = terms(logits, labels)
        p, n = self._count(labels.to(positive.dtype), known)
        return _reduce(self._weight(p, n) * positive + self._weight(n, p) * negative, known, self.reduction)

    def _count(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        if self.scope == "dataset":
            if self.counts is None:
                raise RuntimeError("W-CEL with scope='dataset' has no counts: call fit(targets) with training targets")
            counts = self.counts.to(labels)
            return counts[0], counts[1]
        images = tuple(range(labels.ndim - 1)) if self.scope == "per_label" else tuple(range(labels.ndim))
        positives = labels.detach().nan_to_num().sum(dim=images)
        return positives, known.sum(dim=images) - positives

    @staticmethod
    def _weight(these: Tensor, others: Tensor) -> Tensor:
        return torch.where(these > 0, (these + others) / these.clamp(min=1e-12), torch.zeros_like(these))


@register("weighted_bce")
class WeightedBCE(nn.Module):
    """CheXNet's weighted binary cross-entropy (Rajpurkar et al. 2017, section 2.1).

    ``-(w+ y ln p + w- (1 - y) ln(1 - p))`` with ``w+ = N / (P + N)``, ``w- = P / (P + N)``, where P and N are the
    positives and negatives of each label in the training set: :meth:`fit` counts them.

    Parameters
    ----------
    reduction : {"mean", "sum", "label_sum"}
        Over the known labels.
    positives, negatives : float, sequence of float or Tensor, optional
        P and N of each label; :meth:`fit` does not change them.

    Raises
    ------
    ValueError
        Only one of `positives` and `negatives`, or negative numbers.
    RuntimeError
        When called before there are weights.
    """

    w_pos: Tensor | None

    def __init__(
        self,
        *,
        reduction: str = "mean",
        positives: Counts | None = None,
        negatives: Counts | None = None,
    ) -> None:
        super().__init__()
        one_of("reduction", reduction, REDUCTIONS)
        self.reduction = reduction
        given = _stacked(positives, negatives)
        self.given = given is not None
        self.register_buffer("w_pos", None if given is None else self._share(*given), persistent=False)

    def fit(self, targets: Tensor) -> Self:
        """Set the weights from training targets (N, K); a label that is never known has both weights 1/2."""
        if not self.given:
            self.w_pos = self._share(*label_counts(targets))
        return self

    @staticmethod
    def _share(positives: Tensor, negatives: Tensor) -> Tensor:
        """Compute w+ of each label."""
        total = positives + negatives
        return torch.where(total > 0, negatives / total.clamp(min=1e-12), 0.5)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, K) and labels (N, K) in [0, 1] or NaN.

        Raises
        ------
        RuntimeError
            There are no weights yet.
        """
        if self.w_pos is None:
            raise RuntimeError("weighted_bce has no weights: call fit(targets) with training targets (N, K)")
        positive, negative, known = terms(logits, labels)
        _check_width("the training targets", self.w_pos, logits)
        weight = self.w_pos.to(positive)
        return _reduce(weight * positive + (1 - weight) * negative, known, self.reduction)


@register("focal")
class Focal(nn.Module):
    """Focal loss: correct predictions have less weight (Lin et al. 2017, equation 5).

    ``-(alpha y (1 - p)^gamma ln p + (1 - alpha) (1 - y) p^gamma ln(1 - p))`` with p = sigmoid(logit).

    Parameters
    ----------
    alpha : float, optional
        Weight of positives, 0 to 1; negatives have 1 - alpha. None: no weights.
    gamma : float
        Exponent, 0 or more; 0 is the cross-entropy.
    reduction : {"mean", "sum", "label_sum"}
        Over the known labels.

    Raises
    ------
    ValueError
        `alpha` outside [0, 1], or `gamma` below 0.
    """

    def __init__(self, *, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        one_of("reduction", reduction, REDUCTIONS)
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}: from 0 to 1, or None")
        _check_gamma(gamma)
        self.alpha, self.gamma, self.reduction = alpha, gamma, reduction

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, K) and labels (N, K) in [0, 1] or NaN."""
        positive, negative, known = terms(logits, labels)
        ones, zeros = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        x = logits.to(positive.dtype)
        # powers of 1 - p and p by their logarithms, whose gradients are finite where p is 0 or 1
        positive = ones * positive * (self.gamma * logsigmoid(-x)).exp()
        negative = zeros * negative * (self.gamma * logsigmoid(x)).exp()
        return _reduce(positive + negative, known, self.reduction)


@register("batch_focal")
class BatchFocal(nn.Module):
    """Focal factor on the mean cross-entropy of the batch, as in QUST-SmartData/CXRClassification.

    ``alpha (1 - exp(-L))^gamma L`` with L the mean binary cross-entropy over all known labels of the batch. It is not
    the focal loss of Lin et al. ("focal"): the factor is one number for the batch, so that it scales the step, and does
    not change the relative weights of the labels.

    Parameters
    ----------
    alpha : float
        Factor, above 0.
    gamma : float
        Exponent, 0 or more.

    Raises
    ------
    ValueError
        `alpha` not above 0, or `gamma` below 0.
    """

    def __init__(self, *, alpha: float = 0.8, gamma: float = 2.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha={alpha}: above 0")
        _check_gamma(gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, K) and labels (N, K) in [0, 1] or NaN."""
        positive, negative, known = terms(logits, labels)
        mean = _reduce(positive + negative, known, "mean")
        # clamped, since a power below 1 has no finite gradient at 0
        share = (-torch.expm1(-mean)).clamp(min=torch.finfo(mean.dtype).tiny)
        return self.alpha * share**self.gamma * mean


@register("dice")
class Dice(nn.Module):
    """1 - Dice of soft masks, ``(2 sum p t + s) / (sum p + sum t + s)`` with p = sigmoid(logit).

    Parameters
    ----------
    smooth : float
        s, above 0: avoids 0 / 0 for an organ that is in neither mask.
    per_class : bool
        False sums over the batch and all channels together, as in QUST-SmartData/CXRClassification, so that large
        organs, and a background channel, dominate. True is the mean over channels of the Dice of each.

    Raises
    ------
    ValueError
        `smooth` not above 0.
    """

    def __init__(self, *, smooth: float = 1.0, per_class: bool = False) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"smooth={smooth}: above 0")
        self.smooth, self.per_class = smooth, per_class

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, C, H, W) and masks (N, C, H, W)."""
        _check_maps(logits, masks)
        logits = full_precision(logits)
        truth, known = known_labels(masks, logits.dtype)
        shares = torch.where(known, logits.sigmoid(), logits.new_zeros(()))
        over = (0, 2, 3) if self.per_class else (0, 1, 2, 3)
        overlap, sizes = (shares * truth).sum(over), (shares + truth).sum(over)
        return 1 - ((2 * overlap + self.smooth) / (sizes + self.smooth)).mean()


@register("dice_bce")
class DiceBCE(nn.Module):
    """Mean binary cross-entropy of all pixels plus "dice": the loss of QUST-SmartData/CXRClassification for its UNet.

    Parameters
    ----------
    smooth, per_class : float, bool
        See "dice".
    """

    def __init__(self, *, smooth: float = 1.0, per_class: bool = False) -> None:
        super().__init__()
        self.bce, self.dice = BCE(), Dice(smooth=smooth, per_class=per_class)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (N, C, H, W) and masks (N, C, H, W)."""
        _check_maps(logits, masks)
        loss: Tensor = self.bce(logits, masks) + self.dice(logits, masks)
        return loss


def _check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma={gamma}: 0 or more")


def _check_width(name: str, per_label: Tensor, logits: Tensor) -> None:
    if per_label.shape[-1] != logits.shape[-1]:
        raise ValueError(f"{name} has {per_label.shape[-1]} labels, the logits have {logits.shape[-1]}")


def _check_maps(logits: Tensor, masks: Tensor) -> None:
    if logits.ndim != 4 or logits.shape != masks.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and masks {tuple(masks.shape)}: both must be (N, C, H, W), with "
            "one channel for each class of the segmenter"
        )
