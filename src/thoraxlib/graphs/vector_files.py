"""Text files of word vectors: GloVe's, and fastText's ``.vec``."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.utils.files import open_regular


def read_vectors(path: str | os.PathLike[str], labels: str | Sequence[str], *, dim: int = 300) -> Tensor:
    """Label vectors, float32 (K, dim), from a text file with a word and its numbers in each line.

    A label is looked up as it is written; failing that as the mean over its words, split at blanks and underscores,
    each as it is written, in lower case, or capitalised, in this order.

    Parameters
    ----------
    path : path
        UTF-8; a first line with two numbers, as fastText has it, is skipped.
    labels : str or sequence of str
        What to look up.
    dim : int
        Numbers in each line.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A line of another width, with its number; words that the file lacks, with their labels.
    """
    nodes = label_sets.resolve(labels)
    phrases = {label: label.replace("_", " ").split() for label in nodes}
    spellings = {word: (word, word.lower(), word.capitalize()) for words in phrases.values() for word in words}
    wanted = {label.replace(" ", "_") for label in nodes} | {s for forms in spellings.values() for s in forms}
    found = _vectors_of(wanted, Path(path), dim)
    vectors, lost = [], []
    for label in nodes:
        whole = found.get(label.replace(" ", "_"))
        words = [next((found[s] for s in spellings[word] if s in found), None) for word in phrases[label]]
        known = [vector for vector in words if vector is not None]
        if whole is not None:
            vectors.append(whole)
        elif len(known) == len(words):
            vectors.append(torch.stack(known).mean(dim=0))
        else:
            lost += [f"{w!r} of {label!r}" for w, v in zip(phrases[label], words, strict=True) if v is None]
    if lost:
        raise ValueError(f"{path} has no vector for {', '.join(lost)}")
    return torch.stack(vectors)


def _vectors_of(wanted: Collection[str], path: Path, dim: int) -> dict[str, Tensor]:
    """The vectors of those of the words that the file has; the first of each."""
    found: dict[str, Tensor] = {}
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word not in wanted and number > 2:  # the first lines tell the file's width
                continue
            values = rest.split()
            if number == 1 and dim > 1 and len(values) == 1:
                continue
            if len(values) != dim:
                raise ValueError(
                    f"{path}:{number}: {len(values)} numbers, not dim={dim}; is this a file of that width?"
                )
            if word in wanted and word not in found:
                found[word] = _vector(values, word, f"{path}:{number}")
    return found


def _vector(values: Sequence[str], word: str, where: str) -> Tensor:
    try:
        vector = torch.tensor([float(value) for value in values])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not vector.isfinite().all():
        raise ValueError(f"{where}: the vector of {word!r} holds NaN or infinite numbers")
    return vector
