"""Logs that outlive an interruption, without Lightning's hints."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from thoraxlib.utils.files import replacing

_NOISE = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory.*exists.*",
    ".*Experiment logs directory.*exists.*",
    # a frozen segmenter's
    ".*module.s. in eval mode at the start of training.*",
    # of Lightning's own calls
    ".*isinstance.treespec, LeafSpec.*",
    ".*torch.distributed.nn.functional.all_gather.*is deprecated.*",
)


class EpochTable(CSVLogger):  # type: ignore[misc]
    """``logs/metrics.csv``, in which a resumed run goes on; Lightning's logger removes an earlier table.

    Parameters
    ----------
    output : Path
        Folder of the run.
    until : int
        The last epoch whose rows stay; -1 for none.
    """

    def __init__(self, output: Path, until: int) -> None:
        super().__init__(output, name="logs", version="")
        path = Path(self.log_dir) / "metrics.csv"
        if rank_zero_only.rank or until < 0 or not path.exists():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= until]
        if not rows:
            return
        with quiet():
            table = self.experiment  # made here, it removes the file here
        table.metrics_keys = list(rows[0])
        with replacing(path) as scratch, scratch.open("w", newline="") as file:
            writer = csv.DictWriter(file, table.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's hints, which are for its own interface."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
