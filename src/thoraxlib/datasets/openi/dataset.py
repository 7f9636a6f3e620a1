"""Open-i: the Indiana University collection of chest images and reports."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thoraxlib.datasets.base import ImageDataset, Transform
from thoraxlib.datasets.files import StrPath, index_images
from thoraxlib.datasets.openi.labeler import LabelerTable
from thoraxlib.datasets.openi.reports import Report, read_reports
from thoraxlib.datasets.tables import Table, check_joined
from thoraxlib.images.copies import ImageFile
from thoraxlib.images.reading import SUFFIXES

_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-.+)")


class OpenI(ImageDataset):
    """Open-i: 7,470 images and 3,955 reports of the Indiana University hospitals.

    Reads from `root`, at any depth, the reports (``ecgen-radiology/1.xml`` ...) and the images (PNG, or DICOM with the
    extra ``dicom``), and a table of projections. An image file is named after the id in its report
    (``CXR1_1_IM-0001-3001``), after its DICOM (``1_IM-0001-3001.dcm``), or as the PNGs of the two-table form
    (``1_IM-0001-3001.dcm.png``). Of several files, the first in alphabetical order that is no DICOM is used.

    Parameters
    ----------
    root : path
        The folder of reports and images.
    labels : str or sequence of str
        "padchest_openi22", "chexpert14", or names in any data set's spelling. Targets are NaN for labels that the
        labeller does not know: with "padchest_openi22" and the default mapping these are aortic elongation, copd signs,
        emphysema, heart insufficiency, nodule, pulmonary fibrosis, surgery, thoracic cage deformation and tuberculosis;
        and catheters, nsg tubes and electrical devices are never positive.
    labeler_csv : path, optional
        The CheXpert labeller's table of the reports; see :class:`~thoraxlib.datasets.openi.LabelerTable` and
        :func:`~thoraxlib.datasets.openi.export_reports`. Its ids are those of reports or of images. Without it, all
        targets are NaN.
    labeler_ids : path, optional
        For a table without ids: the file of ids that ``export_reports`` wrote.
    mapping, uncertain, blank
        See :meth:`LabelerTable.targets <thoraxlib.datasets.openi.LabelerTable.targets>`.
    views : str or sequence of str, optional
        Keep only "Frontal" or "Lateral" images, by the table of projections.
    projections : path, optional
        Table of projections: ``uid``, ``filename``, ``projection``; by default ``*projections*.csv`` in `root`, if it
        exists.
    seed : int
        Random seed of smoothed labels.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is that of the image in its report. The collection has no
        patient ids: each report counts as a patient.
    study_ids : list of str
        Report of each image.
    reports : dict of str to Report
        Reports by id.
    views : list of str
        Projection of each image, "" if it is unknown.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, a table, the reports or the images are missing.
    ValueError
        A report or table is wrong (the message names it); an option is unknown, or the labeller knows none of the
        labels; the labeller's table is about other reports; an image is in two reports; `views` without a table of
        projections; `labeler_ids` without `labeler_csv`; or no image is left.

    Warns
    -----
    UserWarning
        Images have no row in the labeller's table (their targets are NaN) or, with `views`, in the table of projections
        (they are left out); no label of any image is known.

    References
    ----------
    D. Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", Journal
    of the American Medical Informatics Association 23, 2016.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        labels: str | Sequence[str] = "padchest_openi22",
        labeler_csv: StrPath | None = None,
        labeler_ids: StrPath | None = None,
        mapping: str = "default",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        views: str | Sequence[str] | None = None,
        projections: StrPath | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
        if labeler_ids is not None and labeler_csv is None:
            raise ValueError(f"labeler_ids={os.fspath(labeler_ids)!r} is of no use without labeler_csv")
        self.reports: dict[str, Report] = read_reports(self.root)
        report_of = _reports_of_images(self.reports)
        view_of, images = _of_views(self.root, projections, views, list(report_of))
        reports, files = [report_of[image] for image in images], _files(self.root, images)
        shown = [view_of.get(_image(image), "") for image in images]
        columns = {"ids": images, "patient_ids": reports, "study_ids": reports, "views": shown}
        self._keep(np.arange(len(images)), columns, files, missing, {"views": views})
        targets = np.full((len(self.ids), len(self.labels)), np.nan, np.float32)
        cause = "there is no labeler_csv"
        if labeler_csv is not None:
            mined = LabelerTable(labeler_csv, labeler_ids)
            rows = mined.targets(self.labels, mapping=mapping, uncertain=uncertain, blank=blank, seed=seed)
            targets = np.concatenate([rows, targets[:1]])[self._rows(mined.ids, labeler_csv)]
            cause = f"{os.fspath(labeler_csv)} gives none of {list(self.labels)} for {blank=}, {uncertain=}"
        self._set_targets(targets, cause)

    def _rows(self, ids: list[str], path: StrPath) -> list[int]:
        """Return the row with the id of each image, or else of its report; -1 if there is none."""
        row_of = {_image(name): row for row, name in enumerate(ids)} | {name: row for row, name in enumerate(ids)}
        pairs = zip(self.ids, self.study_ids, strict=True)
        keys = ((image, _image(image), report, report.removeprefix("CXR")) for image, report in pairs)
        rows = [next((row_of[key] for key in each if key in row_of), -1) for each in keys]
        check_joined(self.ids, [row >= 0 for row in rows], ids, path, "images", keys="images or reports")
        return rows


def _reports_of_images(reports: Mapping[str, Report]) -> dict[str, str]:
    images: dict[str, str] = {}
    for name, report in reports.items():
        for image in report.images:
            if images.setdefault(image, name) != name:
                raise ValueError(f"the image {image} is in the reports {images[image]} and {name}")
    return images


def _of_views(
    root: Path, path: StrPath | None, views: str | Sequence[str] | None, images: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the known projections, by the name that :func:`_image` gives, and the images of the wanted views."""
    tables = [Path(path)] if path is not None else sorted(root.glob("*projections*.csv"))
    if not tables:
        if views is not None:
            raise ValueError(f"views={views!r} needs a table of projections: {root} has no *projections*.csv")
        return {}, images
    table = Table(tables[-1])
    names = table.column("filename")
    table.check_unique([_stem(name) for name in names])
    listed = [_image(name) for name in names]
    view_of = dict(zip(listed, table.column("projection"), strict=True))
    if views is None:
        return view_of, images
    of_views = table.having("projection", views, argument="views")
    lost = "their view is unknown and they are left out"
    check_joined(images, [_image(image) in view_of for image in images], names, table.path, "images", lost=lost)
    wanted = {name for name, good in zip(listed, of_views, strict=True) if good}
    return view_of, [image for image in images if _image(image) in wanted]


def _files(root: Path, images: list[str]) -> dict[str, ImageFile]:
    """Map the id of each image to its file, which has this name or else one that :func:`_image` recognises."""
    index = index_images(root, None)
    exact: dict[str, ImageFile] = {}
    loose: dict[str, ImageFile] = {}
    for name in sorted(index, key=lambda name: (name.lower().endswith((".dcm", ".dicom")), name)):
        exact.setdefault(_stem(name), index[name])
        loose.setdefault(_image(name), index[name])
    shared = Counter(map(_image, images))  # ids that differ only in a part that other names omit
    loose = {image: loose[_image(image)] for image in images if _image(image) in loose and shared[_image(image)] == 1}
    return {**loose, **{image: exact[image] for image in images if image in exact}}


def _stem(name: str) -> str:
    """Remove ``.png`` or ``.dcm.png``."""
    while name.lower().endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _image(name: str) -> str:
    """Return the common part of all names of an image, ``1_IM-0001-3001``; other names without their ending."""
    match = _IMAGE.fullmatch(_stem(name))
    return f"{match[1]}_{match[2]}" if match else _stem(name)
