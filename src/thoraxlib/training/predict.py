"""Logits and probabilities of a whole data set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib.datasets import ChestDataset
from thoraxlib.datasets.samples import Samples, Transform
from thoraxlib.detection.reading import check_regions
from thoraxlib.images import transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.training.task import model_inputs
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.precision import autocast


class Predictions(NamedTuple):
    """What :func:`predict` returns, in the data set's order, on the CPU.

    Attributes
    ----------
    probabilities, logits : Tensor
        float64 and float32 (N, K); of a model of regions (N, R, K), in which those of absent regions mean nothing. In
        float32, probabilities of sure networks would be 1 and have no order.
    targets : Tensor
        float32, of that shape: 1, 0, or NaN, also where the data set does not know about regions.
    ids : list of str
        N.
    labels : tuple of str
        K.
    """

    probabilities: Tensor
    logits: Tensor
    targets: Tensor
    ids: list[str]
    labels: tuple[str, ...]


def predict(
    model: nn.Module,
    dataset: ChestDataset,
    *,
    transform: Transform | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "32-true",
    progress: bool = True,
) -> Predictions:
    """Run a model over a data set, without gradients, in eval mode.

    Parameters
    ----------
    model : nn.Module
        Returns logits. Its mode and device are not changed.
    dataset : ChestDataset
        The images.
    transform : callable, optional
        From sample to sample; by default the preprocessing of the model's ``input_spec``, unless the data set has a
        transform of its own.
    batch_size, num_workers : int
        Images in a batch; processes that read them.
    device : str or torch.device, optional
        By default the GPU where there is one, else where the model is.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as :func:`thoraxlib.training.fit` takes it.
    progress : bool
        Show a bar.

    Raises
    ------
    ValueError
        No images; labels or regions that are not the model's.
    """
    from tqdm.auto import tqdm

    if not len(dataset):
        raise ValueError("the data set holds no image")
    labels = tuple(getattr(model, "labels", dataset.labels))
    if tuple(dataset.labels) != labels:
        raise ValueError(f"the data set has the labels {tuple(dataset.labels)}, the model has {labels}")
    regional = hasattr(model, "region_names")
    if regional and hasattr(dataset, "region_names"):
        check_regions(model, dataset)
    spec = None if hasattr(dataset, "feature_dim") else getattr(model, "input_spec", None)
    if transform is None and getattr(dataset, "transform", None) is None and isinstance(spec, InputSpec):
        transform = transform_for(spec)
    home = device_of(model)
    place = torch.device(device) if device is not None else torch.device("cuda") if torch.cuda.is_available() else home
    samples = Samples(dataset, transform, regions=regional)
    loader = samples.batches(batch_size, num_workers=num_workers)
    parts, known = list[Tensor](), list[Tensor]()
    network = eval_view(model, place)
    with torch.inference_mode(), autocast(place, precision):
        for batch in tqdm(loader, desc="predict", disable=not progress, leave=False):
            inputs = (part.to(place, non_blocking=True) for part in model_inputs(batch))
            parts.append(network(*inputs).float().cpu())
            if regional:
                known.append(batch.get("region_labels", torch.full_like(parts[-1], torch.nan)))
    logits = torch.cat(parts)
    targets = torch.cat(known) if regional else dataset.targets
    return Predictions(logits.double().sigmoid(), logits, targets.clone(), list(dataset.ids), labels)
