"""Read training copies: images of one size in one array, written by :func:`thoraxlib.archives.prepare`."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from thoraxlib.images.resize import Resize, placement
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import below, is_environment_error, parse_json, read_json

COPY, MANIFEST, PIXELS = "copy.json", "manifest.jsonl", "pixels.npy"
_NUMBERS = ("row", "height", "width", "check")  # in the entry of an image that was prepared


def description(folder: Path) -> dict[str, Any]:
    """Read the version, settings and completeness of a copy.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    try:
        return dict(read_json(folder / COPY))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / COPY} is damaged ({error}): prepare the images in a new folder") from error


class TrainingCopy:
    """Images written by :func:`thoraxlib.archives.prepare`, opened for reading.

    Data sets use this class themselves if the copy is in the place of their folder of images.

    Parameters
    ----------
    folder : path
        The output folder of :func:`~thoraxlib.archives.prepare`.

    Attributes
    ----------
    folder : Path
        The folder.
    spec : InputSpec
        Size and resize rule of the copy.
    names : tuple of str
        Paths of the images below their source, in the order of their rows.
    failures : dict of str to str
        Name -> error of the images that could not be read.

    Raises
    ------
    FileNotFoundError
        `folder` holds no copy.
    ValueError
        The copy is not finished, has another version or form, or its ``copy.json`` or manifest is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / COPY).is_file():
            raise FileNotFoundError(f"{self.folder} holds no training copy: there is no {COPY}")
        about = description(self.folder)
        if about.get("version") != 1:
            raise ValueError(f"{self.folder}: a copy of version 1 is wanted, got {about.get('version')}")
        if not about.get("complete"):
            raise ValueError(f"{self.folder}: the copy is not finished; run the same preparation again")
        try:
            self.spec = InputSpec().updated(about["settings"]["spec"])
            form = about["settings"]["form"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / COPY} is damaged ({error!r}): prepare the images anew") from error
        if form != "array":
            raise ValueError(f"{self.folder}: a copy of form 'array' is wanted, got {form!r}; prepare the images anew")
        listed = entries(self.folder / MANIFEST).values()
        self.failures = {entry["name"]: entry["error"] for entry in listed if "error" in entry}
        kept = sorted((entry for entry in listed if "row" in entry), key=lambda entry: entry["row"])
        self._images = {entry["name"]: (entry["row"], (entry["height"], entry["width"])) for entry in kept}
        self.names = tuple(self._images)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Pixels of all images, uint8 (rows, h, w), mapped into memory.

        Raises
        ------
        ValueError
            The array is damaged, or does not agree with the manifest.
        """
        path, rows = self.folder / PIXELS, max((self.row(name) for name in self.names), default=-1) + 1
        try:
            pixels: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except Exception as error:  # NumPy raises many kinds for damaged files
            if isinstance(error, FileNotFoundError) or is_environment_error(error):
                raise
            raise ValueError(f"{path} is damaged: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.spec.size or len(pixels) < rows:
            raise ValueError(f"{path} holds {pixels.dtype} {pixels.shape}, which is not the array of the manifest")
        return pixels

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._images

    def row(self, name: str) -> int:
        """Return the row of an image; a KeyError means that the copy does not have it."""
        row: int = self._images[name][0]
        return row

    def size(self, name: str) -> tuple[int, int]:
        """Return (H, W) of the original image; a KeyError means that the copy does not have it."""
        return self._images[name][1]

    def image(self, name: str) -> tv_tensors.Image:
        """Return the copied image, uint8 (1, h, w); a KeyError means that the copy does not have it."""
        return tv_tensors.Image(torch.from_numpy(self.pixels[self.row(name)].copy())[None])

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key != "pixels"
        }  # each process maps the array itself

    def __repr__(self) -> str:
        return f"TrainingCopy({str(self.folder)!r}): {len(self)} images of {self.spec.size}"


class CopiedImage(NamedTuple):
    """Image of a training copy in a data set; as a path, it is the path below the copy's folder."""

    copy: TrainingCopy
    name: str

    def __fspath__(self) -> str:
        return str(self.copy.folder / self.name)

    def __str__(self) -> str:
        return self.__fspath__()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original image."""
        return self.copy.size(self.name)

    def stand_in(self) -> tv_tensors.Image:
        """Return a black image of the original size that takes no memory, for computing boxes and masks."""
        return tv_tensors.Image(torch.zeros((), dtype=torch.uint8).expand(1, *self.size))

    def placed(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a sample made with :meth:`stand_in`, with the copy's pixels and with boxes and masks in its frame."""
        moved: dict[str, Any] = {"image": self.copy.image(self.name)}
        for key, value in sample.items():
            if isinstance(value, (tv_tensors.BoundingBoxes, tv_tensors.Mask)):
                place = placement(self.copy.spec, *self.size)
                moved[key] = Resize(self.copy.spec).transform(value, {"place": place})
        return {**sample, **moved}


#: Image of a data set: a file of its own, or an image of a training copy.
ImageFile: TypeAlias = Path | CopiedImage


def entries(manifest: Path) -> dict[str, dict[str, Any]]:
    """Read the last entry of each image in a manifest, by name; ignore a last line that was cut off.

    Raises
    ------
    ValueError
        A line is not an entry of an image, or its name is a path out of the copy. The message has the line's number.
    """
    last: dict[str, dict[str, Any]] = {}
    with manifest.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                entry = parse_json(line, where := f"{manifest}:{number}")
                if not _is_entry(entry):
                    raise ValueError(f"{where} is damaged: not an image's entry; prepare the images in a new folder")
                last[below(entry["name"], where)] = entry
    return last


def _is_entry(content: Any) -> bool:
    """Return True if `content` is what a preparation writes for an image: its row and size, or its error."""
    if not isinstance(content, dict):
        return False
    texts, numbers = (("name",), _NUMBERS) if "row" in content else (("name", "error"), ())
    return all(isinstance(content.get(key), str) for key in texts) and all(
        isinstance(content.get(key), int) and content[key] >= 0 for key in numbers
    )
