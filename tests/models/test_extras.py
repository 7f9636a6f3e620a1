"""Models and segmenters of another library: listed and described without it, and left out of the documented ones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import thoraxlib
from thoraxlib import segmentation

CLASSIFIERS = ["xrv_densenet121", "xrv_resnet50"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, "xrv_pspnet"])
def test_without_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    room = segmentation if name == "xrv_pspnet" else thoraxlib.models
    assert name in room.names()
    assert name not in room.registry.registered()
    assert room.describe(name).extra == "xrv"
    assert 'needs: pip install "thoraxlib[xrv]"' in str(room.describe(name))
    with pytest.raises(ImportError, match=r'this needs torchxrayvision: pip install "thoraxlib\[xrv\]"'):
        room.build(name)


def test_the_other_library_is_imported_when_a_model_is_built() -> None:
    code = (
        "import sys, thoraxlib; names = thoraxlib.names('xrv_*') + thoraxlib.segmentation.names('xrv_*');"
        "cards = [str(thoraxlib.describe(name)) for name in thoraxlib.names('xrv_*')];"
        "import json; print(json.dumps([names, 'torchxrayvision' in sys.modules, cards]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, imported, cards = json.loads(done.stdout)
    assert names == [*CLASSIFIERS, "xrv_pspnet"]
    assert not imported
    assert all("arXiv 2111.00595" in card for card in cards)
