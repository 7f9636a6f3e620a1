"""Calibration of logits: a scale and a shift of each label, fitted on validation data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thoraxlib.metrics.scores import checked
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats

Logits = TypeVar("Logits", Tensor, Floats)

_METHODS = ("temperature", "platt")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scale and shift of each label's logits: ``calibrated = scale * logits + shift``.

    The order of the images stays, so AUROC does not change. Probabilities are the sigmoid of calibrated logits.

    Attributes
    ----------
    labels : tuple of str
        The K labels.
    method : {"temperature", "platt"}
        See :func:`fit_calibration`.
    scale, shift : ndarray
        float64 (K,), not writable. A scale is positive; the temperature is 1 / scale.

    Raises
    ------
    ValueError
        Another method; scales or shifts that are not K finite numbers, or scales that are not positive.

    Examples
    --------
    >>> calibration = Calibration(("Mass", "Edema"), "platt", [0.5, 1.0], [0.0, -1.0])
    >>> calibration.apply(np.array([[2.0, 1.0]]))
    array([[1., 0.]])
    >>> Calibration.from_json(calibration.to_json()).scale
    array([0.5, 1. ])
    """

    labels: tuple[str, ...]
    method: str
    scale: Floats
    shift: Floats

    def __post_init__(self) -> None:
        one_of("method", self.method, _METHODS)
        object.__setattr__(self, "labels", tuple(self.labels))
        for name in ("scale", "shift"):
            values = np.array(getattr(self, name), np.float64)
            if values.shape != (len(self.labels),) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be {len(self.labels)} finite numbers, got {values.tolist()}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if (self.scale <= 0).any():
            raise ValueError(f"scale must be positive, got {self.scale.tolist()}")

    def apply(self, logits: Logits) -> Logits:
        """Calibrate logits (..., K): a tensor of the same type on the same device, or a float64 array.

        Raises
        ------
        ValueError
            The last dimension is not K.
        """
        if logits.shape[-1:] != (len(self.labels),):
            raise ValueError(f"logits must be (..., {len(self.labels)}), got {tuple(logits.shape)}")
        if isinstance(logits, Tensor):
            # the conversion is done before the move: not every device has float64
            scale, shift = (
                torch.tensor(part, dtype=logits.dtype).to(logits.device) for part in (self.scale, self.shift)
            )
            return logits * scale + shift
        return logits * self.scale + self.shift

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        shown = {"labels": list(self.labels), "method": self.method}
        return {**shown, "scale": self.scale.tolist(), "shift": self.shift.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """Restore a calibration from the values of :meth:`to_json`.

        Raises
        ------
        ValueError
            Missing or further keys, or values that a calibration cannot have.
        """
        wanted = ("labels", "method", "scale", "shift")
        if set(content) != set(wanted):
            raise ValueError(f"a calibration has {', '.join(wanted)}, got {', '.join(map(str, content)) or 'nothing'}")
        labels = content["labels"]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"labels of a calibration must be a list of names, got {labels!r}")
        try:
            return cls(tuple(labels), content["method"], content["scale"], content["shift"])
        except TypeError as error:
            raise ValueError(f"scale and shift of a calibration must be numbers: {error}") from error


def fit_calibration(
    targets: ArrayLike, logits: ArrayLike, labels: Sequence[str], *, method: str = "temperature", per_label: bool = True
) -> Calibration:
    """Fit the calibration of logits on validation data, never on the test.

    The mean cross-entropy over the known targets is minimised in float64 by L-BFGS.

    Parameters
    ----------
    targets, logits : array_like
        (N, K): targets are 1, 0, or NaN for unknown.
    labels : sequence of str
        The K labels.
    method : {"temperature", "platt"}
        "temperature" fits the scale alone (Guo et al. 2017): for logits that are too sure, or not sure enough, on both
        sides of 0. "platt" also fits a shift, for labels that are rarer or more frequent than in training, or were
        weighted by the loss; its targets are moved inwards by Platt's rule (1999), so that it has an optimum even where
        the logits separate the classes.
    per_label : bool
        Fit each label for itself, or one scale and shift for all, which few data may need.

    Returns
    -------
    Calibration
        Labels that could not be fitted keep scale 1 and shift 0.

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, logits that are NaN or infinite, labels that are not K, or
        an unknown method.

    Warns
    -----
    UserWarning
        Labels that keep scale 1 and shift 0: those without positives or negatives, and those whose logits do not rise
        from negatives to positives, or separate them (temperature).

    Examples
    --------
    >>> logits = np.array([[-4.0], [-4.0], [-4.0], [4.0], [4.0], [4.0]])
    >>> calibration = fit_calibration([[0], [0], [1], [0], [1], [1]], logits, ["Mass"])
    >>> bool(np.isclose(calibration.scale[0] * 4, np.log(2)))  # two of three are right: the logit is log 2
    True
    """
    one_of("method", method, _METHODS)
    y, x = checked(targets, logits)
    if len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    names, known = (list(labels) if per_label else ["all labels"]), ~np.isnan(y)
    columns = zip(y.T, x.T, known.T, strict=True) if per_label else [(y, x, known)]
    fits, kept = [], []
    for name, (truth, scores, there) in zip(names, columns, strict=True):
        scale, shift, problem = _fit(truth[there], scores[there], method)
        fits.append((scale, shift))
        kept += [f"{name} ({problem})"] if problem else []
    if kept:
        warnings.warn(f"not calibrated, scale 1 and shift 0: {', '.join(kept)}", stacklevel=2)
    scale, shift = np.broadcast_to(np.array(fits).T, (2, len(labels))) if not per_label else np.array(fits).T
    return Calibration(tuple(labels), method, scale, shift)


def _fit(y: Floats, x: Floats, method: str) -> tuple[float, float, str]:
    """Fit scale and shift to known targets and logits; the last value says why not, or is empty."""
    from scipy.optimize import minimize
    from scipy.special import expit

    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if not positives or not negatives:
        return 1.0, 0.0, "no positives" if not positives else "no negatives"
    shifted, goal = method == "platt", y
    if shifted:
        goal = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    elif ((2 * y - 1) * x >= 0).all():
        return 1.0, 0.0, "its logits separate positives and negatives"
    # the loss is convex: the best scale is positive if the loss falls from scale 0 on
    if np.mean((goal - (goal.mean() if shifted else 0.5)) * x) <= 0:
        return 1.0, 0.0, "its logits do not rise from negatives to positives"
    unit = float(np.abs(x).max())  # of the logits, so that both parameters are of the same order

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scale, shift = parameters[0] / unit, parameters[1] if shifted else 0.0
        z = scale * x + shift
        error = expit(z) - goal
        slope = [float(np.mean(error * x)) / unit, float(np.mean(error))]
        return float(np.mean(np.logaddexp(0, z) - goal * z)), np.array(slope[: len(parameters)])

    start = [unit, 0.0] if shifted else [unit]
    bounds = [(1e-12, None), (None, None)][: len(start)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(found[0]) / unit, float(found[1]) if shifted else 0.0, ""
