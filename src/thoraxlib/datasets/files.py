"""The image files below a folder: found once, looked up by name."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from thoraxlib.images.copies import COPY, CopiedImage, ImageFile, TrainingCopy
from thoraxlib.images.pictures import size_of
from thoraxlib.images.reading import SUFFIXES, read
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import below, open_regular

T = TypeVar("T")

_ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}  # by the signature, not the name


def check_root(root: str | os.PathLike[str], argument: str = "root") -> Path:
    """`root` as a path; `argument` is its name in messages.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is no such folder.
    """
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(f"{argument}: no such folder: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{argument} must be a folder, got the file {path}")
    return path


def find_file(root: Path, *patterns: str) -> Path:
    """The last match, in alphabetical order, of the first pattern that has one.

    Raises
    ------
    FileNotFoundError
        None has.
    """
    for pattern in patterns:
        matches = sorted(root.glob(pattern))
        if matches:
            return matches[-1]
    raise FileNotFoundError(f"{root} holds none of {', '.join(patterns)}")


def opened(root: Path) -> Path | TrainingCopy:
    """Open the training copy that `root` is; another folder is given back as it is.

    Raises
    ------
    ValueError
        As :class:`thoraxlib.images.TrainingCopy`.
    """
    return TrainingCopy(root) if (root / COPY).is_file() else root


def index_images(root: Path, pattern: str | None = "images*") -> dict[str, ImageFile]:
    """Map the name of every image file in the folders of `root` that match `pattern`, at any depth, to the file.

    Without a pattern all of `root` is looked into. Names in tables are only ever looked up here, so that none can point
    out of `root`. A training copy (:func:`thoraxlib.archives.prepare`) at `root` itself, or in such a folder, counts as
    the files that it was made of.

    Raises
    ------
    FileNotFoundError
        There is no image.
    """
    found: dict[str, ImageFile] = {}
    folder = opened(root)
    tops = (
        [""]
        if pattern is None or isinstance(folder, TrainingCopy)
        else [top.name for top in sorted(root.glob(pattern))]
    )
    for name, image in _images_in(folder, tops):
        found.setdefault(name.rpartition("/")[2], image)
    if not found:
        place = root if pattern is None else f"the folders {pattern} of {root}"
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) in {place}")
    return found


def index_tree(root: Path | TrainingCopy, tops: Iterable[str]) -> dict[str, ImageFile]:
    """Map the path below `root`, with slashes, of every image file in its folders `tops`, at any depth, to the file.

    For releases with files of the same name in different folders; as in :func:`index_images`, no name in a table can
    point out of `root`, and training copies count.

    Raises
    ------
    FileNotFoundError
        There is no image.
    ValueError
        A folder that is not below `root`.
    """
    folder, path = (opened(root), root) if isinstance(root, Path) else (root, root.folder)
    tops = sorted(below(top, path) for top in tops)
    found = dict(_images_in(folder, tops))
    if not found:
        first = ", ".join(tops[:5]) + (", ..." if len(tops) > 5 else "")
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) in the folders {first} of {path}")
    return found


def top_folders(root: Path | TrainingCopy) -> list[str]:
    """Name the folders in `root` itself, in alphabetical order; those of the files that a training copy was made of."""
    if isinstance(root, Path):
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted({name.partition("/")[0] for name in root.names if "/" in name})


def index_named(root: Path, names: Iterable[str]) -> dict[str, ImageFile]:
    """Map names to image files below `root` that a table may mean: paths below it, or bare names at any depth.

    Raises
    ------
    FileNotFoundError
        There is no image.
    ValueError
        A name that points out of `root`.
    """
    tops: set[str] = set()
    for name in names:
        tops.add(plain(name, root).rpartition("/")[0])
    if tops <= {""}:
        root = root.absolute()  # "." has no name
        return index_images(root.parent, glob.escape(root.name))
    return index_tree(root, tops)


def plain(name: str, source: object) -> str:
    r"""Give a path of a table one spelling: with slashes, without ``.`` and empty parts.

    Raises
    ------
    ValueError
        As :func:`thoraxlib.utils.files.below`.

    Examples
    --------
    >>> plain("x/./a.png", "labels.csv"), plain("x\\a.png", "labels.csv")
    ('x/a.png', 'x/a.png')
    """
    return "/".join(part for part in below(name, source).replace("\\", "/").split("/") if part not in ("", "."))


def _images_in(root: Path | TrainingCopy, tops: Iterable[str]) -> Iterator[tuple[str, ImageFile]]:
    """Find the images in the folders `tops` of `root`: their paths below it, with slashes, and where they are."""
    paths = [PurePosixPath(top) for top in tops]
    if isinstance(root, TrainingCopy):
        wanted = set(paths)
        for name in root.names:
            if not wanted.isdisjoint(PurePosixPath(name).parents):
                yield name, CopiedImage(root, name)
        return
    for parent in sorted({parent for path in paths for parent in path.parents}):
        copy = opened(root / parent)
        if isinstance(copy, TrainingCopy):
            inside = [str(path.relative_to(parent)) for path in paths if parent in path.parents]
            paths = [path for path in paths if parent not in path.parents]
            for name, image in _images_in(copy, inside):
                yield str(parent / name), image
    for top in paths:
        for folder, folders, files in os.walk(root / top):
            here = PurePosixPath(Path(folder).relative_to(root).as_posix())
            if COPY in files:
                folders.clear()
                for name, image in _images_in(TrainingCopy(folder), [""]):
                    yield str(here / name), image
            else:
                for name in files:
                    if name.lower().endswith(SUFFIXES):
                        yield str(here / name), Path(folder, name)


def existing(
    names: Sequence[str], files: dict[str, ImageFile], missing: str, where: Path, **chosen: object
) -> list[int]:
    """Positions of the names that have a file.

    Parameters
    ----------
    names : sequence of str
        File names.
    files : dict of str to ImageFile
        From :func:`index_images`.
    missing : {"error", "skip"}
        With ``"skip"``, files that are absent, or that cannot be read, are left out with one warning. A PNG or JPEG
        file that ends with its end mark, and a DICOM file that is not empty, is taken for one that can; every other
        file is read to find out. With ``"error"``, absent ones raise; others raise when they are read.
    where : Path
        The folder, for the messages.
    **chosen
        Options that the names were chosen by, for the message.

    Raises
    ------
    FileNotFoundError
        With the count and the first names.
    ValueError
        Another value of `missing`; or no image is left.
    """
    one_of("missing", missing, ("error", "skip"))
    usable: Callable[[str], bool] = files.__contains__ if missing == "error" else lambda n: _is_read(files.get(n))
    is_usable = [usable(name) for name in names]
    kept = [position for position, good in enumerate(is_usable) if good]
    lost = [position for position, good in enumerate(is_usable) if not good]
    if lost:
        first = ", ".join(names[position] for position in lost[:5]) + (", ..." if len(lost) > 5 else "")
        if missing == "error":
            raise FileNotFoundError(
                f"{len(lost)} of {len(names)} images are missing below {where}: {first}; pass missing='skip' to go on "
                "without them"
            )
        warnings.warn(
            f"{len(lost)} of {len(names)} images below {where} are missing or cut off, or cannot be read, and are "
            f"skipped: {first}",
            stacklevel=3,
        )
    if not kept:
        asked = ", ".join(f"{name}={value!r}" for name, value in {**chosen, "missing": missing}.items())
        raise ValueError(f"no image is left: {asked}, {where}")
    return kept


def _is_read(path: ImageFile | None) -> bool:
    """Whether a file can be read as an image, by its end where that tells; no stricter than the decoder."""
    if path is None:
        return False
    if isinstance(path, CopiedImage):
        return True
    try:
        file = open_regular(path)
    except (OSError, ValueError):
        return False
    with file:
        start = file.read(132)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64))  # some writers pad after the end mark
        tail = file.read()
    if path.suffix.lower() in (".dcm", ".dicom") or start[128:] == b"DICM":
        return bool(start)
    if any(start.startswith(signature) and mark in tail for signature, mark in _ENDS.items()):
        return True
    try:
        read(path)
    except ValueError:
        return False
    return True


def image_size(path: ImageFile) -> tuple[int, int]:
    """Find (H, W) of an image as :func:`thoraxlib.images.read` gives it: from its copy, its header, or its pixels.

    Raises
    ------
    ValueError
        The file is no image.
    """
    if isinstance(path, CopiedImage):
        return path.size
    try:
        with open_regular(path) as file:
            return size_of(file, path)
    except ValueError:
        height, width = read(path).shape[-2:]  # DICOM; read says what else is wrong
        return int(height), int(width)


def progress_bar(items: Collection[T], what: str, *, shown: bool = True) -> Iterable[T]:
    """`items`, with a bar on standard error if that is a terminal and `shown`."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=what, disable=None if shown else True)
    return bar
