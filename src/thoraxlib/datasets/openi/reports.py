"""Open-i's reports: one XML file per report."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from thoraxlib.datasets.files import check_root
from thoraxlib.utils.files import read_regular, replacing


class Report(NamedTuple):
    """A report.

    Attributes
    ----------
    id : str
        ``CXR1``, ``CXR2``, ...
    sections : dict of str to str
        Texts by heading: COMPARISON, INDICATION, FINDINGS, IMPRESSION. "XXXX" replaces words that were removed.
    mesh : tuple of str
        MeSH terms by indexers, such as ``Cardiomegaly/mild``; ``normal`` for images without findings.
    automatic : tuple of str
        Terms by a program.
    images : tuple of str
        Ids of the images, such as ``CXR1_1_IM-0001-3001``.
    """

    id: str
    sections: dict[str, str]
    mesh: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[str, ...]


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read the XML file of a report.

    Raises
    ------
    ValueError
        The file is no well-formed XML, has a document type (which could declare entities that fill the memory), or has
        no ``uId``.
    """
    root = _parse(Path(path))
    uid = root.find("uId")
    if uid is None or not uid.get("id"):
        raise ValueError(f"{path} has no element uId with an id: it is no report of Open-i")
    sections: dict[str, list[str]] = {}
    for part in root.iter("AbstractText"):
        sections.setdefault(part.get("Label", "").upper(), []).append(_text(part))
    return Report(
        uid.get("id", ""),
        {heading: " ".join(filter(None, texts)) for heading, texts in sections.items()},
        _terms(root, "major"),
        _terms(root, "automatic"),
        tuple(image.get("id", "") for image in root.iter("parentImage")),
    )


def _terms(root: Element, kind: str) -> tuple[str, ...]:
    return tuple(filter(None, map(_text, root.findall(f"MeSH/{kind}"))))


def _text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _parse(path: Path) -> Element:
    def refuse(*declaration: Any) -> None:
        raise ValueError(f"{path} has a document type declaration, which reports do not have; it is not read")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_regular(path), True)
    except expat.ExpatError as error:
        raise ValueError(f"{path}:{error.lineno}: not well-formed XML: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:  # an unknown encoding, or a refused document type
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return builder.close()


def read_reports(root: str | os.PathLike[str]) -> dict[str, Report]:
    """Read all XML files in a folder, at any depth; return the reports by id, in the order of their numbers.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder does not exist, or holds no XML file.
    ValueError
        As :func:`read_report`; or two files have one id.
    """
    folder = check_root(root)
    reports: dict[str, tuple[Path, Report]] = {}
    for path in sorted(folder.rglob("*.xml")):
        report = read_report(path)
        if report.id in reports:
            raise ValueError(f"{path} has the id {report.id} of {reports[report.id][0]}")
        reports[report.id] = path, report
    if not reports:
        raise FileNotFoundError(f"no report (.xml) in {folder}")
    return {name: reports[name][1] for name in sorted(reports, key=_number)}


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d{1,18}", name)
    return int(digits[0]) if digits else -1, name


def ids_beside(path: str | os.PathLike[str]) -> Path:
    """Return the path of the ids that :func:`export_reports` writes: ``reports_ids.csv`` for ``reports.csv``."""
    path = Path(path)
    return path.with_name(f"{path.stem}_ids.csv")


def export_reports(
    root: str | os.PathLike[str], path: str | os.PathLike[str], sections: str | Sequence[str] = ("IMPRESSION",)
) -> list[str]:
    """Write the reports for the CheXpert labeller, and a file of their ids.

    The labeller reads a CSV file of one column without a header, and its output has no ids. ``<name>_ids.csv`` beside
    `path` has ids and texts, so that :class:`OpenI` can join the labels by row and check that the texts agree.

    Parameters
    ----------
    root : path
        The folder of the reports.
    path : path
        The file for the labeller.
    sections : str or sequence of str
        Headings whose texts are joined. Reports without such a text are left out: the labeller would call them normal.

    Returns
    -------
    list of str
        The ids, in the order of the rows.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, ValueError
        As :func:`read_reports`; or no report has a text in `sections`.
    """
    sections = [sections] if isinstance(sections, str) else list(sections)
    joined = {
        report.id: " ".join(filter(None, (report.sections.get(heading, "") for heading in sections)))
        for report in read_reports(root).values()
    }
    texts = {name: text for name, text in joined.items() if text}
    if not texts:
        raise ValueError(f"sections={sections}: none of the {len(joined)} reports in {root} has a text under them")
    _write(Path(path), [[text] for text in texts.values()])
    _write(ids_beside(path), [["id", "report"], *([name, text] for name, text in texts.items())])
    return list(texts)


def _write(path: Path, rows: list[list[str]]) -> None:
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
