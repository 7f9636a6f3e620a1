"""Open-i: the Indiana University collection of chest images and reports."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, index_images
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.datasets.openi.labeler import LabelerTable
from thoraxlib.datasets.openi.reports import Report, read_reports
from thoraxlib.datasets.tables import Table, check_joined
from thoraxlib.images.copies import ImageFile
from thoraxlib.images.reading import SUFFIXES

_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-.+)")


class OpenI(ImageDataset):
    """Open-i: 7,470 images and 3,955 reports of the Indiana University hospitals.

    Looks in `root` for reports (``ecgen-radiology/1.xml`` ...) and for images (PNG, or DICOM with the extra ``dicom``),
    at any depth, and for a table of projections. An image goes by the id in its report (``CXR1_1_IM-0001-3001``), by
    its DICOM's name (``1_IM-0001-3001.dcm``), or by the name that the PNGs of the two-table form have
    (``1_IM-0001-3001.dcm.png``); of several files the first in alphabetical order that is no DICOM is taken.

    Parameters
    ----------
    root : path
        The folder of reports and images.
    labels : str or sequence of str
        "padchest_openi22", "chexpert14", or names in any data set's spelling. A label that the labeller cannot tell is
        NaN: with "padchest_openi22" and the default mapping aortic elongation, copd signs, emphysema, heart
        insufficiency, nodule, pulmonary fibrosis, surgery, thoracic cage deformation and tuberculosis; and positive
        catheters, nsg tubes and electrical devices.
    labeler_csv : path, optional
        What the CheXpert labeller made of the reports; see :class:`~thoraxlib.datasets.openi.LabelerTable` and
        :func:`~thoraxlib.datasets.openi.export_reports`. Its ids are those of reports or of images. Without it all
        labels are NaN.
    labeler_ids : path, optional
        For a table without ids: the file that ``export_reports`` wrote beside the reports.
    mapping, uncertain, blank
        See :meth:`LabelerTable.targets <thoraxlib.datasets.openi.LabelerTable.targets>`.
    views : str or sequence of str, optional
        Keep only "Frontal" or "Lateral" images, by the table of projections.
    projections : path, optional
        That table: ``uid``, ``filename``, ``projection``; by default ``*projections*.csv`` in `root`, if there is one.
    seed : int
        Of smoothed labels.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is that of the image in its report. The collection does not
        tell patients: each report counts as one.
    study_ids : list of str
        For each image, its report.
    reports : dict of str to Report
        By id: sections, MeSH terms and images of each.
    views : list of str
        For each image, its projection, "" where it is not known.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, table, reports or images.
    ValueError
        A broken report or table, an unknown option, views without a table of projections, an image in two reports or
        twice in the table of projections, no label that the labeller can tell, no report of its table, `labeler_ids`
        without `labeler_csv`, or nothing left.

    Warns
    -----
    UserWarning
        Images without a row in the labeller's table, whose labels are NaN, or, with `views`, without one in the table
        of projections, which are left out; or no label of any image is known.

    References
    ----------
    D. Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", Journal
    of the American Medical Informatics Association 23, 2016.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        labels: str | Sequence[str] = "padchest_openi22",
        labeler_csv: str | os.PathLike[str] | None = None,
        labeler_ids: str | os.PathLike[str] | None = None,
        mapping: str = "default",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        views: str | Sequence[str] | None = None,
        projections: str | os.PathLike[str] | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root = check_root(root)
        self.labels = label_sets.resolve(labels)
        self.transform = transform
        if labeler_ids is not None and labeler_csv is None:
            raise ValueError(f"labeler_ids={os.fspath(labeler_ids)!r} is of no use without labeler_csv")
        self.reports: dict[str, Report] = read_reports(self.root)
        images = _images_of(self.reports)
        shown, wanted = _shown(self.root, projections, views, images)
        if wanted is not None:
            images = {image: name for image, name in images.items() if _image(image) in wanted}
        names, files = list(images), _files(self.root, images)
        self.ids: list[str] = [names[row] for row in existing(names, files, missing, self.root, views=views)]
        self.study_ids: list[str] = [images[image] for image in self.ids]
        self.patient_ids: list[str] = list(self.study_ids)
        self.views: list[str] = [shown.get(_image(image), "") for image in self.ids]
        targets = np.full((len(self.ids), len(self.labels)), np.nan, np.float32)
        if labeler_csv is not None:
            mined = LabelerTable(labeler_csv, labeler_ids)
            rows = mined.targets(self.labels, mapping=mapping, uncertain=uncertain, blank=blank, seed=seed)
            targets = np.concatenate([rows, targets[:1]])[self._rows(mined.ids, labeler_csv)]
        self.targets = torch.from_numpy(targets)
        self._paths = [files[name] for name in self.ids]
        if labeler_csv is None:
            self.warn_unknown("there is no labeler_csv")
        else:
            self.warn_unknown(f"{os.fspath(labeler_csv)} tells none of {list(self.labels)} for {blank=}, {uncertain=}")

    def _rows(self, ids: list[str], path: str | os.PathLike[str]) -> list[int]:
        """For each image the row of its own id, or else of its report's; -1 where there is none."""
        row_of = {_image(name): row for row, name in enumerate(ids)} | {name: row for row, name in enumerate(ids)}
        pairs = zip(self.ids, self.study_ids, strict=True)
        keys = ((image, _image(image), report, report.removeprefix("CXR")) for image, report in pairs)
        rows = [next((row_of[key] for key in each if key in row_of), -1) for each in keys]
        check_joined(self.ids, [row >= 0 for row in rows], ids, path, "images", keys="images or reports")
        return rows


def _images_of(reports: Mapping[str, Report]) -> dict[str, str]:
    """The report of each image."""
    images: dict[str, str] = {}
    for name, report in reports.items():
        for image in report.images:
            if images.setdefault(image, name) != name:
                raise ValueError(f"the image {image} is in the reports {images[image]} and {name}")
    return images


def _shown(
    root: Path, path: str | os.PathLike[str] | None, views: str | Sequence[str] | None, images: Iterable[str]
) -> tuple[dict[str, str], set[str] | None]:
    """The projection of each picture, and the pictures of the wanted ones; None where all are."""
    found = [Path(path)] if path is not None else sorted(root.glob("*projections*.csv"))
    if not found:
        if views is not None:
            raise ValueError(f"views={views!r} needs a table of projections: {root} has no *projections*.csv")
        return {}, None
    table = Table(found[-1])
    names = table.column("filename")
    table.check_unique([_stem(name) for name in names])
    pictures = [_image(name) for name in names]
    shown = dict(zip(pictures, table.column("projection"), strict=True))
    if views is None:
        return shown, None
    of_views = table.having("projection", views, argument="views")
    asked = list(images)
    lost = "their view is unknown and they are left out"
    check_joined(asked, [_image(image) in shown for image in asked], names, table.path, "images", lost=lost)
    return shown, {picture for picture, good in zip(pictures, of_views, strict=True) if good}


def _files(root: Path, images: Iterable[str]) -> dict[str, ImageFile]:
    """The file of each image: by its own id, or else by the other names for it."""
    index = index_images(root, None)
    exact: dict[str, ImageFile] = {}
    loose: dict[str, ImageFile] = {}
    for name in sorted(index, key=lambda name: (name.lower().endswith((".dcm", ".dicom")), name)):
        exact.setdefault(_stem(name), index[name])
        loose.setdefault(_image(name), index[name])
    shared = Counter(map(_image, images))  # two ids that differ only in what other names leave out
    candidates = {
        image: exact.get(image) or (loose.get(_image(image)) if shared[_image(image)] == 1 else None)
        for image in images
    }
    return {image: path for image, path in candidates.items() if path is not None}


def _stem(name: str) -> str:
    """Without ``.png`` or ``.dcm.png``."""
    while name.lower().endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _image(name: str) -> str:
    """What all names of an image have in common: ``1_IM-0001-3001``; another name as it is, without its ending."""
    match = _IMAGE.fullmatch(_stem(name))
    return f"{match[1]}_{match[2]}" if match else _stem(name)
