"""Training copies: images of one size, ready to be read many times; :func:`thoraxlib.archives.prepare` writes them."""

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
_NUMBERS = ("row", "height", "width", "check")  # of the entry of an image that is there


def description(folder: Path) -> dict[str, Any]:
    """What a copy says of itself: version, settings, and whether it is finished.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    try:
        return dict(read_json(folder / COPY))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / COPY} is damaged ({error}): prepare the images anew, in another folder") from error


class TrainingCopy:
    """A folder that :func:`thoraxlib.archives.prepare` wrote, opened for reading.

    Data sets read it of their own accord where it takes the place of the folder of their images; this class is for
    other uses.

    Parameters
    ----------
    folder : path
        The output folder of :func:`~thoraxlib.archives.prepare`.

    Attributes
    ----------
    folder : Path
        The same.
    spec : InputSpec
        Its size and resize rule are those of the copy.
    names : tuple of str
        Of the images, as they were called below their source, in the order of their rows.
    failures : dict of str to str
        Name -> error of the images that could not be read, which the copy lacks.

    Raises
    ------
    FileNotFoundError
        There is no copy.
    ValueError
        The copy is not finished, was written by another version or in another form, or its ``copy.json`` or manifest is
        damaged.
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
        found = entries(self.folder / MANIFEST).values()
        self.failures = {entry["name"]: entry["error"] for entry in found if "error" in entry}
        kept = sorted((entry for entry in found if "row" in entry), key=lambda entry: entry["row"])
        self.names = tuple(entry["name"] for entry in kept)
        self._images = {entry["name"]: (entry["row"], (entry["height"], entry["width"])) for entry in kept}

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (rows, h, w), mapped into memory: a row is read when it is used.

        Raises
        ------
        ValueError
            The array is damaged, or not that of the manifest.
        """
        path, rows = self.folder / PIXELS, max((self.row(name) for name in self.names), default=-1) + 1
        try:
            pixels: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy raises many kinds for damaged files
            if is_environment_error(error):
                raise
            raise ValueError(f"{path} is damaged: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.spec.size or len(pixels) < rows:
            raise ValueError(f"{path} holds {pixels.dtype} {pixels.shape}: it is not that of the manifest")
        return pixels

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._images

    def row(self, name: str) -> int:
        """The row of an image.

        Raises
        ------
        KeyError
            The copy lacks it.
        """
        row: int = self._images[name][0]
        return row

    def size(self, name: str) -> tuple[int, int]:
        """(H, W) of an image itself.

        Raises
        ------
        KeyError
            The copy lacks it.
        """
        return self._images[name][1]

    def image(self, name: str) -> tv_tensors.Image:
        """A copied image, uint8 (1, h, w).

        Raises
        ------
        KeyError
            The copy lacks it.
        """
        return tv_tensors.Image(torch.from_numpy(self.pixels[self.row(name)].copy())[None])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "pixels"}  # each process maps it anew

    def __repr__(self) -> str:
        return f"TrainingCopy({str(self.folder)!r}): {len(self)} images of {self.spec.size}"


class CopiedImage(NamedTuple):
    """An image of a training copy, for the data set that it belongs to; as a path, the file that it stands for."""

    copy: TrainingCopy
    name: str

    def __fspath__(self) -> str:
        return str(self.copy.folder / self.name)

    def __str__(self) -> str:
        return self.__fspath__()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image that was copied."""
        return self.copy.size(self.name)

    def stand_in(self) -> tv_tensors.Image:
        """A black image of the image's own size that takes no memory: boxes and masks are worked out against it."""
        return tv_tensors.Image(torch.zeros((), dtype=torch.uint8).expand(1, *self.size))

    def placed(self, sample: dict[str, Any]) -> dict[str, Any]:
        """`sample`, made with the stand-in, with the copy's pixels, and boxes and masks where they lie in it."""
        moved: dict[str, Any] = {"image": self.copy.image(self.name)}
        for key, value in sample.items():
            if isinstance(value, (tv_tensors.BoundingBoxes, tv_tensors.Mask)):
                place = placement(self.copy.spec, *self.size)
                moved[key] = Resize(self.copy.spec).transform(value, {"place": place})
        return {**sample, **moved}


#: Where an image of a data set is: in a file of its own, or in a training copy.
ImageFile: TypeAlias = Path | CopiedImage


def entries(manifest: Path) -> dict[str, dict[str, Any]]:
    """Name -> the last entry of each image in a manifest; a line that was cut off at the end is no entry.

    Raises
    ------
    ValueError
        Naming the line: it is no entry of an image, or its name points out of the copy.
    """
    found: dict[str, dict[str, Any]] = {}
    with manifest.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                entry = _entry(parse_json(line, where := f"{manifest}:{number}"), where)
                found[entry["name"]] = entry
    return found


def _entry(content: Any, where: str) -> dict[str, Any]:
    """`content`, if it is what a preparation writes of an image: where it lies, or the error that it gave."""
    entry: dict[str, Any] = content if isinstance(content, dict) else {}
    numbers = _NUMBERS if "row" in entry else ()
    texts = ("name",) if numbers else ("name", "error")
    if not all(isinstance(entry.get(key), str) for key in texts) or not all(
        isinstance(entry.get(key), int) and entry[key] >= 0 for key in numbers
    ):
        raise ValueError(f"{where} is damaged: it is no image's entry; prepare the images anew, in another folder")
    below(entry["name"], where)
    return entry
