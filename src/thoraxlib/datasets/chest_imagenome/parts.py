"""Which images are in a part, by Chest ImaGenome's lists or MIMIC-CXR's, and which patients must not be there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.chest_imagenome.annotations import Annotations
from thoraxlib.datasets.mimic_cxr import in_split
from thoraxlib.datasets.tables import Table

SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validate": "valid", "test": "test", "all": "all"}
LISTS = ("imagenome", "mimic")

_FOLDER = "silver_dataset/splits"
_LATER = {"train": ("valid", "test"), "valid": ("test",), "test": ()}


def images_of(
    split: str, lists: str, root: Path, images: Path, annotations: Annotations
) -> tuple[NDArray[np.intp], dict[str, int]]:
    """Rows of `annotations` that are in a part, and how many images the part has besides.

    Parameters
    ----------
    split : str
        One of :data:`SPLITS`; "all" is every image.
    lists : {"imagenome", "mimic"}
        Whose split: ``silver_dataset/splits/*.csv`` in `root`, or MIMIC-CXR-JPG's table in `images`.
    root, images : Path
        Of Chest ImaGenome, and of MIMIC-CXR-JPG.
    annotations : Annotations
        All of them.

    Returns
    -------
    rows : NDArray
        In the order of the list.
    left_out : dict of str to int
        Numbers of images, by reason.

    Raises
    ------
    FileNotFoundError
        A list is lacking.
    ValueError
        A list without the column that is needed, or that names an image twice, or with another patient than the
        annotations.

    Warns
    -----
    UserWarning
        Patients who are in more than one list: the images of the earlier one (train before valid before test) are left
        out. The gold patients' list is lacking.
    """
    part = SPLITS[split]
    if part == "all":
        return np.arange(len(annotations.ids)), {}
    patient_of = dict(zip(annotations.ids, annotations.patients, strict=True))
    if lists == "mimic":
        chosen = in_split(images, "validate" if part == "valid" else part, annotations.ids)
        rows, unknown, avoided = np.flatnonzero(chosen), 0, set[str]()
    else:
        tables = {name: _listed(root, name, patient_of) for name in (part, *_LATER[part])}
        row_of = {image: row for row, image in enumerate(annotations.ids)}
        found = [row_of[image] for image, _ in tables[part] if image in row_of]
        rows, unknown = np.array(found, dtype=np.intp), len(tables[part]) - len(found)
        avoided = _shared(part, {name: {patient for _, patient in table} for name, table in tables.items()})
    if part != "test":
        avoided = avoided | _gold_patients(root, patient_of)
    clean = np.array([annotations.patients[row] not in avoided for row in rows.tolist()], dtype=bool)
    return rows[clean], {"listed without a scene graph": unknown, "of patients to avoid": int((~clean).sum())}


def _listed(root: Path, name: str, patient_of: Mapping[str, str]) -> list[tuple[str, str]]:
    """(image, patient) of a list, which must be the patient that the annotations have."""
    path = root / _FOLDER / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"split: {path} does not exist; split='all' needs no list")
    table = Table(path)
    images, patients = table.column("dicom_id"), table.ids("subject_id", prefix="p")
    table.check_unique(images)
    for row, (image, patient) in enumerate(zip(images, patients, strict=True)):
        if patient_of.get(image, patient) != patient:
            raise ValueError(
                f"{table.where(row)}: {image} is of patient {patient} there, of {patient_of[image]} in its scene graph"
            )
    return list(zip(images, patients, strict=True))


def _shared(part: str, patients: dict[str, set[str]]) -> set[str]:
    """Patients of a part who are in a later one as well."""
    later = set[str]().union(*(patients[name] for name in _LATER[part]))
    shared = patients[part] & later
    if shared:
        warnings.warn(
            f"{len(shared)} patients of {part}.csv are also in {' or '.join(_LATER[part])}, e.g. {min(shared)}: their "
            f"images are left out of {part}",
            stacklevel=4,
        )
    return shared


def _gold_patients(root: Path, patient_of: Mapping[str, str]) -> set[str]:
    """Those whose images people annotated."""
    path = root / _FOLDER / "images_to_avoid.csv"
    if not path.is_file():
        warnings.warn(f"{path} does not exist: the patients of the gold set may be among these images", stacklevel=4)
        return set()
    return {patient for _, patient in _listed(root, path.stem, patient_of)}
