"""Addresses of images that tables give."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from thoraxlib.utils.files.names import below

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_LOCAL = ("file", "local")


def address(name: str, table: str) -> str:
    """Resolve the address of the image that a row of a table names, if a table may name it.

    A table may come from anybody, and fsspec opens more than files: web pages, archives in archives, code in templates.
    So a row names a path below the table's folder, or an object in a bucket (s3, s3a, gs, gcs, az, abfs, abfss). A
    table on this machine may name any file of this machine by its absolute path, with or without ``file://``.

    Parameters
    ----------
    name : str
        What the row says.
    table : str
        Path or URL of the table, as the caller gave it.

    Raises
    ------
    ValueError
        Another scheme, a chain of addresses (``::``), ``~``, a relative path that leaves the folder of the table, or a
        path of this machine in a table that is elsewhere.

    Examples
    --------
    >>> address("a/x.png", "lists/table.csv"), address("gs://bucket/x.png", "table.csv")
    ('lists/a/x.png', 'gs://bucket/x.png')
    >>> address("a/x.png", "gs://bucket/lists/table.csv")
    'gs://bucket/lists/a/x.png'
    >>> address("http://host/x.png", "table.csv")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: table.csv: 'http://host/x.png' has the scheme 'http'; a table names files, or objects of s3, ...
    """
    scheme, separator, rest = name.partition("://")
    if "::" in name or "\0" in name:
        raise ValueError(f"{table}: {name!r} has '::', which chains addresses, or NUL; a table names one file a row")
    if separator and scheme in _BUCKETS:
        return name
    if separator and scheme != "file":
        allowed = ", ".join(_BUCKETS)
        raise ValueError(f"{table}: {name!r} has the scheme {scheme!r}; a table names files, or objects of {allowed}")
    path = rest if separator else name
    if separator or os.path.isabs(path):
        if not _is_local(table) or not os.path.isabs(path) or path.startswith(("//", "\\\\")):
            raise ValueError(f"{table}: {name!r} is no file that a table at that address may name")
        return name
    if name.startswith("~"):
        raise ValueError(f"{table}: {name!r} begins with '~', which stands for no folder here; './~x' is a file's name")
    below(name, table)
    if "://" in table:
        return f"{table.rpartition('/')[0]}/{PurePosixPath(name)}"
    return str(PurePosixPath(os.path.dirname(table) or ".") / name)


def _is_local(url: str) -> bool:
    scheme, separator, _ = url.partition("://")
    return not separator or scheme in _LOCAL
