"""First use of a registry: from several threads, after a failed import, and during an import."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from together import together

from thoraxlib.registry import DuplicateNameError, Registry

Write = Callable[..., Registry[str]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules ``toy_<name>`` and give a registry, ``toy_registry.registry``, that loads them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def writer(**bodies: str) -> Registry[str]:
        names = [f"toy_{name}" for name in bodies]
        subpackage = f"from thoraxlib.registry import Registry\nregistry = Registry('toys', modules={names})\n"
        (tmp_path / "toy_registry.py").write_text(subpackage)
        for name, body in bodies.items():
            head = "import time\nfrom toy_registry import registry\nregister = registry.register\n"
            (tmp_path / f"toy_{name}.py").write_text(head + textwrap.dedent(body))
        importlib.invalidate_caches()
        return importlib.import_module("toy_registry").registry  # type: ignore[no-any-return]

    yield writer
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


SLOW = "time.sleep(0.05)\nregister('{0}')(lambda: '{0}')\ntime.sleep(0.05)\n"


def test_several_threads(write: Write) -> None:
    toys = write(ball=SLOW.format("ball"), car=SLOW.format("car"))
    calls = [lambda: toys.build("car"), lambda: "car" in toys, lambda: toys.describe("car").name, lambda: toys.names()]
    expected = ["car", True, "car", ["ball", "car"]]
    assert together(lambda k: calls[k % 4](), 8) == expected * 2


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ImportError", "MemoryError", "SystemExit"])
def test_a_failed_import_is_retried(write: Write, tmp_path: Path, error: str) -> None:
    flag = tmp_path / "once"
    # a factory of another module; one of its own; then the failure
    car = f"""
        import os.path
        import toy_helper
        register('of_another')(os.path.join)
        toy_helper.register_it()
        register('car')(lambda: 'car')
        if not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, 'w').close()
            raise {error}('in between')
        register('late')(lambda: 'late')
    """
    helper = """
        register('helper')(lambda: 'helper')
        def register_it():
            register('by_helper')(register_it)
    """
    toys = write(ball=SLOW.format("ball"), car=car, helper=helper)
    with pytest.raises(BaseException, match="in between") as caught:
        toys.names()
    assert type(caught.value).__name__ == error
    assert toys.names() == ["ball", "by_helper", "car", "helper", "late", "of_another"]
    assert toys.build("car") == "car"
    with pytest.raises(DuplicateNameError, match="'car' is already registered"):
        toys.register("car")(lambda: "other")


def test_threads_while_an_import_fails(write: Write, tmp_path: Path) -> None:
    flag = tmp_path / "once"
    car = f"""
        import os
        register('early')(lambda: 'early')
        time.sleep(0.05)
        if not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, 'w').close()
            raise ImportError('in between')
        register('car')(lambda: 'car')
    """
    toys = write(car=car)

    def first_use(number: int) -> str:
        try:
            return toys.build("car")
        except ImportError as error:
            return str(error)

    assert sorted(together(first_use)) == ["car"] * 7 + ["in between"]


def test_a_module_uses_the_registry_during_its_import(write: Write) -> None:
    toys = write(
        ball="assert 'ball' not in registry.registered()\nregister('ball')(lambda: 'ball')\nseen = registry.names()",
        car=SLOW.format("car"),
    )
    assert toys.names() == ["ball", "car"]
    assert sys.modules["toy_ball"].seen == ["ball"]  # so far


def test_threads_that_import_the_same_modules_do_not_deadlock(write: Write) -> None:
    """One thread holds a module's import lock and uses the registry, the other the reverse."""
    toys = write(
        ball="time.sleep(0.1)\nseen = registry.names()\n" + SLOW.format("ball"),
        car="time.sleep(0.1)\nseen = registry.names()\n" + SLOW.format("car"),
    )

    def work(number: int) -> list[str]:
        if number:
            importlib.import_module(("toy_car", "toy_ball")[number % 2])
        return toys.names()

    assert together(work, 4) == [["ball", "car"]] * 4


def test_several_threads_register_one_name() -> None:
    toys = Registry[str]("toys")

    def work(number: int) -> bool:
        try:
            toys.register("car")(lambda: str(number))
        except DuplicateNameError:
            return False
        return True

    assert sum(together(work)) == 1


def test_first_use_of_the_library_in_a_new_process() -> None:
    """Eight threads use the subpackages at once."""
    code = """
        import threading, thoraxlib
        small = {"backbone": "resnet10t", "input_spec": {"size": 64}}
        works = [
            lambda: thoraxlib.build("chexnet", **small),
            lambda: thoraxlib.build("chexnet", **small),
            lambda: thoraxlib.describe("pcam"),
            lambda: thoraxlib.layers.pooling.build("lse"),
            lambda: thoraxlib.cams.names(),
            lambda: thoraxlib.heads.build("linear", in_channels=4, num_labels=2),
            lambda: thoraxlib.datasets.describe("synthetic"),
            lambda: thoraxlib.load_pretrained,
        ]
        gate, errors = threading.Barrier(8), []
        def run(work):
            gate.wait()
            try:
                work()
            except BaseException as error:
                errors.append(repr(error))
        threads = [threading.Thread(target=run, args=[work]) for work in works]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not errors, errors
        assert len(thoraxlib.names()) > 20
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "done", done.stderr
