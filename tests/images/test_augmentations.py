"""A mirrored image has the right lung on the right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from thoraxlib import datasets, images, labels
from thoraxlib.images.augmentations import Mirror
from thoraxlib.input_spec import InputSpec

REGIONS = labels.build("regions18")


@pytest.fixture(scope="module")
def synthetic() -> Any:
    return datasets.build("synthetic", size=96, length=6, balance=1.0)


def test_the_permutation() -> None:
    swapped = labels.mirrored(REGIONS)
    assert swapped == [*range(7, 14), *range(7), 14, 15, 16, 17]
    for name in ("regions29", "regions36"):
        names = labels.build(name)
        lost = [names[row] for row, source in enumerate(labels.mirrored(names)) if source is None]
        assert lost == ["right atrium"]


@pytest.mark.parametrize("augmentation", ["chexnet", "x_ray", "zoogzog"])
def test_sides_stay_on_their_side(synthetic: Any, augmentation: str) -> None:
    spec = InputSpec(size=96, channels=1, mean=(0.0,), std=(1.0,))
    options = {"scale": (1.0, 1.0)} if augmentation == "zoogzog" else {}
    train = {"name": augmentation, "p": 1.0, "region_names": synthetic.region_names, **options}
    for index in range(len(synthetic)):
        sample = synthetic[index]
        plain, mirror = images.transform_for(spec)(sample), images.transform_for(spec, train=train)(sample)
        if augmentation != "zoogzog":
            assert torch.equal(mirror["image"], plain["image"].flip(-1))
        middle = (mirror["regions"][:, 0] + mirror["regions"][:, 2]) / 2
        for row in range(7):
            assert middle[row] < middle[row + 7]  # right is the picture's left
        # the content of a box is mirrored, so its labels are those of the other side's row
        for row, source in enumerate(labels.mirrored(REGIONS)):
            x1, y1, x2, y2 = plain["regions"][source].tolist()
            if augmentation != "zoogzog":
                assert mirror["regions"][row].tolist() == pytest.approx([96 - x2, y1, 96 - x1, y2], abs=1e-3)
            np.testing.assert_array_equal(mirror["region_labels"][row], plain["region_labels"][source])
        assert torch.equal(mirror["present"], plain["present"][labels.mirrored(REGIONS)])
        assert torch.equal(mirror["labels"], plain["labels"])
        assert isinstance(mirror["regions"], tv_tensors.BoundingBoxes)
    one_sided = [
        s["region_labels"] for s in synthetic if not torch.equal(s["region_labels"][:7], s["region_labels"][7:14])
    ]
    assert one_sided  # else the exchange of labels would not show


def test_mirroring_twice_is_nothing(synthetic: Any) -> None:
    mirror = Mirror(1.0, synthetic.region_names)
    sample = synthetic[1]
    again = mirror(mirror(sample))
    for key in ("image", "regions", "present", "region_labels", "masks", "boxes"):
        assert torch.allclose(again[key].float(), sample[key].float(), atol=1e-4)
    assert not torch.equal(mirror(sample)["regions"], sample["regions"])


def test_probability(synthetic: Any) -> None:
    sample = synthetic[0]
    mirror = Mirror(0.3, synthetic.region_names)
    changed = [not torch.equal(mirror(sample)["image"], sample["image"]) for _ in range(300)]
    assert 0.2 < np.mean(changed) < 0.4
    assert Mirror(0.0, synthetic.region_names)(sample) is sample


def test_a_region_without_another_side_is_lost() -> None:
    sample = {
        "image": tv_tensors.Image(torch.zeros(1, 10, 20)),
        "regions": tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1, 6, 5], [9, 1, 11, 5]]), format="XYXY",
                                            canvas_size=(10, 20)),
        "present": torch.tensor([True, True]),
        "region_labels": torch.tensor([[1.0], [0.0]]),
    }  # fmt: skip
    mirrored = Mirror(1.0, ["right atrium", "trachea"])(sample)
    assert mirrored["regions"].tolist() == [[0, 0, 0, 0], [9, 1, 11, 5]]
    assert mirrored["present"].tolist() == [False, True]
    assert mirrored["region_labels"].nan_to_num(9).tolist() == [[9], [0]]
    assert sample["present"].tolist() == [True, True]


def test_regions_without_names_are_refused(synthetic: Any) -> None:
    spec = InputSpec(size=32, channels=1, mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match=r"would put 'right' regions on the left: .*region_names"):
        images.transform_for(spec, train={"name": "chexnet", "p": 0.0})(synthetic[0])
    with pytest.raises(ValueError, match="the sample has 18 regions, region_names has 2"):
        Mirror(1.0, ["a", "b"])(synthetic[0])
    with pytest.raises(ValueError, match="p=2: from 0 to 1"):
        Mirror(2)
    plain = {key: value for key, value in synthetic[0].items() if key not in ("regions", "present", "region_labels")}
    assert images.transform_for(spec, train="chexnet")(plain)["image"].shape == (1, 32, 32)
