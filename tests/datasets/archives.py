"""Small releases of PadChest and Open-i in their official layouts, for tests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: The 36 columns of the table; the first has no name.
COLUMNS = (
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Pediatric",
    "Modality_DICOM",
    "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM",
    "PixelRepresentation_DICOM",
    "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM",
    "BitsStored_DICOM",
    "WindowCenter_DICOM",
    "WindowWidth_DICOM",
    "Rows_DICOM",
    "Columns_DICOM",
    "XRayTubeCurrent_DICOM",
    "Exposure_DICOM",
    "ExposureInuAs_DICOM",
    "ExposureTime",
    "RelativeXRayExposure_DICOM",
    "ReportID",
    "Report",
    "MethodLabel",
    "Labels",
    "Localizations",
    "LabelsLocalizationsBySentence",
    "labelCUIS",
    "LocalizationsCUIS",
)
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
TERMS = (
    "['normal']",
    "['COPD signs', 'cardiomegaly']",
    "['pleural effusion', ' scoliosis']",
    "['nodule']",
    "['consolidation', 'NSG tube']",
)


def image(number: int, **values: Any) -> dict[str, Any]:
    """A row of PadChest's table: patients have two images, PA and lateral in turn."""
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "": number,
        "ImageID": f"{9999000000 + number}_ab{number:04d}.png",
        "ImageDir": (0, 13, 54)[number % 3],
        "StudyID": f"study{number // 2}",
        "PatientID": f"{888000000 + number // 2}",
        "Projection": ("PA", "L")[number % 2],
        "Pediatric": "No",
        "BitsStored_DICOM": 12,
        "MethodLabel": ("Physician", "RNN_model")[number // 2 % 2],
        "Report": "texto inventado, con coma",
        "Labels": TERMS[number // 2 % len(TERMS)],
    }
    return row | values


def pixels(number: int) -> np.ndarray:
    """12-bit greys."""
    return np.random.default_rng(number).integers(0, 4096, (20, 24)).astype(np.uint16)


def padchest(root: Path, images: Sequence[dict[str, Any]], *, flat: bool = False) -> Path:
    """Table and 16-bit images, in the folders of the release or all in one."""
    root.mkdir(parents=True, exist_ok=True)
    for row in images:
        folder = root / ("images" if flat else str(row["ImageDir"]))
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels(int(row[""]))).save(folder / row["ImageID"])
    with (root / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(images)
    return root


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <uId id="CXR{number}"/>
   <MedlineCitation><Article><Abstract>
      <AbstractText Label="COMPARISON">None.</AbstractText>
      <AbstractText Label="INDICATION"/>
      <AbstractText Label="FINDINGS">{findings}</AbstractText>
      <AbstractText Label="IMPRESSION">{impression}</AbstractText>
   </Abstract></Article></MedlineCitation>
   <MeSH><major>{mesh}</major><automatic>made up</automatic></MeSH>
   {images}
</eCitation>
"""
OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def report(root: Path, number: int, impression: str, findings: str = "Made-up findings.", mesh: str = "normal") -> None:
    """A report of two images."""
    folder = root / "ecgen-radiology"
    folder.mkdir(parents=True, exist_ok=True)
    images = "\n".join(f'<parentImage id="{name}"><caption>x</caption></parentImage>' for name in images_of(number))
    text = REPORT.format(number=number, impression=impression, findings=findings, mesh=mesh, images=images)
    (folder / f"{number}.xml").write_text(text, encoding="utf-8")


def images_of(number: int) -> list[str]:
    return [f"CXR{number}_1_IM-{number:04d}-{view}001" for view in (1, 2)]


def openi(root: Path, impressions: Sequence[str], *, name: str = "{image}.png") -> Path:
    """Reports 1, 2, ... with two images each, frontal and lateral, and their table of projections."""
    lines = ["uid,filename,projection"]
    for number, text in enumerate(impressions, start=1):
        report(root, number, text)
        (root / "images").mkdir(exist_ok=True)
        for view, image in zip(("Frontal", "Lateral"), images_of(number), strict=True):
            grey = np.full((20, 24), 10 * number, np.uint8)
            short = image.removeprefix("CXR").replace("_1_", "_", 1)
            Image.fromarray(grey).save(root / "images" / name.format(image=image, short=short), format="png")
            lines.append(f"{number},{short}.dcm.png,{view}")
    (root / "indiana_projections.csv").write_text("\n".join(lines) + "\n")
    return root


def labeller_table(
    path: Path,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str] = OBSERVATIONS,
    texts: Sequence[str] | None = None,
) -> Path:
    """What the labeller writes: a row's values by observation, blank where there is none; `id` where it is given."""
    head = ["Reports", *columns, *(["id"] if rows and "id" in rows[0] else [])]
    lines = [{"Reports": texts[number] if texts else f"report {number}", **row} for number, row in enumerate(rows)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, head, restval="")
        writer.writeheader()
        writer.writerows(lines)
    return path
