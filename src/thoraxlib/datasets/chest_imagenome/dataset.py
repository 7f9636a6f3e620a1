"""The reader of Chest ImaGenome, and its splits."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import Transform
from thoraxlib.datasets.chest_imagenome.annotations import (
    CONFLICTS,
    UNMENTIONED,
    Annotations,
    select_boxes,
    select_labels,
)
from thoraxlib.datasets.chest_imagenome.gold import read_gold
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles, parsed
from thoraxlib.datasets.files import StrPath, check_root, image_size, index_named, progress_bar
from thoraxlib.datasets.mimic_cxr import find_table, image_file, in_split
from thoraxlib.datasets.regions import RegionDataset, find_names
from thoraxlib.datasets.tables import Table, expand
from thoraxlib.images.copies import ImageFile
from thoraxlib.utils.arguments import one_of

_REGIONS, _FINDINGS = label_sets.build("regions36"), label_sets.build("imagenome9")
_VIEWS = {"Frontal": ("PA", "AP")}
_SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validate": "valid", "test": "test", "all": "all"}
_FOLDER = "silver_dataset/splits"
_LATER = {"train": ("valid", "test"), "valid": ("test",), "test": ()}


class Relation(NamedTuple):
    """Comparison of a region with an earlier image in a report.

    Attributes
    ----------
    region : str
        Name of the region.
    names : tuple of str
        Comparisons such as "worsened" or "no change".
    earlier : str
        Id of the earlier image.
    phrase : str
        The sentence.
    """

    region: str
    names: tuple[str, ...]
    earlier: str
    phrase: str


class ChestImaGenome(RegionDataset):
    """Chest ImaGenome: boxes of anatomical regions in 243,000 frontal images of MIMIC-CXR, with their findings.

    The scene graphs are read once, in a few minutes, and stored in one file (see `cache`); after that the data set
    opens in seconds. The images come from MIMIC-CXR-JPG.

    Parameters
    ----------
    root : path
        The folder of the release: ``silver_dataset/scene_graph.zip``, read in place, or the folder
        ``silver_dataset/scene_graph``; ``silver_dataset/splits``; for gold ``gold_dataset``. Or any folder of files
        ``<dicom_id>_SceneGraph.json``.
    images : path
        The folder of MIMIC-CXR-JPG with ``files/p10`` ... ``files/p19``; or any folder of files ``<dicom_id>.jpg`` in
        their original size.
    split : {"train", "val", "valid", "test", "all"}
        Part of the split. The patients of the gold set are left out of "train" and "val".
    lists : {"imagenome", "mimic"}
        The split of the release, or of MIMIC-CXR, whose table must be in `images`. They differ.
    annotations : {"silver", "gold"}
        Silver was extracted from all reports by programs. Gold was checked by annotators: the boxes of 1,000 images,
        without mediastinum, and the findings of the first study of each of the 500 patients (those of other studies are
        NaN). Gold has no parts: `split` must be "all".
    regions : str or sequence of str
        "regions18", "regions29", "regions36", or names.
    labels : str or sequence of str
        "imagenome9", or names of findings that the annotations mention.
    conflict : {"last", "any", "first", "majority"}
        Label of a region whose sentences disagree: that of the last one, as in AnaXNet's converter; 1 if any affirms;
        that of the first one; or that of most (of the last one, if as many affirm as deny).
    unmentioned : {"negative", "missing"}
        Label of a finding that no sentence mentions for a region: 0, as in AnaXNet's converter, or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal" (PA, AP), or other views of the annotations; None keeps all.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    cache : path or False, optional
        The folder of the file that stores the content of the scene graphs; by default their own folder. The file is
        rewritten when they have changed. False stores nothing.
    progress : bool
        Show progress bars, on a terminal.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the ``dicom_id``. The targets of an image are the maxima
        over its regions.
    region_names, region_targets, region_present, region_boxes, sizes, file_names, report
        See :class:`~thoraxlib.datasets.regions.RegionDataset`. Boxes are cut off at the image's border. A region
        without a box, or whose box has no area or lies outside, is absent, and its labels are NaN even if the report
        mentions it.
    study_ids, views : list of str
        One per image.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        A folder, the scene graphs, a list or the images are missing.
    ValueError
        An option, region or finding is unknown (the message has the closest ones); a scene graph or table is wrong (the
        message names it); the images are resized copies; or no image is left.

    Warns
    -----
    UserWarning
        The report is not empty. Patients are in more than one list: their images are left out of the earlier part
        (train before valid before test). The list of gold patients is missing.

    References
    ----------
    J. T. Wu et al., "Chest ImaGenome Dataset for Clinical Reasoning", NeurIPS Datasets and Benchmarks 2021, arXiv
    2108.00316.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        images: StrPath,
        split: str = "train",
        lists: str = "imagenome",
        annotations: str = "silver",
        regions: str | Sequence[str] = "regions18",
        labels: str | Sequence[str] = "imagenome9",
        conflict: str = "last",
        unmentioned: str = "negative",
        views: str | Sequence[str] | None = "Frontal",
        missing: str = "error",
        cache: StrPath | Literal[False] | None = None,
        progress: bool = True,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
        self.images = check_root(images, "images").absolute()
        self.region_names = label_sets.resolve(regions)
        one_of("split", split, _SPLITS)
        one_of("lists", lists, ("imagenome", "mimic"))
        one_of("annotations", annotations, ("silver", "gold"))
        one_of("conflict", conflict, CONFLICTS)
        one_of("unmentioned", unmentioned, UNMENTIONED)
        if annotations == "gold" and split != "all":
            raise ValueError(f"split={split!r}: the gold annotations have no parts, split='all' takes them")
        labelled: set[str] | None = None
        self._files: SceneGraphFiles | None = None
        if annotations == "gold":
            everything, labelled = read_gold(self.root)
        else:
            self._files = SceneGraphFiles.of_release(self.root)
            everything = parsed(self._files, cache, progress=progress)
        asked_regions = _positions(self.region_names, everything.regions, _REGIONS, "regions")
        asked_labels = _positions(self.labels, everything.findings, _FINDINGS, "labels")

        rows, self.report = _in_part(split, lists, self.root, self.images, everything)
        rows = self._of_views(everything.views, rows, views)
        boxes, listed, flat, doubled = select_boxes(everything, rows, asked_regions)
        some = listed.any(axis=1)
        self.report |= {"without a box of these regions": int((~some).sum())}
        names, files = _find_images(self.images, everything, rows[some])
        columns = {
            "ids": everything.ids,
            "patient_ids": everything.patients,
            "study_ids": everything.studies,
            "views": everything.views,
        }
        chosen = {"split": split, "views": views, "left_out": self.report}
        kept = self._keep(rows[some], columns, files, missing, chosen, names=names, where=self.images)
        self.file_names = [Path(image).relative_to(self.images).as_posix() for image in self._paths]
        self.sizes = _sizes(self.images, self.ids, self._paths, progress)
        targets = select_labels(
            everything, kept, asked_regions, asked_labels, conflict=conflict, unmentioned=unmentioned
        )
        if labelled is not None:
            targets[[image not in labelled for image in self.ids]] = np.nan
        self.report |= {"boxes without area": flat, "boxes of a region that has another": doubled}
        row_of = {row: position for position, row in enumerate(rows.tolist())}
        order = [row_of[row] for row in kept.tolist()]
        self._set_regions(boxes[order], listed[order], targets)

    def scene_graph(self, index: int) -> dict[str, Any]:
        """Read the scene graph of an image: sentences, cues and relationships of its report.

        Raises
        ------
        ValueError
            The annotations are gold, or the file is broken.
        """
        if self._files is None:
            raise ValueError("the gold annotations have no scene graphs")
        return self._files.graph(self.ids[index])

    def relations(self, index: int) -> list[Relation]:
        """Read the report's comparisons of regions of an image with earlier images; see :meth:`scene_graph`."""
        relations = []
        for each in self.scene_graph(index).get("relationships", []):
            parts = [name.split("|", 2) for name in each["relationship_names"]]
            earlier, _, region = str(each["object_id"]).partition("_")
            names = tuple(name for _, answer, name in parts if answer == "yes")
            relations.append(
                Relation(str(each.get("bbox_name") or region), names, earlier, str(each.get("phrase", "")))
            )
        return relations

    def _of_views(
        self, views_of: list[str], rows: NDArray[np.intp], views: str | Sequence[str] | None
    ) -> NDArray[np.intp]:
        if views is None:
            return rows
        wanted = expand(views, {*views_of, *_VIEWS["Frontal"]}, "views", _VIEWS)
        dropped = Counter(views_of[row] for row in rows.tolist() if views_of[row] not in wanted)
        self.report |= {f"of the view {view or 'unknown'}": count for view, count in dropped.items()}
        return np.array([row for row in rows.tolist() if views_of[row] in wanted], dtype=np.intp)


def _in_part(
    split: str, lists: str, root: Path, images: Path, annotations: Annotations
) -> tuple[NDArray[np.intp], dict[str, int]]:
    """Return the rows of a part, in the order of its list, and the numbers of images that are left out, by reason."""
    part = _SPLITS[split]
    if part == "all":
        return np.arange(len(annotations.ids)), {}
    patient_of = dict(zip(annotations.ids, annotations.patients, strict=True))
    if lists == "mimic":
        chosen = in_split(images, "validate" if part == "valid" else part, annotations.ids)
        rows, unknown, avoided = np.flatnonzero(chosen), 0, set[str]()
    else:
        tables = {name: _listed(root, name, patient_of) for name in (part, *_LATER[part])}
        row_of = {image: row for row, image in enumerate(annotations.ids)}
        listed = [row_of[image] for image in tables[part] if image in row_of]
        rows, unknown = np.array(listed, dtype=np.intp), len(tables[part]) - len(listed)
        later = set[str]().union(*(tables[name].values() for name in _LATER[part]))
        avoided = later & set(tables[part].values())
        if avoided:
            warnings.warn(
                f"{len(avoided)} patients of {part}.csv are also in {' or '.join(_LATER[part])}, e.g. {min(avoided)}: "
                f"their images are left out of {part}",
                stacklevel=3,
            )
    gold = root / _FOLDER / "images_to_avoid.csv"
    if part != "test" and gold.is_file():
        avoided |= set(_listed(root, gold.stem, patient_of).values())
    elif part != "test":
        warnings.warn(f"{gold} does not exist: the patients of the gold set may be among these images", stacklevel=3)
    clean = np.array([annotations.patients[row] not in avoided for row in rows.tolist()], dtype=bool)
    return rows[clean], {"listed without a scene graph": unknown, "of patients to avoid": int((~clean).sum())}


def _listed(root: Path, name: str, patient_of: Mapping[str, str]) -> dict[str, str]:
    """Return the patient of each image of a list, which must be the patient of the annotations."""
    path = root / _FOLDER / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"split: {path} does not exist; split='all' needs no list")
    table = Table(path)
    images, patients = table.column("dicom_id"), table.ids("subject_id", prefix="p")
    table.check_unique(images)
    for row, (image, patient) in enumerate(zip(images, patients, strict=True)):
        if patient_of.get(image, patient) != patient:
            raise ValueError(
                f"{table.where(row)}: {image} belongs to patient {patient} there, to {patient_of[image]} in its scene "
                "graph"
            )
    return dict(zip(images, patients, strict=True))


def _positions(names: Sequence[str], occurring: tuple[str, ...], always: Sequence[str], argument: str) -> list[int]:
    """Return the position of each name in `occurring`; -1 for a name of `always` that does not occur."""
    known = (*occurring, *(name for name in always if name not in occurring))
    positions = find_names(names, known, argument, "the annotations")
    return [position if position < len(occurring) else -1 for position in positions]


def _find_images(
    images: Path, annotations: Annotations, rows: NDArray[np.intp]
) -> tuple[list[str], dict[str, ImageFile]]:
    """Return the name of each image's file, and the files by name, both without extension.

    In MIMIC-CXR's tree a name is the path in it, in any other folder the image's id.
    """
    names = [annotations.ids[row] for row in rows.tolist()]
    if (images / "files").is_dir():
        names = [
            image_file(annotations.patients[row], annotations.studies[row], image, f"annotations of {image}")
            for row, image in zip(rows.tolist(), names, strict=True)
        ]
    files = index_named(images, names)
    return names, {os.path.splitext(name)[0]: path for name, path in files.items()}


def _sizes(images: Path, ids: list[str], paths: Sequence[ImageFile], progress: bool) -> list[tuple[int, int]]:
    """Read (H, W) of each image: from MIMIC-CXR-JPG's metadata if it exists, else from the files' headers."""
    try:
        table = Table(find_table(images, "metadata"))
    except FileNotFoundError:
        return [image_size(path) for path in progress_bar(paths, "image sizes", shown=progress)]
    heights, widths = table.column("Rows"), table.column("Columns")
    rows = table.rows_of(table.column("dicom_id"), ids)
    try:
        return [(int(heights[row]), int(widths[row])) for row in rows]
    except ValueError as error:
        raise ValueError(f"{table.path}: Rows and Columns must be numbers: {error}") from error
