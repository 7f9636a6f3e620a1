"""What the fuzzing tests share: how content is damaged, and what a function may do about it.

By default a few examples, the same in every run; ``THORAXLIB_FUZZ=2000 pytest tests/fuzz`` tries as many new ones.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T")

_EXAMPLES = int(os.environ.get("THORAXLIB_FUZZ") or 0)

#: Of a fuzzing test. Several tests use one folder for all their examples: each writes its files anew.
FEW = settings(
    max_examples=_EXAMPLES or 8,
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

#: Cells, keys and names as no release has them.
ODD_TEXTS = st.sampled_from(
    (
        *(
            "",
            " ",
            "nan",
            "NaN",
            "inf",
            "-inf",
            "-1",
            "2",
            "1e999",
            "-0",
            "0x10",
            "٣",
            "9" * 400,
            "1" * 5000,
            "x" * 140_000,
        ),
        *(
            "../../../etc/passwd",
            "/etc/passwd",
            "C:x.png",
            "..\\..\\x.png",
            "\\\\host\\x",
            "a/../../b",
            ".",
            "..",
            "a\0b",
        ),
        *(
            "'",
            '"',
            '"""',
            "[[[[",
            "[" * 5000,
            "{[]: 1}",
            "['a' 'b'",
            "\\",
            "\u2028",
            "\ufeff",
            "é",
            "|",
            "||",
            ",",
            ";",
            "\t",
        ),
        *(
            "\n",
            "\r",
            "None",
            "null",
            "true",
            "%s",
            "{}",
            "=1+1",
            "-" * 300,
            "\x85",
            "🫁",
            "file.png",
            "Mass|",
            "1|2|3",
        ),
    )
) | st.text(max_size=8)

ODD_BYTES = st.sampled_from(
    (
        b"",
        b"\0",
        b"\xff",
        b"\xff" * 8,
        b"\0" * 64,
        b"\x80\x02",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"<!",
        b"]]>",
        b"&#0;",
        b'"',
    )
) | st.binary(max_size=6)

ODD_VALUES = (
    st.sampled_from((None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e-300, "", "x", [], {}, [[]], [None]))
    | st.floats()
    | ODD_TEXTS.filter(lambda text: len(text) < 1000)
)


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """`content` cut off, or with a few places overwritten, left out, doubled or put in."""
    result = content
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(result)))
        stop = min(len(result), start + draw(st.sampled_from((0, 1, 1, 2, 4, 8, 64, 1 << 20))))
        kind = draw(st.sampled_from(("overwrite", "flip", "cut", "double", "leave out")))
        if kind == "overwrite":
            result = result[:start] + draw(ODD_BYTES) + result[stop:]
        elif kind == "flip" and start < len(result):
            result = result[:start] + bytes([result[start] ^ (1 << draw(st.integers(0, 7)))]) + result[start + 1 :]
        elif kind == "cut":
            result = result[:start]
        elif kind == "double":
            result = result[:stop] + result[start:]
        else:
            result = result[:start] + result[stop:]
    return result


@st.composite
def odd_table(draw: Any, text: str, delimiter: str = ",") -> bytes:
    """A table with odd cells, rows that are short, long, doubled or gone, or damaged as bytes."""
    rows = [line.split(delimiter) for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        kind = draw(st.sampled_from(("cell", "cell", "cell", "cell", "column", "short", "long", "double", "gone")))
        column = draw(st.integers(0, max(len(rows[row]) - 1, 0)))
        if kind == "cell" and rows[row]:
            rows[row][column] = draw(ODD_TEXTS)
        elif kind == "column":
            odd = draw(ODD_TEXTS)
            rows = [rows[0], *([*cells[:column], odd, *cells[column + 1 :]] for cells in rows[1:])]
        elif kind == "short":
            rows[row] = rows[row][:column]
        elif kind == "long":
            rows[row] = [*rows[row], draw(ODD_TEXTS)]
        elif kind == "double":
            rows.append(list(rows[row]))
        elif len(rows) > 1:
            del rows[row]
    content = "\n".join(delimiter.join(cells) for cells in rows).encode("utf-8", "surrogatepass")
    return draw(damaged(content)) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def odd_json(draw: Any, content: Any) -> Any:
    """JSON content in which a few values are replaced, left out or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(content))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(("value", "value", "value", "gone", "double")))
        if kind == "value":
            holder[key] = draw(ODD_VALUES)
        elif kind == "gone":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        if not content:
            break
    return content


def _places(content: Any) -> Any:
    """(container, key) of every value."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def refused(call: Callable[[], T], *named: str) -> T | None:
    """What `call` gives; None where it raises what is documented, with one of the names in its message."""
    try:
        return call()
    except (ValueError, TypeError, KeyError, OSError) as error:
        if type(error) is KeyError or not any(name in str(error) for name in named):
            raise AssertionError(f"no one of {named} is named in {type(error).__name__}: {str(error)[:300]}") from error
    return None
