"""First check of a user's table or folders: all faults in one summary."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.columns import Columns
from thoraxlib.datasets.faults import Faults, counted
from thoraxlib.datasets.files import StrPath, check_root, image_size, index_all, is_readable, look_up, progress_bar
from thoraxlib.datasets.folder_dataset import FolderDataset, read_folders
from thoraxlib.datasets.record_dataset import check_apart, check_single, choose, find_masks
from thoraxlib.datasets.records import Records, TableLayout
from thoraxlib.datasets.table_dataset import TableDataset
from thoraxlib.images.copies import CopiedImage, ImageFile
from thoraxlib.localization.boxes import check_inside
from thoraxlib.registry import OptionError
from thoraxlib.utils.arguments import few, height_and_width
from thoraxlib.utils.files import open_regular
from thoraxlib.utils.text_tables import aligned

_SHOWN = 5


@dataclass(frozen=True)
class DataCheck:
    """Summary of a table or of folders with images; ``str(check)`` is readable text.

    Attributes
    ----------
    source, root : str
        The table (or the folder), and the folder of the images.
    rows, images, files : int
        Number of rows of the table, of images that they name, and of image files in the folder.
    patients : int or None
        Number of patients; None if no option says whose the images are.
    parts : dict of str to int
        Number of images of each part, if there are parts.
    labels : tuple of str
        K labels.
    positives, known : dict of str to list of int
        For ``"all"`` and each part: K numbers of images that are positive, and whose label is known.
    errors : dict of str to list of str
        Faults that the data set refuses: kind -> cases, such as ``labels.csv:7: Mass is 'maybe'``.
    warnings : dict of str to list of str
        Oddities that it accepts: kind -> cases.
    """

    source: str
    root: str
    rows: int
    images: int
    files: int
    patients: int | None
    parts: dict[str, int]
    labels: tuple[str, ...]
    positives: dict[str, list[int]]
    known: dict[str, list[int]]
    errors: dict[str, list[str]]
    warnings: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Return True if there is no error."""
        return not self.errors

    def __str__(self) -> str:
        rows = f"{self.rows} rows, " if self.rows else ""
        patients = "unknown patients" if self.patients is None else f"{self.patients} patients"
        lines = [f"{self.source}: {rows}{self.images} images of {patients}; {self.files} image files in {self.root}"]
        if self.parts:
            lines.append("parts: " + ", ".join(f"{name} {count}" for name, count in self.parts.items()))
        if self.labels:
            lines += ["", *aligned(self._cells())]
        for title, found in (("errors", self.errors), ("warnings", self.warnings)):
            lines += ["", f"{title}: {'' if found else 'none'}".rstrip()]
            lines += [f"  {counted(kind, cases)}: {few(cases, _SHOWN)}" for kind, cases in found.items()]
        return "\n".join(lines)

    def _cells(self) -> list[list[str]]:
        names = list(self.positives) if len(self.positives) > 2 else ["all"]
        cells = [["label", "positive", "negative", "unknown", *(f"{name}, %" for name in names)]]
        for k, label in enumerate(self.labels):
            positive, known = self.positives["all"][k], self.known["all"][k]
            shares = [
                f"{100 * self.positives[name][k] / self.known[name][k]:.1f}" if self.known[name][k] else "-"
                for name in names
            ]
            cells.append([label, *map(str, (positive, known - positive, self.images - known)), *shares])
        return cells

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a dict for JSON."""
        return {**asdict(self), "labels": list(self.labels), "ok": self.ok}


def check(
    table: StrPath | None = None, *, root: StrPath | None = None, progress: bool = True, **options: Any
) -> DataCheck:
    r"""Check a table and its images, or folders by class, before building the data set "csv" or "folder".

    All faults are collected instead of raising at the first one. Every file is opened for its end mark and, if another
    file has as many bytes, for its content; no image is decoded that has an end mark.

    Parameters
    ----------
    table : path, optional
        The table; without it, `root` holds folders by class.
    root : path, optional
        The folder of the images; by default the folder of the table.
    progress : bool
        Show a progress bar on a terminal.
    **options
        Options of ``datasets.build("csv")`` or ``datasets.build("folder")``. ``missing``, ``views`` and ``transform``
        change nothing.

    Returns
    -------
    DataCheck
        Missing and unreadable files, files without a row, rows that repeat an image, odd label values with lines, names
        that fit several files, boxes outside of their images, labels without positives or negatives, patients in
        several parts, equal files of different parts (or else patients), masks that are missing.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is no such table or folder, or no image in it.
    OptionError
        An option is unknown.
    ValueError
        The table cannot be read, or a column is missing.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for number, name in enumerate("abc"):
    ...     Image.new("L", (4, 3), number).save(root / f"{name}.png")
    >>> _ = (root / "labels.csv").write_text("image,pid,Mass\na,1,1\nb,1,2\nd,2,0\n")
    >>> print(check(root / "labels.csv", patient="pid", labels=["Mass"]))
    /...labels.csv: 3 rows, 3 images of 2 patients; 3 image files in /...
    <BLANKLINE>
    label  positive  negative  unknown  all, %
    Mass          1         1        1    50.0
    <BLANKLINE>
    errors:
      1 odd label values: /...labels.csv:3: Mass is '2'
      1 missing files: d
    <BLANKLINE>
    warnings:
      1 image files without a row: c.png
    """
    data = FolderDataset if table is None else TableDataset
    known = set(inspect.signature(data).parameters) - {"table", "root"}
    if not set(options) <= known:
        raise OptionError(
            f"check: unknown options {sorted(set(options) - known)}; accepted: {', '.join(sorted(known))}"
        )
    if table is None and root is None:
        raise ValueError("check: a table, or root with folders by class, is needed")
    folder = check_root(Path(table).parent if root is None and table is not None else Path(str(root)))
    files, faults = index_all(folder), Faults(collect=True)
    if table is None:
        records = read_folders(str(folder), files, options.get("negative"), options.get("patient"), faults)
    else:
        of_layout = {field.name for field in fields(TableLayout)}
        layout = TableLayout(**{name: value for name, value in options.items() if name in of_layout})
        records = layout.read(Columns(Path(table)), faults)
    check_apart(records, faults)
    found, several = look_up(records.names, files, folder)
    check_single(several, faults)
    faults.error("missing files", [name for name in records.names if name not in found and name not in several])
    if records.rows:
        used = {str(file) for file in found.values()}
        faults.warn("image files without a row", sorted(name for name, file in files.items() if str(file) not in used))
    broken = [name for name in progress_bar(list(found), "files", shown=progress) if not is_readable(found[name])]
    faults.error("unreadable files", broken)
    if options.get("masks") is not None:
        mask_of = find_masks(records.names, check_root(options["masks"], "masks"))
        faults.error("images without a mask", [name for name in records.names if name not in mask_of])
    usable = {name: file for name, file in found.items() if name not in set(broken)}
    _check_boxes(records, usable, options.get("box_size"), faults)
    if records.boxes is not None:
        asked = records.labels if options.get("labels") is None else label_sets.resolve(options["labels"])
        pairs = zip(records.boxes.labels, label_sets.align(asked, records.boxes.labels), strict=True)
        faults.warn("box labels that are left out", sorted({label for label, known_as in pairs if known_as is None}))
    parts = _parts(records, options, faults)
    _check_copies(records, usable, parts, faults)
    return _summary(records, str(folder), len(files), parts, options.get("labels"), faults)


def _parts(records: Records, options: Mapping[str, Any], faults: Faults) -> dict[str, NDArray[np.intp]]:
    """Return the images of each part that the options ask for."""
    fold, seed = options.get("fold"), options.get("seed", 0)
    if records.parts is not None:
        values = np.array(records.parts, dtype=object)
        return {name: np.flatnonzero(values == name) for name in dict.fromkeys(records.parts)}
    if fold is None and options.get("split", "all") == "all":
        return {}
    names = ("train", "val", "test") if fold is None else ("train", "val")
    try:
        return {name: choose(records, name, fold, seed) for name in names}
    except ValueError as error:
        faults.error("splits that cannot be made", [str(error)])
        return {}


def _check_boxes(
    records: Records, files: Mapping[str, ImageFile], size: int | tuple[int, int] | None, faults: Faults
) -> None:
    """Report boxes that leave their images."""
    if records.boxes is None:
        return
    frame = None if size is None else height_and_width(size)
    sizes: dict[str, tuple[int, int]] = {}
    outside = []
    for image, box, where in zip(records.boxes.image.tolist(), records.boxes.xyxy, records.boxes.where, strict=True):
        name = records.names[image]
        if frame is None and name not in sizes and name in files:
            sizes[name] = image_size(files[name])
        height_width = frame or sizes.get(name)
        if height_width is not None:
            try:
                check_inside(torch.from_numpy(box)[None], height_width)
            except ValueError:
                corners = ", ".join(f"{value:g}" for value in box.tolist())
                outside.append(f"{where} ({corners} in {height_width[1]} x {height_width[0]})")
    faults.error("boxes outside of their image", outside)


def _check_copies(
    records: Records, files: Mapping[str, ImageFile], parts: Mapping[str, NDArray[np.intp]], faults: Faults
) -> None:
    """Report equal files of different parts; without parts, of different patients."""
    owner: dict[str, str] = {}
    if parts:
        owner = {records.names[row]: part for part, rows in parts.items() for row in rows.tolist()}
    else:
        owner = dict(zip(records.names, records.names if records.patients is None else records.patients, strict=True))
    plain = {name: file for name, file in files.items() if not isinstance(file, CopiedImage)}
    size_of = {name: file.stat().st_size for name, file in plain.items()}
    common = Counter(size_of.values())
    groups: dict[str, list[str]] = {}
    for name, file in plain.items():
        if common[size_of[name]] > 1:
            with open_regular(file) as content:
                digest = hashlib.sha256()
                while block := content.read(2**20):
                    digest.update(block)
            groups.setdefault(digest.hexdigest(), []).append(name)
    cases = [" = ".join(names) for names in groups.values() if len({owner.get(name) for name in names}) > 1]
    of = " of different parts" if parts else "" if records.patients is None else " of different patients"
    faults.warn(f"equal files{of}", cases)


def _summary(
    records: Records,
    root: str,
    files: int,
    parts: Mapping[str, NDArray[np.intp]],
    labels: str | Sequence[str] | None,
    faults: Faults,
) -> DataCheck:
    asked = records.labels if labels is None else label_sets.resolve(labels)
    columns = [column for column in label_sets.align(records.labels, asked) if column is not None]
    own = [records.labels[column] for column in columns]
    faults.warn("labels that the source does not have", [x for x in asked if None in label_sets.align(own, [x])])
    targets = records.targets[:, columns]
    rows: dict[str, Any] = {"all": slice(None), **parts}
    positives = {name: (targets[chosen] == 1).sum(axis=0).tolist() for name, chosen in rows.items()}
    known = {name: (~np.isnan(targets[chosen])).sum(axis=0).tolist() for name, chosen in rows.items()}
    for name in rows:
        where = "" if name == "all" else f" in {name}"
        counts = list(zip(own, positives[name], known[name], strict=True))
        faults.warn(f"labels without positives{where}", [label for label, positive, _ in counts if not positive])
        faults.warn(f"labels without negatives{where}", [label for label, positive, all_ in counts if positive == all_])
    return DataCheck(
        source=records.source,
        root=root,
        rows=records.rows,
        images=len(records.names),
        files=files,
        patients=None if records.patients is None else len(set(records.patients)),
        parts={name: len(chosen) for name, chosen in parts.items()},
        labels=tuple(own),
        positives=positives,
        known=known,
        errors=faults.errors,
        warnings=faults.warnings,
    )
