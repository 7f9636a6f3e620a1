"""``examples/plugin_package``, installed by pip and used in a process that never imports it by name."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PACKAGE = Path(__file__).parents[2] / "examples" / "plugin_package"

USE = """
import sys

import torch

import thoraxlib
from thoraxlib import cams, graphs

PARTS = {
    "shallow_convnet": thoraxlib.backbones,
    "ochiai": graphs.adjacency,
    "elementwise": cams,
    "shallow_graph": thoraxlib.models,
}


def imported():
    return [name for name in sys.modules if name.startswith("thoraxlib_example")]


for name, subpackage in PARTS.items():
    assert name in subpackage.names(), (name, subpackage)
assert imported() == [], "names are found without importing the package"

for name, subpackage in PARTS.items():
    card = subpackage.describe(name)
    assert card.origin.startswith("thoraxlib_example."), card.origin
    assert card.summary
assert "preset 'dense'" in str(thoraxlib.describe("shallow_graph"))

model = thoraxlib.build("shallow_graph", preset="dense", labels="chexpert5", input_spec={"size": 32})
assert type(model.backbone).__module__ == "thoraxlib_example.backbone"
assert model.backbone.channels == (32, 64, 128)
images = thoraxlib.preprocess_for(model)(torch.rand(4, 1, 40, 32))
before = {key: value.clone() for key, value in model.named_parameters()}
optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
criterion = thoraxlib.losses.build("bce")
loss = criterion(model(images), torch.eye(5)[:4])
loss.backward()
optimizer.step()
still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
assert not still, still
assert criterion(model(images), torch.eye(5)[:4]) < loss

model.eval()
maps = cams.build("elementwise", model)(images)
assert maps.shape == (4, 5, 2, 2)
assert (maps >= cams.build("hirescam", model)(images) - 1e-6).all(), "without what speaks against the label"
assert maps.std() > 0

for image in thoraxlib.explain(model, list(torch.rand(2, 1, 40, 32)), method="elementwise", threshold=0.0):
    assert len(image.findings) == 5

thoraxlib.save_pretrained(model, sys.argv[1])
loaded = thoraxlib.load_pretrained(sys.argv[1])
assert torch.equal(loaded(images), model(images))
assert loaded.config["options"]["adjacency"] == {"name": "ochiai", "threshold": 0}

counts = graphs.counts.build("nih14")
graph = graphs.adjacency.build("ochiai")(counts)
n = counts.joint.double()
edge = n / (n.diagonal()[:, None] * n.diagonal()).sqrt()
torch.testing.assert_close(graph.weights, torch.where(edge > 0.1, edge, 0.0).float())
assert 0 < len(graph.edges()) < 14 * 13

chexnet = thoraxlib.build("chexnet", backbone="shallow_convnet", input_spec={"size": 32})
assert chexnet(torch.rand(2, 3, 32, 32)).shape == (2, 14)
print("all is well")
"""

WITHOUT = """
import sys

import thoraxlib
from thoraxlib.registry import UnknownNameError

assert "shallow_graph" not in thoraxlib.names()
try:
    thoraxlib.load_pretrained(sys.argv[1])
except UnknownNameError as error:
    print(error)
"""


def run(code: str, *arguments: Path, path: Path | None = None) -> str:
    """Return the output of a new Python process; `path` has further packages."""
    paths = [str(path)] if path is not None else []
    paths += [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a folder by pip."""
    for needed in ("pip", "hatchling"):
        pytest.importorskip(needed, reason=f"{needed} installs the package; the extra [test] has it")
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_installed_as_its_own_package(installed: Path) -> None:
    (distribution,) = metadata.distributions(path=[str(installed)])
    assert distribution.name == "thoraxlib-example"
    groups = {point.group for point in distribution.entry_points}
    assert groups == {"thoraxlib.backbones", "thoraxlib.cams", "thoraxlib.graphs.adjacency", "thoraxlib.models"}
    assert not (installed / "thoraxlib").exists()


def test_its_components_work_in_a_new_process(installed: Path, tmp_path: Path) -> None:
    assert run(USE, tmp_path / "saved", path=installed).endswith("all is well\n")
    # where the package is not installed, loading says what is wanted
    told = run(WITHOUT, tmp_path / "saved")
    assert "unknown name 'shallow_graph'" in told
    assert "install the package" in told
