"""Write the features of all images, vectors and maps, into files, in any number of processes, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thoraxlib import backbones
from thoraxlib.archives.listing import Batch, Listed, batches, copy_spec, images_of, write_listing
from thoraxlib.archives.output import LISTING, MANIFEST, MAPS, ROWS, VECTORS, Output, Row, check_format, write_table
from thoraxlib.archives.parts import Parts, check_copy, process_device, source_list, versions
from thoraxlib.archives.sources import Stored
from thoraxlib.checkpoints.saving import tensors_digest
from thoraxlib.datasets import ChestDataset
from thoraxlib.datasets.samples import Samples
from thoraxlib.heads.linear import LinearClassifier
from thoraxlib.images import transform_for
from thoraxlib.images.reading import check_greys
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.layers.pooling import AvgPool, per_label
from thoraxlib.models.base import Classifier
from thoraxlib.models.fusion import FusionClassifier
from thoraxlib.models.timm import TimmModel
from thoraxlib.registry import Spec
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import printable, read_json
from thoraxlib.utils.modes import eval_view
from thoraxlib.utils.precision import autocast

FORMATS = ("npy", "parquet")
_LARGEST = {name: float(np.finfo(name).max) for name in ("float16", "float32")}


class Embedder(nn.Module):
    """Network without its last layer: images (N, C, H, W) -> vectors (N, D) and maps (N, D', h, w).

    Parameters
    ----------
    network : Backbone, Classifier or TimmModel
        A backbone gives its last map and its average; a classifier gives the map before the head, and the vector that a
        linear head's pooling gives, else its average. A whole timm model gives timm's own vector before the last linear
        layer, and no maps.

    Attributes
    ----------
    input_spec : InputSpec
        Input that the network expects.

    Raises
    ------
    TypeError
        Another network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.input_spec: InputSpec
        if isinstance(network, (Classifier, TimmModel)) and not isinstance(network, FusionClassifier):
            self.input_spec = network.input_spec
        elif isinstance(network, FusionClassifier) or not hasattr(network, "channels"):
            raise TypeError(
                "features are those of a backbone, of a classifier with one feature map, or of a whole timm model; "
                f"got {type(network).__name__}"
            )
        else:
            backbones.check_backbone(network)
            self.input_spec = backbones.default_input(network)  # type: ignore[arg-type]

    @property
    def has_maps(self) -> bool:
        """True if the network gives maps."""
        return not isinstance(self.network, TimmModel)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute vectors, and maps if there are any."""
        network: Any = self.network
        if isinstance(network, TimmModel):
            vectors: Tensor = network.net.forward_head(network.forward_features(x), pre_logits=True)
            return vectors, None
        maps: Tensor = network.forward_features(x) if isinstance(network, Classifier) else network(x)[-1]
        return maps.mean(dim=(2, 3)) if self._pool is None else self._pool(maps), maps

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of a vector and of a map for the network's own input; of the map, () if there is none."""
        weight = next(self.parameters())
        x = torch.zeros(1, self.input_spec.channels, *self.input_spec.size, device=weight.device, dtype=weight.dtype)
        with torch.inference_mode():
            vectors, maps = eval_view(self)(x)
        return tuple(vectors.shape[1:]), () if maps is None else tuple(maps.shape[1:])

    @property
    def _pool(self) -> nn.Module | None:
        """Pooling of a linear head, if it gives one vector for each image."""
        head = getattr(self.network, "head", None)
        pooled = isinstance(self.network, Classifier) and isinstance(head, LinearClassifier)
        return head.pool if pooled and not per_label(head.pool) else None  # type: ignore[union-attr]

    def fingerprint(self) -> str:
        """Hash of all that decides on the features: the network without its last layer, its weights, and its input."""
        network: Any = self.network
        skipped = set[int]()
        if isinstance(network, TimmModel):
            parts = [network.net]
            skipped = {value.data_ptr() for value in network.get_classifier().state_dict().values()}
            structure = [type(network.net).__name__, str(network.net.pretrained_cfg.get("architecture"))]
        else:
            parts = [network.backbone, network.neck] if isinstance(network, Classifier) else [network]
            parts += [self._pool] if self._pool is not None and not isinstance(self._pool, AvgPool) else []
            # modules of equal weights may differ in strides
            structure = [repr(part) for part in parts if not isinstance(part, nn.Identity)]
        described = [self.input_spec.to_json(), getattr(network, "stage", -1), *structure]
        tensors = [value for part in parts for value in part.state_dict().values() if value.data_ptr() not in skipped]
        written = json.dumps(described) + tensors_digest(tensors)
        return hashlib.sha256(written.encode()).hexdigest()[:16]


class Features(NamedTuple):
    """Result of :func:`features`.

    Attributes
    ----------
    folder : Path
        The output folder.
    images : int
        Number of images.
    failed : int
        Number of images without features: of all, or of this call's images while other processes are still at work.
    complete : bool
        True if every image has its row.
    """

    folder: Path
    images: int
    failed: int
    complete: bool


def features(
    model: nn.Module | Spec,
    source: ChestDataset | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    format: Literal["npy", "parquet"] = "npy",
    pooled: bool = True,
    maps: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    pattern: str | None = None,
    bits: int | None = None,
    window: Window | None = None,
    shard: tuple[int, int] | None = None,
    part_size: int = 4096,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "32-true",
    overwrite: bool = False,
    progress: bool = True,
) -> Features:
    """Write the features of all images: a vector for each, and on request its feature map.

    With "npy", `output` receives ``vectors/000000.npy`` (n, D), ``maps/000000.npy`` (n, D', h, w) and
    ``rows/000000.csv`` (``id``, ``path``, ``height``, ``width``, ``error``), ... of `part_size` images each, with one
    row for each image in the same order; :class:`FeatureFolder` reads them, mapped into memory. With "parquet", it
    receives ``vectors/000000.parquet``, with these columns and ``features``, a list of D numbers. An image that cannot
    be read has an ``error``, and NaN as its features. Manifest, listing, interruptions, several processes and foreign
    files are as for :func:`thoraxlib.archives.score_archive`.

    Parameters
    ----------
    model : nn.Module, str or mapping
        A backbone, a classifier with one map or a whole timm model; a name, or ``{"name": ..., **options}``,
        is a backbone with its published weights. It runs in eval mode, on its own input.
    source : ChestDataset, path, or a sequence of paths
        A data set without a transform of its own; or paths as for :func:`thoraxlib.archives.score_archive`.
    output : path
        A local folder.
    format : {"npy", "parquet"}
        "parquet" needs the extra ``archive``, and holds vectors alone.
    pooled, maps : bool
        Write vectors; write maps.
    dtype : {"float16", "float32"}
        Precision of the files. "float16" has three digits; logits of a linear layer on such features differ in the
        third digit from those of the network.
    pattern, bits, window
        As for :func:`thoraxlib.archives.score_archive`; not allowed for a data set.
    shard, part_size, batch_size, num_workers, device, precision, overwrite, progress
        As for :func:`thoraxlib.archives.score_archive`.

    Raises
    ------
    TypeError
        A network without features; a data set with a transform of its own.
    FileNotFoundError, ImportError, OSError, MemoryError, RuntimeError, ValueError
        See :func:`thoraxlib.archives.score_archive`; also for features of another network in `output`.

    Examples
    --------
    >>> import tempfile, thoraxlib
    >>> images = thoraxlib.datasets.build("synthetic", size=64, length=3)
    >>> backbone = thoraxlib.backbones.build("resnet10t")
    >>> written = features(backbone, images, tempfile.mkdtemp(), maps=True, progress=False)
    >>> stored = FeatureFolder(written.folder)
    >>> stored.vectors().shape, stored.maps([0, 2]).shape, stored.ids == images.ids
    (torch.Size([3, 512]), torch.Size([2, 512, 6, 6]), True)
    """
    one_of("format", format, FORMATS)
    one_of("dtype", dtype, ("float16", "float32"))
    if not (pooled or maps):
        raise ValueError("pooled=False, maps=False: nothing is to be written")
    if format == "parquet":
        check_format("parquet", ["features"])
        if maps or not pooled:
            raise ValueError("format='parquet' holds vectors alone: take format='npy' for maps")
    if isinstance(model, (str, Mapping)):
        model = backbones.for_input(model, backbones.default_input(model), pretrained=True)
    embedder = Embedder(model)
    if maps and not embedder.has_maps:
        raise ValueError("maps=True: a whole timm model gives vectors alone; take the backbone of that name")
    spec = embedder.input_spec
    check_greys(bits, window)
    work = Parts(output, shard, part_size, batch_size, num_workers, overwrite, progress)
    run: dict[str, Any] = {
        "features": {"vectors": pooled, "maps": maps},
        "dtype": dtype,
        "input_spec": spec.to_json(),
        "fingerprint": embedder.fingerprint(),
        "precision": precision,
        "bits": bits,
        "window": window,
        "format": format,
        "part_size": part_size,
    }
    out = Output(work.folder, files_of_features, "features")
    reading: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
    read: Callable[[list[int]], Iterable[Batch]]
    if isinstance(source, (str, os.PathLike)) or not isinstance(source, ChestDataset):
        sources = source_list(source)
        check_copy(sources[0], copy_spec(sources), bits=bits, window=window, pattern=pattern)
        listed = partial(images_of, sources, pattern)
        reading |= {"spec": spec, "bits": bits, "window": window}
        read = partial(batches, out.folder / LISTING, part_size, **reading)
    else:
        sources = [type(source).__name__]
        samples = _samples(source, spec, bits=bits, window=window, pattern=pattern)
        run["pixels"] = _pixels(samples)
        listed = partial(_of_dataset, source.ids)
        read = partial(_batches, samples, part_size, **reading)
    about = {"model": getattr(model, "config", type(model).__qualname__), "sources": sources, **versions()}
    images = out.begin(run, about, lambda path: write_listing(listed(), path), overwrite)
    device = process_device(device)
    embedder = eval_view(embedder, device)
    shapes = dict(zip((VECTORS, MAPS), embedder.shapes(), strict=True))
    shapes = {kind: shape for kind, shape in shapes.items() if run["features"][kind]}
    compute = partial(_compute, embedder, device, precision, shapes, np.dtype(dtype))

    def write(number: int, group: Iterable[Batch], bar: Any) -> int:
        rows, arrays = compute(group, bar)
        writers: dict[str, Any] = {kind: partial(_save, array=array) for kind, array in arrays.items()}
        writers[ROWS] = partial(write_table, labels=(), rows=rows)
        if format == "parquet":
            writers[VECTORS] = partial(_write_parquet, rows=rows, vectors=arrays[VECTORS])
        failed = sum(row.error is not None for row in rows)
        out.write(number, writers, failed)
        return failed

    failed, complete = work.run("features", out, images, read, write)
    return Features(out.folder, images, failed, complete)


def files_of_features(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of files of a run, each with its extension."""
    kinds = {kind: "npy" for kind in (VECTORS, MAPS) if run["features"][kind]}
    return {VECTORS: "parquet"} if run["format"] == "parquet" else {**kinds, ROWS: "csv"}


class FeatureFolder:
    """Features that :func:`features` wrote as .npy files, mapped into memory.

    Parameters
    ----------
    folder : path
        The output folder.

    Attributes
    ----------
    ids : list of str
        The N images.
    failed : int
        Number of images without features.
    fingerprint : str
        Hash of the network.
    dtype : str
        "float16" or "float32".

    Raises
    ------
    FileNotFoundError
        No features there, or parts of them are missing.
    ValueError
        Other files.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} holds no features: there is no {MANIFEST}")
        about = read_json(self.folder / MANIFEST)
        run = about.get("run", {}) if isinstance(about, dict) else {}
        if "features" not in run or run.get("format") != "npy":
            raise ValueError(f"{folder} holds no features in the format 'npy'")
        if not about["complete"]:
            raise FileNotFoundError(f"{folder} is not complete: the same call of archives.features goes on there")
        self.failed, self.dtype = int(about["failed"]), str(run["dtype"])
        self.fingerprint, self._part_size = str(run["fingerprint"]), int(run["part_size"])
        with (self.folder / LISTING).open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            self.ids = [Listed.of_line(line).stored.name for line in file]

    def __len__(self) -> int:
        return len(self.ids)

    def _parts(self, kind: str) -> list[NDArray[Any]]:
        files = sorted((self.folder / kind).glob("[0-9]*.npy"))
        if not files:
            raise ValueError(
                f"{self.folder} has no {kind}: write them with {'maps' if kind == MAPS else 'pooled'}=True"
            )
        return [np.load(path, mmap_mode="r") for path in files]

    def vectors(self) -> Tensor:
        """Read all vectors into memory, float32 (N, D).

        Raises
        ------
        ValueError
            Only maps were written.
        """
        return torch.from_numpy(np.concatenate([part.astype(np.float32) for part in self._parts(VECTORS)]))

    def maps(self, rows: Sequence[int] | None = None) -> Tensor:
        """Read the maps of some images, or of all, (n, D', h, w), in the precision of the files.

        Raises
        ------
        ValueError
            Only vectors were written.
        """
        parts = self._parts(MAPS)
        if rows is None:
            return torch.from_numpy(np.concatenate(parts))
        places = (divmod(row, self._part_size) for row in rows)
        return torch.from_numpy(np.stack([parts[part][row] for part, row in places]))


def _samples(dataset: ChestDataset, spec: InputSpec, **reading: object) -> Samples:
    if not len(dataset):
        raise ValueError("the data set holds no image")
    if given := [name for name, value in reading.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: a data set reads its images itself")
    if getattr(dataset, "transform", None) is not None:
        raise TypeError("the data set has a transform of its own: build it without, the network's input is made here")
    return Samples(dataset, transform_for(spec), original=("size",))


def _pixels(samples: Samples) -> str:
    """Hash the first and the last image: ids of another version of a data set may be the same."""
    whole = hashlib.sha256()
    for index in {0, len(samples) - 1}:
        whole.update(samples[index]["image"].contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def _of_dataset(ids: Sequence[str]) -> Iterator[Listed]:
    return (Listed(Stored(name, "", None, 0, "")) for name in ids)


def _batches(
    samples: Samples, part_size: int, wanted: Sequence[int], *, batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """Read the images of the wanted parts of a data set, as :func:`thoraxlib.archives.listing.batches` does."""
    for part in wanted:
        indices = range(part * part_size, min((part + 1) * part_size, len(samples)))
        for batch in samples.batches(batch_size, indices=indices, num_workers=num_workers):
            images = list(_of_dataset(batch["id"]))
            yield Batch(part, images, [None] * len(images), batch["image"], batch["size"])


def _compute(
    embedder: nn.Module,
    device: torch.device,
    precision: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
    group: Iterable[Batch],
    bar: Any,
) -> tuple[list[Row], dict[str, NDArray[Any]]]:
    """Compute the rows of a part and each kind of features, in `shapes`; those of images with an error are NaN."""
    rows: list[Row] = []
    found: dict[str, list[NDArray[Any]]] = {kind: [] for kind in shapes}
    for batch in group:
        read = [len(rows) + k for k, error in enumerate(batch.errors) if error is None]
        sizes = iter(batch.sizes)
        for image, error in zip(batch.images, batch.errors, strict=True):
            height, width = image.size or (next(sizes) if error is None else (None, None))
            path = printable(image.stored.origin.removeprefix("file://"))
            reason = None if error is None else printable(error)
            rows.append(Row(printable(image.stored.name), path, height, width, reason))
        new = {kind: np.full((len(batch.images), *shape), np.nan, dtype) for kind, shape in shapes.items()}
        if read:
            x = batch.x.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.inference_mode(), autocast(device, precision):
                outputs = dict(zip((VECTORS, MAPS), embedder(x), strict=True))
            values = {kind: outputs[kind].float().cpu() for kind in shapes}
            highs = torch.stack([value.flatten(1).abs().amax(dim=1) for value in values.values()]).amax(dim=0)
            first = len(rows) - len(batch.images)
            for k, (row, high) in enumerate(zip(read, highs.tolist(), strict=True)):
                if high <= _LARGEST[dtype.name]:  # false for NaN
                    for kind, value in values.items():
                        new[kind][row - first] = value[k].numpy()
                else:
                    rows[row] = rows[row]._replace(error=f"features that are NaN, or that {dtype.name} cannot hold")
        for kind, array in new.items():
            found[kind].append(array)
        bar.update(len(batch.images))
    return rows, {kind: np.concatenate(arrays) for kind, arrays in found.items()}


def _save(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _write_parquet(path: Path, rows: Sequence[Row], vectors: NDArray[Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    keys = ("id", "path", "height", "width", "error")
    columns = {key: [getattr(row, key) for row in rows] for key in keys}
    kinds = [pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.int32(), pyarrow.string()]
    arrays = [pyarrow.array(columns[key], kind) for key, kind in zip(keys, kinds, strict=True)]
    flat = pyarrow.array(vectors.reshape(-1))
    arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    parquet.write_table(pyarrow.table(arrays, names=[*keys, "features"]), path)


def of_dataset(folder: str | os.PathLike[str], dataset: ChestDataset) -> FeatureFolder:
    """Open the features of a data set.

    Raises
    ------
    ValueError
        They are of other images, or some images have none.
    """
    stored = FeatureFolder(folder)
    if stored.ids != list(dataset.ids):
        raise ValueError(f"{folder} holds the features of other images than those of the data set")
    if stored.failed:
        raise ValueError(
            f"{stored.failed} images have no features; the reasons are in the column 'error' of {stored.folder / ROWS}"
        )
    return stored
