"""Test the functions of ``python -m benchmarks``; the benchmarks themselves are run by hand."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import timing

    return timing


@pytest.fixture
def command(timing: Any) -> Any:
    from benchmarks import __main__

    return __main__


def counted(runs: list[str], name: str) -> Any:
    return lambda: runs.append(name)


def test_library_and_reference_run_in_turn(timing: Any) -> None:
    runs: list[str] = []
    row = timing.compare("a", "b", counted(runs, "o"), counted(runs, "p"), pairs=3, warmup=1)
    assert "".join(runs) == "op" + "op" + "op" * 3  # warm-up, memory, pairs
    assert len(row.ratios) == 3
    runs.clear()
    row = timing.compare("a", "b", counted(runs, "o"), counted(runs, "p"), pairs=3, slow=True)
    assert runs.count("p") == 1
    assert len(row.ratios) == 3


def test_rows(timing: Any) -> None:
    def text(*ratios: float, **options: Any) -> list[str]:
        row = timing.Row("ours", "peer", list(ratios), conditions="224 px", **options)
        return [cell.strip() for cell in str(row).strip("|").split("|")]

    assert text(2.0, 1.0, 4.0) == ["ours", "peer", "2", "1 to 4", "", "", "224 px"]
    assert text(0.5, target=0.5, memory=(0.2, 30.4)) == [
        "ours",
        "peer",
        "0.5",
        "once",
        "0.5, met",
        "< 1 / 30",
        "224 px",
    ]
    assert text(0.6, target=0.5)[4] == "0.5, missed"
    assert text(0.6, target=0.5, reason="it is so")[4] == "0.5, missed: it is so"
    assert text(target=0.5) == ["ours", "peer", "", "", "", "", "224 px"]
    assert timing.HEADER.split("\n")[0].count("|") == len(text(1.0)) + 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the process's memory")
def test_memory(timing: Any) -> None:
    assert 60 < timing.peak(lambda: torch.ones(16 * 2**20).sum()) < 90  # 64 MiB of float32
    assert timing.peak(lambda: None) < 4


def test_missing_reference_gives_a_row(timing: Any) -> None:
    def rows() -> Iterator[Any]:
        yield timing.Row("first", "peer", [1.0])
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401

    first, second = timing.optional("ours", "peer", rows())
    assert first.name == "first"
    assert "not measured: No module named 'no_such_library'" in str(second)


def test_every_benchmark_can_be_imported(command: Any) -> None:
    pages = "".join((ROOT / "docs" / page).read_text() for page in ("benchmarks.md", "papers/index.md"))
    for name in command.NAMES:
        module = pytest.importorskip(f"benchmarks.{name}")
        assert callable(module.run)
        assert (ROOT / "docs" / "_benchmarks" / f"{name}.md").exists()
        assert f"_benchmarks/{name}.md" in pages


@pytest.mark.parametrize("fails", [False, True])
def test_tables_are_written(
    command: Any, timing: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    def run(device: torch.device) -> Iterator[Any]:
        yield timing.Row("ours", "peer", [1.0])
        if fails:
            raise RuntimeError("the outputs differ")

    module = types.ModuleType("benchmarks.given")
    module.run, module.PACKAGES = run, ("numpy", "no-such-package")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.given", module)
    assert command.table("given", CPU, tmp_path) is not fails
    text = (tmp_path / "_benchmarks" / "given.md").read_text()
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "no no-such-package" in text
    assert "| ours | peer | 1 | once |" in text
    assert ("**Stopped by RuntimeError: the outputs differ**" in text) is fails


def test_tables_for_cpu_only_are_skipped_on_a_gpu(command: Any, tmp_path: Path) -> None:
    assert command.table("imports", torch.device("cuda"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_unknown_name(command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "cam"])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown benchmark 'cam'; there are cams, cropping" in capsys.readouterr().err


def test_recipes_are_counted(command: Any) -> None:
    from benchmarks import recipes

    layer, x = torch.nn.Linear(10, 50, bias=False), torch.zeros(1, 10)  # 1,000 operations
    stage = recipes.Stage("ours", "2 epochs", 2, 10**12, [(recipes.TRAINING, lambda: layer(x)), (1, lambda: layer(x))])
    assert str(stage) == "| ours | 2 epochs | 2 x 1,000,000,000,000 | 0.0 | 8 | 1.3 | 0.1 |"
    assert "Counted" in command.conditions(recipes, CPU)
    assert recipes.HEADER.split("\n")[0].count("|") == str(stage).count("|")
