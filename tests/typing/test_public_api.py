"""Scripts that use the public API like the README and the tutorial have no type errors."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import thoraxlib

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHECKERS = {"mypy": ["--strict", "--config-file="], "pyright": ["--pythonpath", sys.executable]}


@pytest.mark.parametrize("checker", CHECKERS)
def test_scripts_have_no_type_errors(checker: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"needs {checker}; the extra [test] has it")
    for page in ("README.md", "docs/tutorial.md"):
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
        assert blocks, page
        (tmp_path / f"{Path(page).stem.lower()}.py").write_text("\n".join(blocks), encoding="utf-8")
    shutil.copy(Path(__file__).parent / "attributes.py", tmp_path)
    # this one error is to be found: the library is not taken for untyped
    (tmp_path / "wrong.py").write_text('import thoraxlib\n\nnumber: int = thoraxlib.build("chexnet").labels\n')
    paths = [str(Path(thoraxlib.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker], "readme.py", "tutorial.py", "attributes.py", "wrong.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if "error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong.py" in errors[0]
    assert "tuple[str, ...]" in errors[0]
