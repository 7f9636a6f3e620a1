"""A user's own images with a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thoraxlib.datasets.base import Transform
from thoraxlib.datasets.columns import Columns
from thoraxlib.datasets.faults import Faults
from thoraxlib.datasets.files import StrPath, index_all
from thoraxlib.datasets.record_dataset import RecordDataset, hinting
from thoraxlib.datasets.records import NEGATIVE, TableLayout


class TableDataset(RecordDataset):
    r"""Images listed in a table: CSV (commas, tabs or semicolons; also .csv.gz) or Parquet (extra ``archive``).

    The options whose name is that of a thing (``image``, ``patient``, ``view``, ...) name the table's columns.
    :func:`thoraxlib.datasets.check` takes the same options and reports all faults of the table and its images.

    Parameters
    ----------
    table : path
        The table, with a header and a row for each image.
    root : path, optional
        The folder of the images: PNG, JPEG, TIFF, DICOM, or a training copy; by default the folder of the table.
    image : str
        Column of the images: paths below `root`, or bare names at any depth, with or without extension.
    patient : str, optional
        Column of the patients. Without it, every image counts as a patient of its own, with a warning.
    study : str, optional
        Column of the studies.
    labels : str or sequence of str, optional
        A label set, or names in any data set's spelling. The targets of a label that the table does not have are NaN,
        with a warning. By default all labels of the table: with `labels_column` the names in it; without, every column
        that no option names and that holds only labels: 0, 1, true, false, yes, no, blank and `unknown`.
    labels_column : str, optional
        Column with the names of all labels of an image, instead of one column for each label. A blank cell is unknown.
    separator : str or None
        Separator of the names in `labels_column`; None if each cell is one name.
    negative : sequence of str
        Names in `labels_column` that mean no finding, all labels 0; also a label if `labels` has it.
    unknown : sequence of str
        Values that mean unknown, NaN, like a blank cell. In `labels_column`, such a name makes unknown all labels that
        the cell does not name.
    view, age, sex, site : str, optional
        Columns of attributes: ``views``, ``ages`` (years; also DICOM's 061Y), ``sexes`` (F, M), ``sites``.
    views : str or sequence of str, optional
        Keep only images with these values of `view`.
    boxes : bool or path
        True: the table has boxes, with a row for each box; the labels of an image's rows are joined (positive if one of
        them is). A path: a table of boxes, with the same column of images.
    box_columns : sequence of str, optional
        Four columns of a box. By default the first of these that the table has: x1, y1, x2, y2; x_min, y_min, x_max,
        y_max; xmin, ymin, xmax, ymax; x, y, width, height; x, y, w, h. Rows where they are blank have no box.
    box_format : {"xyxy", "xywh"}
        Meaning of `box_columns`.
    box_label : str, optional
        Column of the boxes' labels; by default `labels_column`, or none if `labels` is a single label. Boxes of other
        labels are left out.
    box_size : int or (int, int), optional
        Side, or height and width, of the images that the boxes were drawn on. By default boxes are in pixels of the
        files.
    masks : path, optional
        Folder of organ masks (0: background) with the images' names, for samples with ``organ_mask``.
    split : str
        ``"all"``; a value of `split_column`; or without it ``"train"``, ``"val"``, ``"test"``: 0.7, 0.1 and 0.2 of the
        images by patient (:func:`~thoraxlib.datasets.stratified_split`), over all labels that the table has.
    split_column : str, optional
        Column with the part of each image.
    fold : (int, int), optional
        (i, k): `split` "train" or "val" of fold i, from 0, of k (:func:`~thoraxlib.datasets.folds`).
    seed : int
        Random seed of the split by patient and of the folds.
    missing : {"error", "skip"}
        For absent images or masks: raise an error, or leave them out, together with unreadable files, with one warning.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the name in the column of the images.
    study_ids, views, ages, sexes, sites : list
        Attributes of each image whose column is given; NaN for an unknown age.
    boxed : Tensor
        bool (N,): True for images with boxes, if there are boxes.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The table, a folder or images are missing.
    ImportError
        A Parquet table, and pyarrow is not installed.
    ValueError
        The table is wrong (the message names file and line), names fit several files, an option is wrong, or no image
        is left. When a sample is read: a box leaves the image.

    Warns
    -----
    UserWarning
        Patients are unknown, or in several parts; a label is unknown for all images; an age is odd; boxes belong to
        images without a row; images are left out by ``missing="skip"``.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from thoraxlib.datasets import build
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in "ab":
    ...     Image.new("L", (4, 3)).save(root / f"{name}.png")
    >>> _ = (root / "labels.csv").write_text("file,pid,Mass,Edema\na.png,1,1,0\nb.png,2,,1\n")
    >>> data = build("csv", table=root / "labels.csv", image="file", patient="pid")
    >>> data.labels, data.targets.tolist()
    (('Mass', 'Edema'), [[1.0, 0.0], [nan, 1.0]])
    """

    def __init__(
        self,
        *,
        table: StrPath,
        root: StrPath | None = None,
        image: str = "image",
        patient: str | None = None,
        study: str | None = None,
        labels: str | Sequence[str] | None = None,
        labels_column: str | None = None,
        separator: str | None = "|",
        negative: Sequence[str] = NEGATIVE,
        unknown: Sequence[str] = ("-1",),
        view: str | None = None,
        age: str | None = None,
        sex: str | None = None,
        site: str | None = None,
        views: str | Sequence[str] | None = None,
        boxes: bool | StrPath = False,
        box_columns: Sequence[str] | None = None,
        box_format: str = "xyxy",
        box_label: str | None = None,
        box_size: int | tuple[int, int] | None = None,
        masks: StrPath | None = None,
        split: str = "all",
        split_column: str | None = None,
        fold: tuple[int, int] | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        path = Path(table)
        super().__init__(path.parent if root is None else root, transform)
        layout = TableLayout(
            image=image,
            patient=patient,
            study=study,
            labels=labels,
            labels_column=labels_column,
            separator=separator,
            negative=negative,
            unknown=unknown,
            view=view,
            age=age,
            sex=sex,
            site=site,
            split_column=split_column,
            boxes=boxes,
            box_columns=box_columns,
            box_format=box_format,
            box_label=box_label,
        )
        if views is not None and view is None:
            raise ValueError(f"views={views!r} needs view=, the column of the views")
        with hinting(f"check({str(path)!r}, ...)"):
            records = layout.read(Columns(path), Faults())
            self._take(
                records,
                index_all(self.root),
                labels=labels,
                split=split,
                fold=fold,
                seed=seed,
                missing=missing,
                masks=masks,
                views=views,
                box_size=box_size,
            )
