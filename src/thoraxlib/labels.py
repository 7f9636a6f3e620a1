"""Label and region sets, in the exact order of the data sets and of the weights trained on them.

A label set is a tuple of names; index ``k`` of a model's logits is ``model.labels[k]``.
"""

from __future__ import annotations

from collections.abc import Sequence

from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import few, repeated

registry: Registry[tuple[str, ...]] = Registry("labels")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_NIH14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_CHEXPERT14 = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
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
_CHEXPERT5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
_PADCHEST22 = (
    "aortic elongation",
    "atelectasis",
    "cardiomegaly",
    "catheter",
    "copd signs",
    "electrical device",
    "emphysema",
    "heart insufficiency",
    "infiltrates",
    "mass",
    "nodule",
    "normal",
    "nsg tube",
    "other findings",
    "pleural effusion",
    "pneumonia",
    "pneumothorax",
    "pulmonary edema",
    "pulmonary fibrosis",
    "surgery",
    "thoracic cage deformation",
    "tuberculosis",
)
_IMAGENOME9 = (
    "lung opacity",
    "pleural effusion",
    "atelectasis",
    "enlarged cardiac silhouette",
    "pulmonary edema/hazy opacity",
    "pneumothorax",
    "consolidation",
    "fluid overload/heart failure",
    "pneumonia",
)
_SIDE = (
    "lung",
    "apical zone",
    "upper lung zone",
    "mid lung zone",
    "lower lung zone",
    "hilar structures",
    "costophrenic angle",
)
_SIDE8 = (
    "lung",
    "upper lung zone",
    "mid lung zone",
    "lower lung zone",
    "hilar structures",
    "apical zone",
    "costophrenic angle",
    "hemidiaphragm",
)
_REGIONS18 = (
    *(f"right {name}" for name in _SIDE),
    *(f"left {name}" for name in _SIDE),
    "mediastinum",
    "upper mediastinum",
    "cardiac silhouette",
    "trachea",
)


def _add(name: str, values: tuple[str, ...], summary: str) -> None:
    def factory() -> tuple[str, ...]:
        return values

    factory.__doc__ = summary
    register(name)(factory)


_add("nih14", _NIH14, "The 14 findings of NIH ChestX-ray14, in the order of its paper and split lists.")
_add(
    "nih14_alphabetical",
    tuple(sorted(_NIH14)),
    "The 14 NIH findings in alphabetical order, as in QUST-SmartData/CXRClassification.",
)
_add("nih15", (*_NIH14, "No Finding"), "The 14 NIH findings, then No Finding.")
_add("nih8", _NIH14[:8], "The 8 findings of NIH ChestX-ray8.")
_add("pneumonia", ("Pneumonia",), "CheXNet's one-output pneumonia task.")
_add("abnormal", ("Abnormal",), "One output: any finding.")
_add("chexpert14", _CHEXPERT14, "The 14 observations of CheXpert, in the order of its CSV header.")
_add("chexpert5", _CHEXPERT5, "The 5 competition observations of CheXpert.")
_add(
    "chexpert5_alphabetical",
    tuple(sorted(_CHEXPERT5)),
    "The 5 competition observations in alphabetical order, as in QUST-SmartData/CXRClassification.",
)
_add(
    "mimic14",
    (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Enlarged Cardiomediastinum",
        "Fracture",
        "Lung Lesion",
        "Lung Opacity",
        "Pleural Effusion",
        "Pneumonia",
        "Pneumothorax",
        "Pleural Other",
        "Support Devices",
        "No Finding",
    ),
    "The 14 observations of MIMIC-CXR-JPG, in the order of QUST-SmartData/CXRClassification.",
)
_add(
    "padchest_openi22",
    _PADCHEST22,
    "22 findings of PadChest + OpenI in alphabetical order, as in weights trained by the original code.",
)
_add(
    "padchest_openi22_listed",
    (*_PADCHEST22[:5], "pleural effusion", *_PADCHEST22[5:14], *_PADCHEST22[15:]),
    "The 22 findings of PadChest + OpenI in the order in which the original repository lists them.",
)

_add("imagenome9", _IMAGENOME9, "The 9 findings of Chest ImaGenome that AnaXNet predicts, in its order.")
_add(
    "regions18",
    _REGIONS18,
    "The 18 anatomical regions of AnaXNet, in its order; right is the patient's right, the left of the image.",
)
_add(
    "regions29",
    (
        *(f"right {name}" for name in _SIDE8),
        *(f"left {name}" for name in _SIDE8),
        "trachea",
        "spine",
        "right clavicle",
        "left clavicle",
        "aortic arch",
        "mediastinum",
        "upper mediastinum",
        "svc",
        "cardiac silhouette",
        "cavoatrial junction",
        "right atrium",
        "carina",
        "abdomen",
    ),
    "The 29 regions of Chest ImaGenome's description, in the order of RGRG (Tanida et al., CVPR 2023).",
)
_add(
    "regions36",
    (
        *_REGIONS18,
        "right cardiophrenic angle",
        "right hemidiaphragm",
        "left cardiophrenic angle",
        "left hemidiaphragm",
        "spine",
        "right clavicle",
        "left clavicle",
        "aortic arch",
        "svc",
        "left cardiac silhouette",
        "right cardiac silhouette",
        "cavoatrial junction",
        "right atrium",
        "descending aorta",
        "carina",
        "left upper abdomen",
        "right upper abdomen",
        "abdomen",
    ),
    "Every region with boxes in Chest ImaGenome: the 18 of AnaXNet, then the others.",
)

# Other names of a finding in the releases; keys are lower-case with spaces.
_ALIASES = {
    "infiltrate": "infiltration",
    "infiltrates": "infiltration",
    "pleural effusion": "effusion",
    "pulmonary edema": "edema",
    "pulmonary fibrosis": "fibrosis",
    "normal": "no finding",
    "enlarged cardiac silhouette": "cardiomegaly",
    "pulmonary edema/hazy opacity": "edema",
}


def canonical(name: str) -> str:
    """Return the form of a finding's name that all releases share.

    Examples
    --------
    >>> canonical("Pleural_Thickening"), canonical("Infiltrate"), canonical("Pleural Effusion")
    ('pleural thickening', 'infiltration', 'effusion')
    """
    plain = " ".join(name.replace("_", " ").lower().split())
    return _ALIASES.get(plain, plain)


def resolve(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Return the label set with a name, or check an explicit sequence of labels.

    Raises
    ------
    UnknownNameError
        No label set has this name.
    ValueError
        The sequence is empty or names a label twice.
    """
    if isinstance(labels, str):
        return build(labels)
    result = tuple(labels)
    if not result or not all(isinstance(label, str) and label for label in result):
        given = few([repr(label) for label in result])
        raise ValueError(f"labels must be the name of a label set or a non-empty sequence of names, got ({given})")
    twice = repeated(result)
    if twice:
        raise ValueError(f"labels names [{few([repr(label) for label in twice])}] more than once")
    return result


def align(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Find each label of `target` in `source`: its index by exact name, else by :func:`canonical` name, else None.

    Examples
    --------
    >>> align(["Effusion", "Hernia"], ["Pleural Effusion", "Edema"])
    [0, None]
    """
    exact = {label: index for index, label in enumerate(source)}
    by_canonical = {canonical(label): index for index, label in enumerate(source)}
    return [exact.get(label, by_canonical.get(canonical(label))) for label in target]


def mirrored(names: Sequence[str]) -> list[int | None]:
    """Find, for each region, the index of the region at its location in the mirrored image.

    It is the region of the other side if the name begins with "right" or "left", None if `names` does not have the
    other side, and the region itself if it has no side.

    Examples
    --------
    >>> mirrored(["right lung", "left lung", "trachea", "right atrium"])
    [1, 0, 2, None]
    """
    indices = {name: index for index, name in enumerate(names)}
    other = {"right": "left", "left": "right"}
    result: list[int | None] = []
    for index, name in enumerate(names):
        side, _, rest = name.partition(" ")
        result.append(indices.get(f"{other[side]} {rest}") if side in other else index)
    return result
