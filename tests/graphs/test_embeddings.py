from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thoraxlib
from thoraxlib import graphs
from thoraxlib.graphs import LabelCounts
from thoraxlib.graphs.embeddings import Embedding, read_vectors
from thoraxlib.registry import OptionError

NIH = graphs.counts.build("nih14").labels
VECTORS = {
    "edema": [1.0, 0.0, 0.0],
    "Pleural": [0.0, 2.0, 0.0],
    "pleural": [9.0, 9.0, 9.0],
    "thickening": [0.0, 0.0, 4.0],
    "Lung_Opacity": [5.0, 5.0, 5.0],
    "Lung": [7.0, 7.0, 7.0],
    "Opacity": [7.0, 7.0, 7.0],
}


def write(path: Path, vectors: dict[str, list[float]] = VECTORS, header: str = "", ending: str = "\n") -> Path:
    lines = [f"{word} {' '.join(map(str, values))}{ending}" for word, values in vectors.items()]
    path.write_bytes((header + "".join(lines)).encode())
    return path


@pytest.fixture
def vectors_file(tmp_path: Path) -> Path:
    return write(tmp_path / "vectors.txt")


@pytest.mark.parametrize("name", graphs.embeddings.names())
@pytest.mark.parametrize("learn", [False, True])
def test_every_embedding(name: str, learn: bool, tmp_path: Path) -> None:
    lines = {word: [float(len(word))] * 3 for label in NIH for word in label.split("_")}
    options: dict[str, Any] = {"path": write(tmp_path / "v.txt", lines), "dim": 3} if name == "file" else {}
    if "learn" in graphs.embeddings.describe(name).options:
        options["learn"] = learn
    elif learn != (name == "learned"):
        pytest.skip(f"{name} is always {'trained' if name == 'learned' else 'as it is'}")
    embedding = graphs.embeddings.build(name, labels=NIH, **options)
    vectors = embedding()
    assert vectors.shape == (14, embedding.dim)
    assert vectors.dtype == torch.float32
    assert vectors.requires_grad == learn
    assert [key for key, _ in embedding.named_parameters()] == (["vectors"] if learn else [])
    assert list(embedding.state_dict()) == ["vectors"]
    if name == "learned":
        return
    again = graphs.embeddings.build(name, labels=NIH, **options)()
    assert torch.equal(again, vectors)
    if name != "random":  # the labels decide, not their order
        turned = graphs.embeddings.build(name, labels=NIH[::-1], **options)()
        torch.testing.assert_close((turned @ turned.T).flip(0, 1), vectors @ vectors.T, rtol=1e-4, atol=1e-4)


@st.composite
def counted(draw: st.DrawFn) -> LabelCounts:
    rows = draw(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=20))
    return LabelCounts.of(torch.cat([torch.tensor(rows), torch.eye(5).bool()]), ["a", "b", "c", "d", "e"])


@settings(deadline=None, max_examples=60)
@given(counted(), st.integers(1, 5))
def test_ppmi(counts: LabelCounts, dim: int) -> None:
    vectors = graphs.embeddings.build("ppmi", labels=counts.labels, counts=counts, dim=dim)().double()
    assert vectors.shape == (5, dim)
    assert vectors.square().mean() == pytest.approx(1, rel=1e-5)
    joint = counts.joint.double()
    sums = joint.sum(dim=1)
    information = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            ratio = joint[i, j] * sums.sum() / (sums[i] * sums[j])
            information[i, j] = ratio.log().clamp(min=0) if ratio > 0 else 0
    # U sqrt(S): the columns are orthogonal, their squared norms fall and are the singular values, up to the scale
    gram = vectors.T @ vectors
    values = torch.linalg.svdvals(information)[:dim]
    torch.testing.assert_close(gram / gram.trace(), torch.diag(values / values.sum()), rtol=1e-4, atol=1e-4)
    scale = gram.trace() / values.sum()
    if dim == 5:  # U S^(1/2) S S^(1/2) U^T is M M^T
        whole = vectors @ torch.diag(values) @ vectors.T / scale
        torch.testing.assert_close(whole, information @ information.T, rtol=1e-3, atol=1e-3)
    else:  # fewer columns are the first of all
        more = graphs.embeddings.build("ppmi", labels=counts.labels, counts=counts)().double()[:, :dim]
        fewer = more @ more.T * (values.sum() / (more * more).sum())
        torch.testing.assert_close(vectors @ vectors.T / scale, fewer, rtol=1e-4, atol=1e-4)


def test_ppmi_similarity() -> None:
    """Labels that occur together have similar vectors."""
    targets = torch.tensor([[1, 1, 0, 0]] * 5 + [[0, 0, 1, 1]] * 5 + [[1, 0, 0, 0], [0, 0, 0, 1]])
    counts = LabelCounts.of(targets, ["a", "b", "c", "d"])
    vectors = nn.functional.normalize(graphs.embeddings.build("ppmi", labels=counts.labels, counts=counts)())
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.8
    assert similar[2, 3] > 0.8
    assert similar[:2, 2:].abs().max() < 0.1


def test_ppmi_takes_counts_by_name() -> None:
    by_name = graphs.embeddings.build("ppmi", labels="chexpert5", counts="chexpert5")()
    assert torch.equal(by_name, graphs.embeddings.build("ppmi", labels="chexpert5")())
    written = graphs.counts.build("chexpert5").registry_spec
    assert torch.equal(by_name, graphs.embeddings.build("ppmi", labels="chexpert5", counts=written)())
    assert not torch.equal(by_name, graphs.embeddings.build("ppmi", labels="chexpert5", counts="nih14")())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": ["Mass", "Fracture"]},
            r"no shipped counts have all.*embeddings='onehot'",
        ),
        ({"labels": ["Mass", "Nodule"], "dim": 3}, "dim=3: from 1 to 2, the number of labels"),
        ({"labels": ["Mass", "Nodule"], "dim": 0}, "dim=0"),
        ({"labels": ["Mass"]}, "no information about 'Mass'.*'onehot'"),
        (
            {"labels": ["a", "b"], "counts": LabelCounts.of(torch.tensor([[1, 0]]), ["a", "b"])},
            "no image has 'b'.*'learned'",
        ),
        ({"labels": ["a", "b"], "counts": "nih14"}, "counts have no 'a', 'b'"),
    ],
)
def test_ppmi_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graphs.embeddings.build("ppmi", **options)


def test_shipped_word_vectors() -> None:
    for name in ("nih14", "chexpert5", "mimic14"):
        assert graphs.embeddings.build("word_vectors", labels=name)().shape == (len(thoraxlib.labels.build(name)), 300)
    vectors = graphs.embeddings.build("word_vectors", labels=["Effusion", "pleural effusion", "Pleural_Effusion"])()
    assert not torch.equal(vectors[0], vectors[1])  # the wording decides
    assert torch.equal(vectors[1], vectors[2])
    with pytest.raises(ValueError, match="no shipped vector for 'Scoliosis'; shipped are those of Atelectasis"):
        graphs.embeddings.build("word_vectors", labels=["Mass", "Scoliosis"])


def test_lookup_in_a_file(vectors_file: Path) -> None:
    vectors = read_vectors(vectors_file, ["Edema", "Pleural_Thickening", "Lung Opacity", "pleural"], dim=3)
    # in lower case; the mean over words, each as written before lower case; as one word before its parts
    assert vectors.tolist() == [[1, 0, 0], [0, 1, 2], [5, 5, 5], [9, 9, 9]]
    assert read_vectors(vectors_file, ["OPACITY"], dim=3).tolist() == [[7, 7, 7]]  # capitalised


@pytest.mark.parametrize("ending", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("header", ["", "7 3\n"])
def test_header_and_line_ends(header: str, ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / "v.vec", header=header, ending=ending)
    assert read_vectors(path, ["Edema"], dim=3).tolist() == [[1, 0, 0]]


def test_the_first_of_two_lines_for_a_word_counts(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("mass 1 2\nmass 3 4\n")
    assert read_vectors(tmp_path / "v.txt", ["mass"], dim=2).tolist() == [[1, 2]]


def test_one_number_for_each_word(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("mass 2\nnodule 3\n")
    assert read_vectors(tmp_path / "v.txt", ["nodule", "mass"], dim=1).tolist() == [[3], [2]]


@pytest.mark.parametrize("header", ["", "7 3\n"])
def test_another_width(header: str, tmp_path: Path) -> None:
    path = write(tmp_path / "v.vec", header=header)
    line = 2 if header else 1
    with pytest.raises(ValueError, match=rf"v\.vec:{line}: 3 numbers, not dim=300; is this a file of that width\?"):
        graphs.embeddings.build("file", labels=["Edema"], path=path)
    (tmp_path / "v.vec").write_text("a 1 2\nb 1 2\nc 1 2\nmass 1 2 3\n")
    with pytest.raises(ValueError, match=r"v\.vec:4: 3 numbers, not dim=2"):
        read_vectors(tmp_path / "v.vec", ["mass"], dim=2)


def test_missing_words_and_files(vectors_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no vector for 'Scoliosis' of 'Scoliosis', 'Mass' of 'Lung Mass'$"):
        read_vectors(vectors_file, ["Edema", "Scoliosis", "Lung Mass"], dim=3)
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "absent.txt", ["Edema"], dim=3)
    (tmp_path / "v.txt").write_text("edema 1 x 3\n")
    with pytest.raises(ValueError, match=r"v\.txt:1: could not convert"):
        read_vectors(tmp_path / "v.txt", ["Edema"], dim=3)
    with pytest.raises(OptionError, match="'file' needs 'path'"):
        graphs.embeddings.build("file", labels=["Edema"])


def test_vectors_without_a_file_are_loaded_with_the_weights() -> None:
    empty = graphs.embeddings.build("file", labels=["a", "b"], path=None, dim=4)
    assert torch.equal(empty(), torch.zeros(2, 4))
    ready = Embedding(torch.randn(2, 4), learn=True)
    again = graphs.embeddings.registry.resolve(ready.registry_spec, labels=["a", "b"])
    again.load_state_dict(ready.state_dict())
    assert torch.equal(again(), ready())
    assert isinstance(again.vectors, nn.Parameter)


@pytest.mark.parametrize("vectors", [torch.zeros(3), torch.zeros(3, 0), torch.full((2, 2), float("nan"))])
def test_invalid_vectors(vectors: Tensor) -> None:
    with pytest.raises(ValueError, match=r"vectors must be finite and \(K, F\), got"):
        Embedding(vectors)


@pytest.mark.parametrize("name", ["learned", "random", "file"])
def test_invalid_width(name: str) -> None:
    with pytest.raises(ValueError, match="dim=0: at least 1"):
        graphs.embeddings.build(name, labels=["a"], dim=0, **({"path": None} if name == "file" else {}))


def test_random_vectors_follow_the_seed() -> None:
    first, second = (graphs.embeddings.build("random", labels=NIH, seed=seed)() for seed in (1, 2))
    assert not torch.equal(first, second)
    assert first.std() == pytest.approx(1, abs=0.1)
