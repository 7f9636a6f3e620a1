"""A user's own images in folders by class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from thoraxlib.datasets.base import Transform
from thoraxlib.datasets.faults import Faults
from thoraxlib.datasets.files import StrPath, index_all
from thoraxlib.datasets.record_dataset import RecordDataset, hinting
from thoraxlib.datasets.records import Records
from thoraxlib.images.copies import ImageFile
from thoraxlib.utils.arguments import few

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class FolderDataset(RecordDataset):
    r"""Images in folders by class: ``root/<class>/...`` at any depth, or ``root/train/<class>/...`` and other parts.

    Folders of parts are called train, val (or valid, validation, dev) and test. :func:`thoraxlib.datasets.check` with
    `root` and without a table takes the same options and reports all faults.

    Parameters
    ----------
    root : path
        The folder, or a training copy of it.
    labels : str or sequence of str, optional
        Labels in any data set's spelling; by default all classes in alphabetical order, without those of `negative`. A
        label that is no class is NaN for all images, with a warning.
    negative : str or sequence of str, optional
        Classes whose images have no finding, all labels 0, such as ``"NORMAL"``. By default they are classes like the
        others: labels are one-hot.
    patient : str, optional
        Regular expression that finds the patient in a file's name, such as ``r"person(\d+)"``: its groups, or the whole
        match. Without it, every image counts as a patient of its own, with a warning.
    split : str
        ``"all"``; ``"train"``, ``"val"`` or ``"test"``: the folder of this part, or without such folders 0.7, 0.1 and
        0.2 of the images by patient (:func:`~thoraxlib.datasets.stratified_split`).
    fold : (int, int), optional
        (i, k): `split` "train" or "val" of fold i, from 0, of k (:func:`~thoraxlib.datasets.folds`).
    seed : int
        Random seed of the split by patient and of the folds.
    masks : path, optional
        Folder of organ masks (0: background) with the images' names, for samples with ``organ_mask``.
    missing : {"error", "skip"}
        "skip" leaves out files that cannot be read, and images without mask, with one warning.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the file's path below `root`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, its images or masks are missing.
    ValueError
        Images lie in no folder of a class, there is one class only, a name has no patient, an option is wrong, or no
        image is left.

    Warns
    -----
    UserWarning
        Patients are unknown, or in several parts; a label is unknown for all images; images are left out.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from thoraxlib.datasets import build
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("NORMAL/person1_a.png", "PNEUMONIA/person2_a.png"):
    ...     (root / name).parent.mkdir()
    ...     Image.new("L", (4, 3)).save(root / name)
    >>> data = build("folder", root=root, negative="NORMAL", patient=r"person(\d+)")
    >>> data.labels, data.patient_ids, data.targets.tolist()
    (('PNEUMONIA',), ['1', '2'], [[0.0], [1.0]])
    """

    def __init__(
        self,
        *,
        root: StrPath,
        labels: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        patient: str | None = None,
        split: str = "all",
        fold: tuple[int, int] | None = None,
        seed: int = 0,
        masks: StrPath | None = None,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, transform)
        files = index_all(self.root)
        with hinting(f"check(root={str(self.root)!r}, ...)"):
            records = read_folders(str(self.root), files, negative, patient, Faults())
            self._take(records, files, labels=labels, split=split, fold=fold, seed=seed, missing=missing, masks=masks)


def read_folders(
    source: str,
    files: Mapping[str, ImageFile],
    negative: str | Sequence[str] | None,
    patient: str | None,
    faults: Faults,
) -> Records:
    """Return the images of folders by class.

    Raises
    ------
    ValueError
        `negative` or `patient` is wrong, or there is no label.
    """
    paths = {name: name.split("/")[:-1] for name in sorted(files)}
    in_parts = [name for name, folders in paths.items() if len(folders) > 1 and folders[0].lower() in _PARTS]
    has_parts = bool(in_parts)
    if has_parts:
        beside = [name for name, folders in paths.items() if folders and folders[0].lower() not in _PARTS]
        faults.error("images beside the folders of parts", beside)
        paths = {name: folders for name, folders in paths.items() if name not in set(beside)}
    classes = {name: folders[int(has_parts)] for name, folders in paths.items() if len(folders) > has_parts}
    faults.error("images in no folder of a class", [name for name in paths if name not in classes])
    known = sorted(set(classes.values()))
    none = [negative] if isinstance(negative, str) else list(negative or ())
    if not set(none) <= set(known):
        raise ValueError(f"negative={negative!r}: some of the classes are needed, {few(known)}")
    labels = tuple(label for label in known if label not in none)
    if len(known) < 2 or not labels:
        raise ValueError(f"{source}: two classes or more are needed, a folder for each; found: {few(known)}")
    names = list(classes)
    targets = np.array([[float(classes[name] == label) for label in labels] for name in names], dtype=np.float32)
    return Records(
        source=source,
        names=names,
        patients=None if patient is None else _patients(names, patient, faults),
        labels=labels,
        targets=targets,
        parts=[_PARTS[paths[name][0].lower()] for name in names] if has_parts else None,
    )


def _patients(names: Sequence[str], pattern: str, faults: Faults) -> list[str]:
    try:
        matches = [re.search(pattern, name.rpartition("/")[2]) for name in names]
    except re.error as error:
        raise ValueError(f"patient={pattern!r} is no regular expression: {error}") from error
    lacking = [name for name, match in zip(names, matches, strict=True) if match is None]
    faults.error("names without a patient", lacking, f"{len(lacking)} names do not match patient={pattern!r}")
    # all groups: alternatives such as person(\d+)|IM-(\d+) must not give two patients one id
    return [
        name if match is None else "/".join(group or "" for group in match.groups()) or match[0]
        for name, match in zip(names, matches, strict=True)
    ]
