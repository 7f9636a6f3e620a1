"""Run the checks of the project, each in a fresh environment; ``nox -l`` lists them."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs"]

# The oldest releases that pyproject.toml allows and that can be installed together from wheels (Python 3.10). torch's
# ONNX exporter needs the onnxscript release of the same time, which needs the onnx-ir and protobuf of the same time.
LOWEST = [
    "torch==2.6.0",
    "torchvision==0.21.0",
    "timm==1.0.15",
    "torch-geometric==2.6.0",
    "numpy==1.26.0",
    "scikit-learn==1.5.0",
    "pillow==10.3.0",
    "typing-extensions==4.12.0",
    "huggingface_hub==0.27.0",
    "safetensors==0.4.5",
    "filelock==3.30.0",
    "fsspec==2024.6.0",
    "lightning==2.5.0",
    "torchmetrics==1.6.0",
    "torchxrayvision==1.4.0",
    "tensorboard==2.18.0",
    "pydicom==3.0.0",
    "pylibjpeg==2.0.0",
    "pylibjpeg-openjpeg==2.3.0",
    "python-gdcm==3.0.24.1",
    "pyarrow==16.0.0",
    "matplotlib==3.9.0",
    "onnx==1.17.0",
    "onnxscript==0.3.0",
    "onnx-ir==0.1.3",
    "onnxruntime==1.20.0",
    "protobuf==5.29.6",
]


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, with slow tests and doctests; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "-m", "", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format and lint with ruff."""
    session.install("ruff>=0.8")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy --strict."""
    session.install("-e", ".[train]", "mypy>=1.13")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, with warnings as errors, and run its doctests; ``-- --no-gallery`` does not run the gallery."""
    session.install("-e", ".[docs]")
    options = ["-D", "sphinx_gallery_conf.plot_gallery=0"] if "--no-gallery" in session.posargs else []
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", *options, "docs", "docs/_build/html")
    options = ["-D", "sphinx_gallery_conf.plot_gallery=0"]
    session.run("sphinx-build", "-W", "-q", "-b", "doctest", *options, "docs", "docs/_build/doctest")


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example with small settings."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "", "tests/examples", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure the benchmarks and write their tables and plots into docs/; arguments select some: ``-- cams``."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """Run all tests on the oldest supported dependencies."""
    session.install("-e", ".[test]", *LOWEST)
    session.run("pytest", "-n", "2", "-m", "", *session.posargs)
