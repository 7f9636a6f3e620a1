"""The data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.chest_imagenome.annotations import (
    CONFLICTS,
    UNMENTIONED,
    Annotations,
    select_boxes,
    select_labels,
)
from thoraxlib.datasets.chest_imagenome.cache import parsed
from thoraxlib.datasets.chest_imagenome.gold import read_gold
from thoraxlib.datasets.chest_imagenome.parts import LISTS, SPLITS, images_of
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles
from thoraxlib.datasets.files import check_root, existing, image_size, index_named, progress_bar
from thoraxlib.datasets.mimic_cxr import find_table, image_file
from thoraxlib.datasets.regions import RegionDataset, find_names
from thoraxlib.datasets.tables import Table
from thoraxlib.images.copies import ImageFile
from thoraxlib.utils.arguments import one_of

_REGIONS, _FINDINGS = label_sets.build("regions36"), label_sets.build("imagenome9")
_FRONTAL = ("PA", "AP")


class Relation(NamedTuple):
    """What a report says of a region in comparison with an earlier image.

    Attributes
    ----------
    region : str
        Its name.
    names : tuple of str
        Such as "worsened" or "no change".
    earlier : str
        The id of the other image.
    phrase : str
        The sentence.
    """

    region: str
    names: tuple[str, ...]
    earlier: str
    phrase: str


class ChestImaGenome(RegionDataset):
    """Chest ImaGenome: boxes of anatomical regions in 243,000 frontal images of MIMIC-CXR, with the findings of each.

    The scene graphs are read once, in a few minutes, and kept in one file (see `cache`); from then on options are a
    matter of seconds. The images come from MIMIC-CXR-JPG.

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
        The patients of the gold set are left out of "train" and "val".
    lists : {"imagenome", "mimic"}
        Whose split: the release's own, or MIMIC-CXR's, whose table must be in `images`. They differ.
    annotations : {"silver", "gold"}
        Silver is read by programs from all reports. Gold was checked by people: the boxes of 1,000 images, mediastinum
        not among them, and for the first study of each of the 500 patients the findings; those of the others are NaN.
        Gold has no parts: its `split` is "all".
    regions : str or sequence of str
        "regions18", "regions29", "regions36", or names.
    labels : str or sequence of str
        "imagenome9", or names of whatever the annotations mention.
    conflict : {"last", "any", "first", "majority"}
        The label of a region where sentences disagree: the last one's, as AnaXNet's converter has it; 1 if any affirms;
        the first one's; or what most say (the last, if as many affirm as deny).
    unmentioned : {"negative", "missing"}
        A finding that no sentence mentions of a region is 0, as in AnaXNet's converter, or NaN.
    views : str or sequence of str, optional
        "Frontal" (PA, AP), or what else the annotations say; None keeps all.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once.
    cache : path or False, optional
        The folder of the file that the scene graphs are kept in, by default beside them. It is written anew when they
        have changed. False keeps none.
    progress : bool
        Show progress bars, on a terminal.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the ``dicom_id``. Targets of an image are the maximum
        over its regions.
    region_names, region_targets, region_present, region_boxes, sizes, file_names, report
        See :class:`~thoraxlib.datasets.regions.RegionDataset`. Boxes are cut off at the image's border. A region
        without a box, or whose box has no area or lies outside, is absent and its labels are NaN, whatever the report
        says.
    study_ids, views : list of str
        For each image.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, scene graphs, list or images.
    ValueError
        An unknown option, region or finding (with those closest to it); a scene graph that is broken or has no list of
        objects, by its name; images that are resized copies; or nothing left.

    References
    ----------
    J. T. Wu et al., "Chest ImaGenome Dataset for Clinical Reasoning", NeurIPS Datasets and Benchmarks 2021, arXiv
    2108.00316.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        images: str | os.PathLike[str],
        split: str = "train",
        lists: str = "imagenome",
        annotations: str = "silver",
        regions: str | Sequence[str] = "regions18",
        labels: str | Sequence[str] = "imagenome9",
        conflict: str = "last",
        unmentioned: str = "negative",
        views: str | Sequence[str] | None = "Frontal",
        missing: str = "error",
        cache: str | os.PathLike[str] | Literal[False] | None = None,
        progress: bool = True,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root, self.images = check_root(root), check_root(images, "images").absolute()
        self.region_names, self.labels = label_sets.resolve(regions), label_sets.resolve(labels)
        self.transform = transform
        one_of("split", split, SPLITS)
        one_of("lists", lists, LISTS)
        one_of("annotations", annotations, ("silver", "gold"))
        one_of("conflict", conflict, CONFLICTS)
        one_of("unmentioned", unmentioned, UNMENTIONED)
        if annotations == "gold" and split != "all":
            raise ValueError(f"split={split!r}: the gold annotations have no parts, split='all' takes them")

        self._files, labelled = None, None
        if annotations == "gold":
            everything, labelled = read_gold(self.root)
        else:
            self._files = SceneGraphFiles.of_release(self.root)
            everything = parsed(self._files, cache, progress=progress)
        asked_regions = _asked(self.region_names, everything.regions, _REGIONS, "regions")
        asked_labels = _asked(self.labels, everything.findings, _FINDINGS, "labels")

        rows, self.report = images_of(split, lists, self.root, self.images, everything)
        rows = self._of_views(everything, rows, views)
        boxes, listed, flat, doubled = select_boxes(everything, rows, asked_regions)
        self.report |= {"without a box of these regions": int((~listed.any(axis=1)).sum())}
        kept = np.flatnonzero(listed.any(axis=1))
        names, files = _find_images(self.images, everything, rows[kept])
        found = existing(names, files, missing, self.images, split=split, views=views, left_out=self.report)
        kept = kept[found]
        rows = rows[kept]

        self.ids = [everything.ids[row] for row in rows]
        self.patient_ids = [everything.patients[row] for row in rows]
        self.study_ids: list[str] = [everything.studies[row] for row in rows]
        self.views: list[str] = [everything.views[row] for row in rows]
        self._paths = [files[names[place]] for place in found]
        self.file_names = [Path(image).relative_to(self.images).as_posix() for image in self._paths]
        self.sizes = _sizes(self.images, self.ids, self._paths, progress)
        targets = select_labels(
            everything, rows, asked_regions, asked_labels, conflict=conflict, unmentioned=unmentioned
        )
        if labelled is not None:
            targets[[image not in labelled for image in self.ids]] = np.nan
        self.report |= {"boxes without area": flat, "boxes of a region that has another": doubled}
        self._set_regions(torch.from_numpy(boxes[kept]), torch.from_numpy(listed[kept]), torch.from_numpy(targets))

    def _of_views(
        self, annotations: Annotations, rows: NDArray[np.intp], views: str | Sequence[str] | None
    ) -> NDArray[np.intp]:
        if views is None:
            return rows
        wanted = [views] if isinstance(views, str) else list(views)
        known = {*annotations.views, *_FRONTAL, "Frontal"}
        if not wanted or not set(wanted) <= known:
            raise ValueError(f"views must name some of {sorted(known)}, got {views!r}")
        shown = {position for view in wanted for position in (_FRONTAL if view == "Frontal" else (view,))}
        views_of = [annotations.views[row] for row in rows.tolist()]
        dropped = Counter(view for view in views_of if view not in shown)
        self.report |= {f"of the view {view or 'unknown'}": count for view, count in dropped.items()}
        kept: NDArray[np.intp] = rows[np.array([view in shown for view in views_of], dtype=bool)]
        return kept

    def scene_graph(self, index: int) -> dict[str, Any]:
        """Everything that the release says of an image: sentences, cues, relationships.

        The file is read anew each time, from an archive within a second or so.

        Raises
        ------
        ValueError
            The annotations are gold, or the file is broken.
        """
        if self._files is None:
            raise ValueError("the gold annotations have no scene graphs")
        return self._files.graph(self.ids[index])

    def relations(self, index: int) -> list[Relation]:
        """How the regions of an image compare with earlier images, as the report has it.

        Raises
        ------
        ValueError
            As :meth:`scene_graph`.
        """
        found = []
        for each in self.scene_graph(index).get("relationships", []):
            says = [name.split("|", 2) for name in each["relationship_names"]]
            earlier, _, region = str(each["object_id"]).partition("_")
            names = tuple(name for _, relation, name in says if relation == "yes")
            found.append(Relation(str(each.get("bbox_name") or region), names, earlier, str(each.get("phrase", ""))))
        return found


def _asked(names: Sequence[str], found: tuple[str, ...], always: Sequence[str], argument: str) -> list[int]:
    """Positions in `found` of the names that are asked for; -1 for one that is always known and never occurs."""
    known = (*found, *(name for name in always if name not in found))
    places = find_names(names, known, argument, "the annotations")
    return [place if place < len(found) else -1 for place in places]


def _find_images(
    images: Path, annotations: Annotations, rows: NDArray[np.intp]
) -> tuple[list[str], dict[str, ImageFile]]:
    """What the pictures are called, and the files there are, both without extension.

    In MIMIC-CXR's tree a name is the place in it, in any other folder the image's id.
    """
    pictures, patients, studies = (
        [column[row] for row in rows.tolist()]
        for column in (annotations.ids, annotations.patients, annotations.studies)
    )
    names = pictures
    if (images / "files").is_dir():
        about = zip(patients, studies, pictures, strict=True)
        names = [image_file(patient, study, image, f"annotations of {image}") for patient, study, image in about]
    files = index_named(images, names)
    return names, {os.path.splitext(name)[0]: path for name, path in files.items()}


def _sizes(images: Path, ids: list[str], paths: list[ImageFile], progress: bool) -> list[tuple[int, int]]:
    """(H, W) of each image: from MIMIC-CXR-JPG's metadata where it is there, else from the files' headers."""
    try:
        table = Table(find_table(images, "metadata"))
    except FileNotFoundError:
        return [image_size(path) for path in progress_bar(paths, "image sizes", shown=progress)]
    columns = zip(table.column("dicom_id"), table.column("Rows"), table.column("Columns"), strict=True)
    sizes = {image: (rows, width) for image, rows, width in columns}
    lacking = [image for image in ids if image not in sizes]
    if lacking:
        raise ValueError(f"{table.path} lacks {len(lacking)} of {len(ids)} images, the first is {lacking[0]}")
    try:
        return [(int(sizes[image][0]), int(sizes[image][1])) for image in ids]
    except ValueError as error:
        raise ValueError(f"{table.path}: Rows and Columns must be numbers: {error}") from error
