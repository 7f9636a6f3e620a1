"""EVA-X's fine-tuned classifiers: files of EVA-02's names in whole models of timm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch

import thoraxlib
from thoraxlib import labels, weights
from thoraxlib.weights import download

CARDS = weights.names("eva-x-*-c*")
RULES = {
    **{r"\.mlp\.norm\.": ".mlp.ffn_ln.", r"\.mlp\.fc1\.": ".mlp.w12.", r"\.mlp\.fc1_g\.": ".mlp.w1."},
    **{r"\.mlp\.fc1_x\.": ".mlp.w2.", r"\.mlp\.fc2\.": ".mlp.w3.", r"\.attn\.([qv])_proj\.bias": r".attn.\1_bias"},
}


@pytest.mark.parametrize(
    "name", [name if "tiny" in name else pytest.param(name, marks=pytest.mark.slow) for name in CARDS]
)
def test_a_fine_tuned_file_has_the_same_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.FOLDER, str(tmp_path))
    monkeypatch.setattr(download, "verify", lambda *_: None)  # made-up files
    torch.manual_seed(0)
    card = weights.describe(name)
    names = labels.resolve(card.labels)  # type: ignore[arg-type]
    assert names[-1] == ("Hernia" if name.endswith("cxr14") else "Pleural Effusion")
    size = name.split("-")[2]
    options = {"patch_size": 16, "ref_feat_shape": (14, 14)}
    theirs = timm.create_model(f"eva02_{size}_patch14_224", num_classes=len(names), **options).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        for pattern, replacement in RULES.items():
            key = re.sub(pattern, replacement, key)
        state[key] = value
    rope = {"rope.freqs_cos": torch.rand(196, 64), "blocks.3.attn.rope.freqs_sin": torch.rand(196, 64)}
    torch.save({"model": {**state, **rope}, "epoch": 3}, tmp_path / card.file_name)
    model = thoraxlib.load_pretrained(name)
    assert model.labels == names
    assert model.input_spec.mean == pytest.approx((0.49185243,) * 3)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), theirs(x), rtol=0, atol=1e-6)
