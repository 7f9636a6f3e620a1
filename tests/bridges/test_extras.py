"""Bridges without the packages that they lead to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CLASSIFIERS = ("xrv_densenet121", "xrv_resnet50")


@pytest.mark.parametrize("build", [*CLASSIFIERS, "xrv_pspnet"])
def test_without_the_extra(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoraxlib.bridges import torchxrayvision as bridge

    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    factory = {"xrv_pspnet": bridge.PSPNet}.get(build) or getattr(bridge, build)
    with pytest.raises(ImportError, match=r'this needs torchxrayvision: pip install "thoraxlib\[xrv\]"'):
        factory()


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, thoraxlib; names = thoraxlib.names('xrv_*') + thoraxlib.segmentation.names('xrv_*');"
        "bridge = [name for name in sys.modules if name.startswith('thoraxlib.bridges')];"
        "cards = [str(thoraxlib.describe(name)) for name in thoraxlib.names('xrv_*')];"
        "import json; print(json.dumps([names, bridge, 'torchxrayvision' in sys.modules, cards]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, bridge, imported, cards = json.loads(done.stdout)
    if not names:
        pytest.skip("thoraxlib was installed before it had entry points: pip install -e . again")
    assert names == [*CLASSIFIERS, "xrv_pspnet"]
    assert bridge == []
    assert not imported
    assert all("arXiv 2111.00595" in card for card in cards)
