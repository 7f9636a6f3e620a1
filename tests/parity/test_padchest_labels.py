"""PadChest's label lists against what jaydurant's own code makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from formulas import load_record

from thoraxlib import labels as label_sets
from thoraxlib.datasets.padchest import TermTree, listed_targets

RECORD = load_record("padchest22_labels.json")
LABELS = label_sets.build("padchest_openi22")
ROWS = [(name, text or "") for name, text in RECORD["input"]["rows"]]


def positives(texts: list[str], rule: str) -> list[list[str]]:
    targets = listed_targets(texts, LABELS, rule=rule).targets
    return [[label for label, value in zip(LABELS, row, strict=True) if value == 1] for row in targets]


def test_the_orders_of_the_labels() -> None:
    assert list(LABELS) == RECORD["config"]["column_order_of_targets"]
    assert list(label_sets.build("padchest_openi22_listed")) == RECORD["config"]["label_list_as_published"]


def test_the_original_rule_on_every_string() -> None:
    assert len(ROWS) == 21
    found = dict(zip((name for name, _ in ROWS), positives([text for _, text in ROWS], "last_root"), strict=True))
    # the original drops image 20, which has no file, after it has made its labels
    expected = RECORD["outputs"]["original"] | {"made_up_20.png": ["pneumonia"]}
    assert RECORD["outputs"]["original"]["made_up_20.png"] is None
    assert found == expected


def test_the_corrected_rule_on_every_string() -> None:
    expected = {name: names for name, names in RECORD["outputs"]["original"].items() if names is not None}
    expected |= {
        "made_up_02.png": ["pleural effusion", "pneumothorax"],  # a kind of both
        "made_up_03.png": ["aortic elongation"],
        "made_up_13.png": ["nodule"],  # not normal as well
        "made_up_14.png": ["aortic elongation", "thoracic cage deformation"],
        "made_up_20.png": ["pneumonia"],
    }
    unknown = [f"made_up_{k:02}.png" for k in (7, 8, 9, 10, 11, 12)]
    expected |= {name: [] for name in unknown}
    result = listed_targets([text for _, text in ROWS], LABELS)
    assert dict(zip((name for name, _ in ROWS), positives([t for _, t in ROWS], "ancestors"), strict=True)) == expected
    names = np.array([name for name, _ in ROWS])
    assert names[np.isnan(result.targets).all(axis=1)].tolist() == unknown
    assert not np.isnan(result.targets[~np.isin(names, unknown)]).any()
    assert names[result.unusable].tolist() == ["made_up_10.png", "made_up_11.png"]
    assert names[result.unlabelled].tolist() == ["made_up_08.png", "made_up_12.png"]


@pytest.mark.parametrize(
    ("rule", "output"),
    [("last_root", "term_to_label_original"), ("ancestors", "term_to_label_all_ancestors")],
)
def test_the_terms_of_every_label(rule: str, output: str) -> None:
    tree = TermTree.shipped()
    found: dict[str, list[str]] = {label: [] for label in LABELS}
    for term, labels in zip(tree.terms, positives([repr([term]) for term in tree.terms], rule), strict=True):
        for label in labels:
            found[label].append(term)
    other = found.pop("other findings")
    assert found.pop("normal") == []
    assert {label: sorted(terms) for label, terms in found.items()} == RECORD["outputs"][output]
    if rule == "last_root":
        assert len(other) == 109  # of the tree's 189 terms


def test_the_shipped_tree_is_that_of_the_release() -> None:
    tree = TermTree.shipped()
    assert len(tree.terms) == 189
    assert sum(not above for above in tree.parents.values()) <= 99
    assert tree.parents["supra aortic elongation"] == ("aortic elongation", "superior mediastinal enlargement")
    assert tree.last_root["supra aortic elongation"] == "mediastinal enlargement"
