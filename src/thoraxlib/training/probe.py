"""Probe a frozen backbone: write its features once, then train a head on them in seconds."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thoraxlib import backbones, losses, metrics, models
from thoraxlib import labels as label_sets
from thoraxlib.archives.features import Embedder, FeatureFolder, features, of_dataset
from thoraxlib.archives.parts import process_device
from thoraxlib.datasets import ChestDataset, stratify_patients
from thoraxlib.heads.linear import LinearClassifier, LinearHead
from thoraxlib.input_spec import InputSpec
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.models.base import ChestModel, Classifier
from thoraxlib.models.fusion import FusionClassifier
from thoraxlib.models.timm import TimmModel
from thoraxlib.registry import OptionError, Spec
from thoraxlib.utils.arguments import few
from thoraxlib.utils.arrays import Floats

#: Strengths that cross-validation chooses from: of the L2 penalty of linear heads, and the weight decay of others.
L2, WEIGHT_DECAY = (0.001, 0.01, 0.1, 1.0, 10.0), (0.01, 0.3, 3.0)
#: Largest store of features in float32; beyond, they are kept in float16.
LARGEST = 2**30
_OF_HEAD = ("head", "pool", "norm", "dropout", "adjacency", "counts", "embeddings", "convolution", "attention_mode")
_PATIENCE, _LR, _BATCH = 600, 3e-3, 64


@dataclass(frozen=True)
class ProbeResult:
    """Result of :func:`probe`.

    Attributes
    ----------
    model : Classifier or TimmModel
        Backbone and head, in eval mode.
    cross_validation : Report
        Scores of each label, with intervals, of the held-out predictions of all images.
    test : Report or None
        Scores of the test set, with intervals.
    strengths : tuple of float
        The chosen strength of each label.
    logits : Tensor
        float32 (N, K): the held-out predictions of `cross_validation`, in the data set's order.
    folder : Path or None
        Folder of the features; None if none was given.
    seconds_features, seconds_training : float
        Time for the features, and for cross-validation and training.
    """

    model: ChestModel
    cross_validation: metrics.Report
    test: metrics.Report | None
    strengths: tuple[float, ...]
    logits: Tensor
    folder: Path | None
    seconds_features: float
    seconds_training: float


def probe(
    backbone: Spec | nn.Module,
    dataset: ChestDataset,
    head: Spec = "linear",
    *,
    labels: str | Sequence[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    test: ChestDataset | None = None,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
    pretrained: bool = True,
    folds: int = 5,
    strengths: Sequence[float] | None = None,
    epochs: int = 20,
    dtype: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    part_size: int = 1024,
    precision: str = "32-true",
    shard: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> ProbeResult:
    """Train a head on the features of a frozen backbone, which are computed once.

    The backbone runs once over the images, in eval mode, on its own input. Then the head is trained on the features,
    with the strength of its regularisation chosen by cross-validation: the patients are divided into `folds`, and the
    images of each fold are predicted by a head that was trained on the others. The strength with the lowest log loss of
    these predictions is chosen, and the head is trained once more on all images.

    A linear head is scikit-learn's logistic regression of each label, on the images for which the label is known, and
    on standardised features; mean and standard deviation are then folded into its weights. Its strength is chosen for
    each label. All other heads are trained by AdamW on binary cross-entropy without the unknown labels, with one
    strength for all labels. Heads that pool the map by themselves, or weigh its locations, need maps (D h w numbers for
    each image); the others need vectors alone (D numbers).

    Parameters
    ----------
    backbone : str, mapping or nn.Module
        A name, ``{"name": ..., **options}``, a :class:`thoraxlib.backbones.Backbone`, or a classifier with one map, or
        whole timm model, whose features are used and which stays unchanged.
    dataset : ChestDataset
        The images, without a transform. Unknown labels are NaN.
    head : str or mapping
        From :mod:`thoraxlib.heads`. A whole timm model keeps its own pooling, and takes "linear" alone.
    labels : str or sequence of str, optional
        Those labels of the data set that are learned; by default all.
    output : path, optional
        Folder of the features, which receives ``train`` and ``test`` (``train_maps`` for maps). After an interruption,
        the same call goes on there; a later call, with another head for instance, reads them. By default, they are
        kept in a temporary folder, which is removed.
    test : ChestDataset, optional
        Images on which the model is scored in the end, once.
    input_spec : mapping or InputSpec, optional
        Changes to the backbone's own input (:func:`thoraxlib.backbones.default_input`).
    pretrained : bool
        Load the published weights of a backbone that is given by name.
    folds : int
        Parts of the cross-validation, at least 2.
    strengths : sequence of float, optional
        Strengths to choose from. Of linear heads: l in ``mean log loss + l / 2 |w|^2``, by default 0.001 to 10. Of
        other heads: AdamW's weight decay, by default 0.01, 0.3, 3.
    epochs : int
        Passes over the features, for heads that are not linear.
    dtype : {"float32", "float16"}, optional
        Precision of the stored features. By default "float32", and "float16" if they would take more than 1 GiB. The
        model's logits equal those on features in float32 to 1e-5; with "float16", they differ in the third digit.
    batch_size, num_workers, part_size, precision
        Options of the pass through the network; see :func:`thoraxlib.archives.features`.
    shard : (int, int), optional
        (i, n): this process writes the features of the i-th of n shares; by default that of torchrun. It then waits for
        the other processes, and all of them return the same result.
    device : str or torch.device, optional
        The default is the GPU if there is one.
    n_bootstrap : int
        Resamples of the patients, for the intervals.
    seed : int
        Random seed of folds and head.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ProbeResult
        The model, its scores and the features.

    Raises
    ------
    ValueError
        Labels that the data set does not have, that are unknown everywhere, or that have positives or negatives of
        fewer than two patients; features of another backbone or of other images in `output`; images that cannot be
        embedded; arguments out of range.
    TypeError
        A network without features.
    TimeoutError
        No other process finished a part for ten minutes.

    Warns
    -----
    UserWarning
        The patients are unknown, so that images of one patient may be in several folds; or patients are in both data
        sets.

    Examples
    --------
    >>> import thoraxlib
    >>> images = thoraxlib.datasets.build("synthetic", size=64, length=60, balance=1.0)
    >>> found = probe("resnet10t", images, labels=["Effusion", "Cardiomegaly"], pretrained=False, folds=3,
    ...               input_spec={"size": 64}, strengths=[1.0], progress=False)
    >>> found.model.labels, found.strengths, len(found.cross_validation.rows)
    (('Effusion', 'Cardiomegaly'), (1.0, 1.0), 2)
    """
    names = tuple(dataset.labels) if labels is None else label_sets.resolve(labels)
    targets = _targets(dataset, names)
    patients = _patients(dataset)
    check_labels(targets, names, patients)
    if folds < 2 or epochs < 1:
        raise ValueError(f"folds={folds}, epochs={epochs}: at least 2 and 1 are needed")
    if strengths is not None and (not len(strengths) or min(strengths) <= 0):
        raise ValueError(f"strengths={tuple(strengths)}: one number above 0, or several, are needed")
    tested = None if test is None else _targets(test, names)
    if test is not None and (shared := {*patients} & {*_patients(test)}):
        warnings.warn(
            f"{len(shared)} patients are also in the test set, e.g. {min(shared)}: its scores are too good",
            stacklevel=2,
        )
    torch.manual_seed(seed)
    model = assembled(backbone, head, names, input_spec, pretrained).eval()
    fold = _folds(targets, patients, folds, seed)
    with ExitStack() as stack:
        folder = Path(output or stack.enter_context(tempfile.TemporaryDirectory()))
        begun = time.perf_counter()
        of_pass = {"batch_size": batch_size, "num_workers": num_workers, "part_size": part_size, "shard": shard}
        embed = _Embedding(
            model, folder, dtype, {**of_pass, "precision": precision, "device": device, "progress": progress}
        )
        stored = embed(dataset, "train")
        stored_test = None if test is None else embed(test, "test")
        embedded = time.perf_counter()
        learner = _learner(model, stored, targets, epochs, process_device(device), seed, embed.maps)
        given = tuple(strengths or learner.strengths)
        held_out = learner.cross_validate(fold, given)  # (S, N, K)
        chosen = learner.choose(_log_losses(held_out, targets))
        learner.train([given[k] for k in chosen])
        trained = time.perf_counter()
        logits = held_out[torch.tensor(chosen), :, torch.arange(len(names))].T.contiguous()
        score = _Scorer(names, n_bootstrap, seed)
        report = score(targets, logits, patients)
        of_test = None
        if stored_test is not None and test is not None:
            of_test = score(tested, learner.predict(stored_test), _patients(test))
    return ProbeResult(
        model=model.eval(),
        cross_validation=report,
        test=of_test,
        strengths=tuple(float(given[k]) for k in chosen),
        logits=logits,
        folder=None if output is None else folder,
        seconds_features=embedded - begun,
        seconds_training=trained - embedded,
    )


# -- data ---------------------------------------------------------------------------------------------


def _targets(dataset: ChestDataset, names: Sequence[str]) -> Tensor:
    """Return the targets of the labels, (N, K), and check their values."""
    if absent := [name for name in names if name not in dataset.labels]:
        raise ValueError(f"labels={few(absent)}: the data set has {', '.join(dataset.labels)}")
    targets = dataset.targets[:, [list(dataset.labels).index(name) for name in names]].float()
    if bool(((targets != 0) & (targets != 1) & ~targets.isnan()).any()):
        raise ValueError("targets other than 0, 1 and NaN: a probe takes no soft labels")
    return targets


def _patients(dataset: ChestDataset) -> list[str]:
    """Return the patient of each image; unknown ones are one patient for each image."""
    known = list(getattr(dataset, "patient_ids", None) or [""] * len(dataset.ids))
    lost = sum(not patient for patient in known)
    if lost:
        warnings.warn(
            f"the patients of {lost} of {len(known)} images are unknown: each such image counts as a patient, and the "
            "scores are too good if patients have several images",
            stacklevel=3,
        )
    return [patient or f"image {name}" for patient, name in zip(known, dataset.ids, strict=True)]


def check_labels(targets: Tensor, names: Sequence[str], patients: Sequence[str]) -> None:
    """Check that each label can be learned and cross-validated.

    Raises
    ------
    ValueError
        Labels that are unknown everywhere, or with positives or negatives of fewer than two patients.
    """
    problems, learnable = [], []
    for name, column in zip(names, targets.T, strict=True):
        rows = {value: (column == value).nonzero().flatten().tolist() for value in (1, 0)}
        images = [len(rows[value]) for value in (1, 0)]
        of = [len({patients[row] for row in rows[value]}) for value in (1, 0)]
        if min(of) >= 2:
            learnable.append(name)
        elif not sum(images):
            problems.append(f"{name}: unknown in all {len(column)} images")
        else:
            problems.append(f"{name}: {images[0]} positive images of {of[0]} patients, {images[1]} negative of {of[1]}")
    if problems:
        raise ValueError(
            f"labels that cannot be learned, as positives and negatives of two patients or more are needed: "
            f"{'; '.join(problems)}. Leave them out: labels={learnable}"
        )


def _folds(targets: Tensor, patients: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each image; patients are together, positives and negatives of each label in equal shares."""
    people = len({*patients})
    folds = min(folds, people)
    both = torch.cat([targets == 1, targets == 0], dim=1).float()
    parts = stratify_patients(patients, both, {str(number): 1 / folds for number in range(folds)}, seed=seed)
    fold = np.zeros(len(patients), np.int64)
    for number, rows in parts.items():
        fold[np.asarray(rows)] = int(number)
    return fold


# -- model --------------------------------------------------------------------------------------------


def assembled(
    backbone: Any,
    head: Spec,
    names: Sequence[str],
    input_spec: Mapping[str, Any] | InputSpec | None = None,
    pretrained: bool = True,
) -> ChestModel:
    """Build a model of the backbone, or of a model without its head, with a new head.

    Parameters
    ----------
    backbone, head, input_spec, pretrained
        See :func:`probe`.
    names : sequence of str
        Labels of the head.

    Raises
    ------
    TypeError
        A network without features.
    ValueError
        Another head than "linear" for a whole timm model.
    """
    if isinstance(backbone, ChestModel):
        if isinstance(backbone, FusionClassifier) or not isinstance(backbone, (Classifier, TimmModel)):
            raise TypeError(
                f"a {type(backbone).__name__} has no single feature map: probe a backbone, a classifier with one map, "
                "or a whole timm model"
            )
        if isinstance(backbone, TimmModel) and head != "linear":
            raise ValueError(
                f"head={head!r}: a whole timm model has its own pooling and takes the head 'linear'; for others, probe "
                "the backbone of that name"
            )
        model = _with_head(backbone, head, names)
        if input_spec is not None:
            model.input_spec = backbone.input_spec.updated(input_spec)
        return model
    ready = isinstance(backbone, nn.Module)
    spec = backbones.default_input(backbone).updated(input_spec)
    return models.build(
        "classifier",
        labels=list(names),
        backbone=copy.deepcopy(backbone) if ready else backbone,
        head=head,
        in_chans=spec.channels,
        input_spec=spec,
        pretrained=pretrained and not ready,
    )


def _with_head(model: Classifier | TimmModel, head: Spec, names: Sequence[str]) -> ChestModel:
    """Return a copy of a model with a new head."""
    if not hasattr(model, "config"):
        raise TypeError("the model was not built by thoraxlib.build, so nothing says how to build it with another head")
    kept = {key: value for key, value in model.config["options"].items() if key not in _OF_HEAD and key != "pretrained"}
    kept |= {"labels": list(names), "input_spec": model.input_spec}
    if isinstance(model, TimmModel):
        new: Any = models.build(model.config["name"], **kept)
        last = {f"{key}." for key, part in new.named_modules() if part is new.get_classifier()}
    else:
        try:
            new = models.build(model.config["name"], **kept, head=head)
        except OptionError as error:
            raise TypeError(
                f"{model.config['name']} takes no other head ({error}); probe its backbone instead"
            ) from error
        last = {"head."}
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(tuple(last))}
    lost, foreign = new.load_state_dict(state, strict=False)
    if foreign or any(not key.startswith(tuple(last)) for key in lost):
        raise TypeError(f"{model.config['name']} is another network with another head: probe its backbone instead")
    return new  # type: ignore[no-any-return]


class _Embedding:
    """Store of the features that a model's head needs."""

    def __init__(self, model: ChestModel, folder: Path, dtype: str | None, options: dict[str, Any]) -> None:
        self.model, self.folder, self.dtype, self.options = model, folder, dtype, options
        self.maps = _needs_maps(model)

    def __call__(self, dataset: ChestDataset, name: str) -> FeatureFolder:
        folder = self.folder / (f"{name}_maps" if self.maps else name)
        numbers = len(dataset) * math.prod(Embedder(self.model).shapes()[self.maps])
        dtype: Any = self.dtype or ("float32" if 4 * numbers <= LARGEST else "float16")
        written = features(
            self.model, dataset, folder, pooled=not self.maps, maps=self.maps, dtype=dtype, **self.options
        )
        if not written.complete:
            _wait(folder)
        return of_dataset(folder, dataset)


def _needs_maps(model: ChestModel) -> bool:
    """Return True for heads whose logits depend on more of the map than one vector without weights of its own."""
    if isinstance(model, TimmModel):
        return False
    head: Any = model.head
    pooled = isinstance(head, LinearClassifier) and not per_label(head.pool) and expansion(head.pool) == 1
    own = pooled and (list(head.pool.parameters()) or getattr(head, "attention", None) is not None)
    return not pooled or bool(own)


def _wait(folder: Path) -> None:
    """Wait for the parts of other processes."""
    parts, since = -1, time.monotonic()
    while True:
        try:
            FeatureFolder(folder)
            return
        except FileNotFoundError:
            done = sum(1 for _ in folder.glob("*/[0-9]*.npy"))
        if done != parts:
            parts, since = done, time.monotonic()
        if time.monotonic() - since > _PATIENCE:
            raise TimeoutError(f"{folder}: no other process finished a part for {_PATIENCE // 60} minutes")
        time.sleep(0.5)


# -- learning -----------------------------------------------------------------------------------------


class _Fitted(NamedTuple):
    weight: Floats
    bias: float


class _Logistic:
    """Logistic regression of each label on vectors; its weights become those of the model's last linear layer."""

    strengths = L2

    def __init__(self, layer: nn.Linear, vectors: Tensor, targets: Tensor) -> None:
        self.layer, self.targets = layer, targets.numpy()
        self.vectors = vectors.numpy()

    def cross_validate(self, fold: NDArray[np.int64], strengths: Sequence[float]) -> Tensor:
        """Return held-out logits (S, N, K)."""
        logits = np.full((len(strengths), *self.targets.shape), np.nan, np.float32)
        for number in np.unique(fold):
            inside, outside = fold == number, fold != number
            x = _Standard(self.vectors[outside])
            for k, y in enumerate(self.targets[outside].T):
                for s, fitted in enumerate(x.fit(y, strengths)):
                    logits[s, inside, k] = self.vectors[inside] @ fitted.weight + fitted.bias
        return torch.from_numpy(logits)

    def choose(self, log_losses: Tensor) -> list[int]:
        """Return the strength of each label with the lowest loss, from (S, K)."""
        return log_losses.argmin(dim=0).tolist()  # type: ignore[no-any-return]

    def train(self, strengths: Sequence[float]) -> None:
        """Train on all images, with a strength for each label."""
        x = _Standard(self.vectors, np.float64)
        with torch.no_grad():
            for k, (y, strength) in enumerate(zip(self.targets.T, strengths, strict=True)):
                fitted = x.fit(y, [strength], tol=1e-6)[0]
                self.layer.weight[k] = torch.from_numpy(fitted.weight)
                self.layer.bias[k] = fitted.bias

    def predict(self, stored: FeatureFolder) -> Tensor:
        """Return the logits (N, K) of stored features."""
        with torch.no_grad():
            return self.layer(stored.vectors().to(self.layer.weight.device)).cpu()  # type: ignore[no-any-return]


class _Standard:
    """Standardised vectors; columns without variance stay 0."""

    def __init__(self, vectors: NDArray[np.float32], dtype: type[np.floating[Any]] = np.float32) -> None:
        self.mean = vectors.mean(axis=0, dtype=np.float64)
        std = vectors.std(axis=0, dtype=np.float64)
        self.scale = np.divide(1, std, out=np.zeros_like(std), where=std > 1e-12 + 1e-6 * np.abs(self.mean))
        self.values = ((vectors - self.mean) * self.scale).astype(dtype)

    def fit(self, y: NDArray[np.float32], strengths: Sequence[float], tol: float = 1e-4) -> list[_Fitted]:
        """Return weights for the unstandardised vectors, by strength; each fit starts from the one before."""
        from sklearn.linear_model import LogisticRegression

        known = ~np.isnan(y)
        x, y = self.values[known], y[known].astype(np.int64)
        found: dict[float, _Fitted] = {}
        if len({*y.tolist()}) < 2:  # the other class is in one fold alone
            return [_Fitted(np.zeros(x.shape[1]), 0.0)] * len(strengths)
        regression = LogisticRegression(max_iter=1000, warm_start=True, tol=tol)
        for strength in sorted(strengths, reverse=True):
            regression.set_params(C=1 / (strength * len(y))).fit(x, y)
            weight = regression.coef_[0].astype(np.float64) * self.scale
            found[strength] = _Fitted(weight, float(regression.intercept_[0] - weight @ self.mean))
        return [found[strength] for strength in strengths]


class _Gradient:
    """Training of any other head by AdamW, on vectors as maps of one location, or on maps."""

    strengths = WEIGHT_DECAY

    def __init__(
        self, head: nn.Module, stored: FeatureFolder, targets: Tensor, epochs: int, device: torch.device, seed: int
    ) -> None:
        self.head, self.targets, self.epochs = head, targets, epochs
        self.device, self.seed = device, seed
        self.begun = copy.deepcopy(head.state_dict())
        self.features = features_of(stored)

    def cross_validate(self, fold: NDArray[np.int64], strengths: Sequence[float]) -> Tensor:
        """Return held-out logits (S, N, K)."""
        logits = torch.full((len(strengths), *self.targets.shape), torch.nan)
        for number in np.unique(fold):
            inside = torch.from_numpy(np.flatnonzero(fold == number))
            outside = torch.from_numpy(np.flatnonzero(fold != number))
            for s, strength in enumerate(strengths):
                self._train(outside, strength)
                logits[s, inside] = self._logits(self.features, inside)
        return logits

    def choose(self, log_losses: Tensor) -> list[int]:
        """Return the strength with the lowest mean loss, for each label the same, from (S, K)."""
        return [int(log_losses.nanmean(dim=1).argmin())] * log_losses.shape[1]

    def train(self, strengths: Sequence[float]) -> None:
        """Train on all images."""
        self._train(torch.arange(len(self.targets)), strengths[0])
        self.head.cpu()

    def predict(self, stored: FeatureFolder) -> Tensor:
        """Return the logits (N, K) of stored features."""
        found = features_of(stored)
        return self._logits(found, torch.arange(len(stored)))

    def _train(self, rows: Tensor, weight_decay: float) -> None:
        self.head.load_state_dict(self.begun)
        self.head.train().to(self.device)
        loss, order = losses.build("bce"), torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=_LR, weight_decay=weight_decay)
        steps = -(-len(rows) // _BATCH) * self.epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps + 1)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for _ in range(self.epochs):
                for batch in torch.split(rows[torch.randperm(len(rows), generator=order)], _BATCH):
                    if len(batch) > 1 or len(rows) == 1:  # one image has no variance for batch norm
                        optimizer.zero_grad()
                        loss(
                            self.head(self._read(self.features, batch)), self.targets[batch].to(self.device)
                        ).backward()
                        optimizer.step()
                    schedule.step()
        self.head.eval()

    def _logits(self, found: Tensor, rows: Tensor) -> Tensor:
        self.head.eval().to(self.device)
        with torch.inference_mode():
            parts = [self.head(self._read(found, batch)).float().cpu() for batch in torch.split(rows, 4 * _BATCH)]
        return torch.cat(parts).clone()

    def _read(self, found: Tensor, rows: Tensor) -> Tensor:
        return found[rows].to(self.device, torch.float32)


def features_of(stored: FeatureFolder) -> Tensor:
    """Read the maps of a folder, or its vectors as maps of one location, (N, D, h, w)."""
    if (stored.folder / "maps").is_dir():
        return stored.maps()
    return stored.vectors()[:, :, None, None]


def _learner(
    model: Any, stored: FeatureFolder, targets: Tensor, epochs: int, device: torch.device, seed: int, maps: bool
) -> _Logistic | _Gradient:
    if isinstance(model, TimmModel):
        return _Logistic(model.get_classifier(), stored.vectors(), targets)
    if type(model.head) is LinearHead and not maps:
        return _Logistic(model.head.fc, stored.vectors(), targets)
    return _Gradient(model.head, stored, targets, epochs, device, seed)


def _log_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log loss of held-out logits (S, N, K) over the known labels, (S, K)."""
    terms = nn.functional.softplus(logits) - logits * targets.nan_to_num()
    return torch.where(targets.isnan(), torch.nan, terms).nanmean(dim=1)


class _Scorer:
    """Table of scores with intervals by patient."""

    def __init__(self, names: Sequence[str], n_bootstrap: int, seed: int) -> None:
        self.names, self.options = names, {"n_bootstrap": n_bootstrap, "seed": seed}

    def __call__(self, targets: Any, logits: Tensor, patients: Sequence[str]) -> metrics.Report:
        options: dict[str, Any] = self.options
        return metrics.evaluate(targets, logits.double(), self.names, patient_ids=patients, **options)
