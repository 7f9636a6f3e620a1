"""Every check of the project, each in a fresh environment: ``nox -l`` lists them."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs"]

# The oldest releases that the bounds in pyproject.toml admit and that have wheels together (Python 3.10). torch's ONNX
# exporter takes only the onnxscript of its time, and that only an onnx-ir and protobuf of its time.
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
    """The whole suite, slow tests and doctests included; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "-m", "", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: format and lint."""
    session.install("ruff>=0.8")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.install("-e", ".[train]", "mypy>=1.13")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors, and its doctests; ``-- --no-gallery`` leaves the examples unrun."""
    session.install("-e", ".[docs]")
    options = ["-D", "sphinx_gallery_conf.plot_gallery=0"] if "--no-gallery" in session.posargs else []
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", *options, "docs", "docs/_build/html")
    options = ["-D", "sphinx_gallery_conf.plot_gallery=0"]
    session.run("sphinx-build", "-W", "-q", "-b", "doctest", *options, "docs", "docs/_build/doctest")


@nox.session
def examples(session: nox.Session) -> None:
    """Every example in its tiny setting."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "", "tests/examples", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Ratios against peers and scaling plots, written into the documentation; arguments choose: ``-- cams``."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The suite on the oldest supported dependencies."""
    session.install("-e", ".[test]", *LOWEST)
    session.run("pytest", "-n", "2", "-m", "", *session.posargs)
