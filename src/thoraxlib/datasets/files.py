"""Find the image files below a folder, by name."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

from thoraxlib.images.copies import COPY, CopiedImage, ImageFile, TrainingCopy
from thoraxlib.images.pictures import size_of
from thoraxlib.images.reading import SUFFIXES, read
from thoraxlib.utils.arguments import few, one_of
from thoraxlib.utils.files import below, open_regular

T = TypeVar("T")
StrPath: TypeAlias = str | os.PathLike[str]

_ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}  # end mark by signature


def check_root(root: StrPath, argument: str = "root") -> Path:
    """Return `root` as a path if it is a folder; `argument` is its name in messages.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        `root` is not a folder.
    """
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(f"{argument}: no such folder: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{argument} must be a folder, got the file {path}")
    return path


def find_file(root: Path, *patterns: str) -> Path:
    """Find the last file, in alphabetical order, that matches the first pattern with a match.

    Raises
    ------
    FileNotFoundError
        No pattern matches.
    """
    for pattern in patterns:
        matches = sorted(root.glob(pattern))
        if matches:
            return matches[-1]
    raise FileNotFoundError(f"{root} holds none of {', '.join(patterns)}")


def opened(root: Path) -> Path | TrainingCopy:
    """Open `root` if it is a training copy; return any other folder unchanged.

    Raises
    ------
    ValueError
        As :class:`thoraxlib.images.TrainingCopy`.
    """
    return TrainingCopy(root) if (root / COPY).is_file() else root


def index_images(root: Path, pattern: str | None = "images*") -> dict[str, ImageFile]:
    """Map the bare name of every image, in the folders of `root` that match `pattern`, at any depth, to its file.

    Without a pattern, all of `root` is searched. Names in tables are only looked up here, so that none can lead out of
    `root`. A training copy (:func:`thoraxlib.archives.prepare`) at `root`, or in one of the folders, stands for the
    files that it was made from. Of several files with one name, the first counts.

    Raises
    ------
    FileNotFoundError
        There is no image.
    """
    folder, tops = opened(root), [""]
    if pattern is not None and isinstance(folder, Path):
        tops = [top.name for top in sorted(root.glob(pattern))]
    images: dict[str, ImageFile] = {}
    for name, image in _images_in(folder, tops):
        images.setdefault(name.rpartition("/")[2], image)
    if not images:
        where = root if pattern is None else f"the folders {pattern} of {root}"
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) in {where}")
    return images


def index_tree(root: Path | TrainingCopy, tops: Iterable[str]) -> dict[str, ImageFile]:
    """Map the relative POSIX path of every image in the subfolders `tops` of `root`, at any depth, to its file.

    This is for releases with files of one name in several folders. Training copies count as in :func:`index_images`.

    Raises
    ------
    FileNotFoundError
        There is no image.
    ValueError
        A folder is not below `root`.
    """
    folder, path = (opened(root), root) if isinstance(root, Path) else (root, root.folder)
    tops = sorted(below(top, path) for top in tops)
    images = dict(_images_in(folder, tops))
    if not images:
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) in the folders {few(tops, 5)} of {path}")
    return images


def index_all(root: Path) -> dict[str, ImageFile]:
    """Map the relative POSIX path of every image in a folder, at any depth, to its file.

    Training copies count as in :func:`index_images`. Hidden files, and those that macOS adds to archives, are left out.

    Raises
    ------
    FileNotFoundError
        There is no image.
    """
    hidden = re.compile(r"(^|/)(\.|__MACOSX/)")
    images = {name: image for name, image in _images_in(opened(root), [""]) if not hidden.search(name)}
    if not images:
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) in {root}")
    return images


def look_up(
    names: Sequence[str], files: Mapping[str, ImageFile], root: Path
) -> tuple[dict[str, ImageFile], dict[str, list[str]]]:
    """Find the files of names: paths below `root`, or bare names at any depth, with or without extension.

    Names are only looked up in `files`, so that none can lead out of `root`.

    Parameters
    ----------
    names : sequence of str
        Names, with slashes of either kind; a full path that begins with `root` is a path below it.
    files : mapping of str to ImageFile
        From :func:`index_all`.
    root : Path
        The folder of the files.

    Returns
    -------
    dict of str to ImageFile
        File by name, of the names that have one.
    dict of str to list of str
        Paths by name, of the names that fit several files.
    """
    found = {name: files[name] for name in names if name in files}
    several: dict[str, list[str]] = {}
    if len(found) == len(names):
        return found, several
    paths: dict[str, list[str]] = {}
    for path in files:
        bare = path.rpartition("/")[2]
        for key in {bare, os.path.splitext(path)[0], os.path.splitext(bare)[0]} - {path}:
            paths.setdefault(key, []).append(path)
    fitting = {name: paths[name] for name in names if name in paths and name not in files}
    start, signs = f"{root.as_posix()}/", "\n".join(names)
    if "\\" in signs or "./" in signs or start in signs:  # a search in one text is much faster than in each name
        for name in [name for name in names if name not in found and name not in fitting]:
            key = name.replace("\\", "/").removeprefix(start).removeprefix("./")
            fitting[name] = [key] if key in files else paths.get(key, [])
    found |= {name: files[of[0]] for name, of in fitting.items() if len(of) == 1}
    several = {name: of for name, of in fitting.items() if len(of) > 1}
    return found, several


def top_folders(root: Path | TrainingCopy) -> list[str]:
    """List the folders directly in `root`, or in the folder that a training copy was made from, in sorted order."""
    if isinstance(root, Path):
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted({name.partition("/")[0] for name in root.names if "/" in name})


def index_named(root: Path, names: Iterable[str]) -> dict[str, ImageFile]:
    """Map the names of a table to image files: paths below `root`, or bare names at any depth.

    Raises
    ------
    FileNotFoundError
        There is no image.
    ValueError
        A name leads out of `root`.
    """
    tops = {plain(name, root).rpartition("/")[0] for name in names}
    return index_images(root, None) if tops <= {""} else index_tree(root, tops)


def plain(name: str, source: object) -> str:
    r"""Return a path of a table with slashes, and without ``.`` and empty parts.

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
    """Yield the relative POSIX path and the file of each image in the subfolders `tops` of `root`."""
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
            prefix = PurePosixPath(Path(folder).relative_to(root).as_posix())
            if COPY in files:
                folders.clear()
                for name, image in _images_in(TrainingCopy(folder), [""]):
                    yield str(prefix / name), image
            else:
                for name in files:
                    if name.lower().endswith(SUFFIXES):
                        yield str(prefix / name), Path(folder, name)


def existing(
    names: Sequence[str], files: dict[str, ImageFile], missing: str, where: Path, **chosen: object
) -> list[int]:
    """Return the positions of the names that have an image file.

    Parameters
    ----------
    names : sequence of str
        File names.
    files : dict of str to ImageFile
        From :func:`index_images`.
    missing : {"error", "skip"}
        "error": raise if files are absent. "skip": leave out files that are absent or cannot be read, with one warning.
        A PNG or JPEG file that ends with its end mark, and a DICOM file that is not empty, counts as readable; any
        other file is read to find out.
    where : Path
        The folder, for messages.
    **chosen
        Options that selected the names, for messages.

    Raises
    ------
    FileNotFoundError
        Files are absent; the message has their number and the first names.
    ValueError
        No image is left.
    """
    one_of("missing", missing, ("error", "skip"))
    kept = [position for position, name in enumerate(names) if name in files]
    absent = [name for name in names if name not in files]
    if missing == "skip":
        broken = {position for position in kept if not is_readable(files[names[position]])}
        kept = [position for position in kept if position not in broken]
        absent += [names[position] for position in sorted(broken)]
    if absent and missing == "error":
        raise FileNotFoundError(
            f"{len(absent)} of {len(names)} images are missing below {where}: {few(absent, 5)}; pass missing='skip' to "
            "go on without them"
        )
    if absent:
        warnings.warn(
            f"{len(absent)} of {len(names)} images below {where} are missing or cut off, or cannot be read, and are "
            f"skipped: {few(absent, 5)}",
            stacklevel=4,
        )
    if not kept:
        options = ", ".join(f"{name}={value!r}" for name, value in {**chosen, "missing": missing}.items())
        raise ValueError(f"no image is left: {options}, {where}")
    return kept


def is_readable(path: ImageFile) -> bool:
    """Return True if a file is an image, by its end mark if it has one; no stricter than the decoder."""
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
    """Return (H, W) of an image as :func:`thoraxlib.images.read` gives it: from its copy, its header, or its pixels.

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
        height, width = read(path).shape[-2:]  # DICOM; for other files, read raises the precise error
        return int(height), int(width)


def progress_bar(items: Collection[T], what: str, *, shown: bool = True) -> Iterable[T]:
    """Iterate over `items` with a progress bar on standard error, if that is a terminal and `shown`."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=what, disable=None if shown else True)
    return bar
