"""Predict logits and probabilities of a whole data set."""

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
    """Result of :func:`predict`, in the data set's order, on the CPU.

    Attributes
    ----------
    probabilities, logits : Tensor
        float64 and float32 (N, K); of a model of regions (N, R, K), where values of absent regions have no meaning.
        Probabilities are float64, as in float32 those of very large logits would all be 1.
    targets : Tensor
        float32, the same shape: 1, 0, or NaN for unknown.
    ids : list of str
        The N images.
    labels : tuple of str
        The K labels.
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
        transform.
    batch_size, num_workers : int
        Images in a batch, and processes that read them.
    device : str or torch.device, optional
        By default the GPU if there is one, else the model's device.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as :func:`thoraxlib.training.fit` takes it.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        The data set has no images, or not the model's labels or regions.
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
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else device_of(model)))
    samples = Samples(dataset, transform, regions=regional)
    loader = samples.batches(batch_size, num_workers=num_workers)
    parts, known = list[Tensor](), list[Tensor]()
    network = eval_view(model, device)
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(loader, desc="predict", disable=not progress, leave=False):
            inputs = (part.to(device, non_blocking=True) for part in model_inputs(batch))
            parts.append(network(*inputs).float().cpu())
            if regional:
                known.append(batch.get("region_labels", torch.full_like(parts[-1], torch.nan)))
    logits = torch.cat(parts)
    targets = torch.cat(known) if regional else dataset.targets
    return Predictions(logits.double().sigmoid(), logits, targets.clone(), list(dataset.ids), labels)
