"""The wheel: its licences, as its metadata and its files state them."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from thoraxlib import weights

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_licence_expression_names_every_licence_of_the_data(wheel: zipfile.ZipFile, metadata: Message) -> None:
    stated = {"Apache-2.0"}
    for name in wheel.namelist():
        if name.endswith(".json"):
            licence = json.loads(wheel.read(name)).get("licence")
            stated |= {licence} if licence else set()
    assert set(re.split(r" AND ", metadata["License-Expression"])) == stated | {"CC-BY-4.0"}
    assert stated == {"Apache-2.0", "CC-BY-SA-3.0"}
    shipped = [weights.describe(name) for name in weights.names() if weights.describe(name).shipped]
    assert any(card.weights_licence.startswith("CC BY 4.0") for card in shipped)
    files = set(wheel.namelist())
    for card in shipped:
        folder = f"thoraxlib/weights/shipped/{card.name}"
        assert {f"{folder}/README.md", f"{folder}/config.json", f"{folder}/model.safetensors"} <= files


def test_the_text_of_every_licence_is_in_the_wheel(wheel: zipfile.ZipFile, metadata: Message) -> None:
    texts = {}
    for file in metadata.get_all("License-File"):
        name = next(name for name in wheel.namelist() if name.endswith(f".dist-info/licenses/{file}"))
        texts[file] = wheel.read(name).decode()
    assert set(texts) == {"LICENSE", "LICENSES/CC-BY-4.0.txt", "LICENSES/CC-BY-SA-3.0.txt"}
    assert "Attribution 4.0 International" in texts["LICENSES/CC-BY-4.0.txt"]
    assert len(texts["LICENSES/CC-BY-4.0.txt"]) > 17_000
    assert "Apache License" in texts["LICENSE"]
    assert "Attribution-ShareAlike 3.0" in texts["LICENSES/CC-BY-SA-3.0.txt"]
    assert len(texts["LICENSES/CC-BY-SA-3.0.txt"]) > 20_000
