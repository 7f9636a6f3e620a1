"""Score an archive of any size with any model: one row per image, and boxes on request.

    python examples/score_archive.py /data/images --model outputs/chexnet/model --output outputs/scores
    python examples/score_archive.py gs://bucket/images "more/*/*.zip" --model chexnet --option labels=nih14 \
        --checkpoint model.pth.tar --output outputs/scores --processes 2 --num-workers 4 --precision bf16-mixed
    torchrun --nproc-per-node 8 examples/score_archive.py list.csv --model owner/name --output scores --boxes

Sources are folders, zip archives, patterns, buckets, a training copy of `thoraxlib prepare`, or a table with a column
`path`. After a kill at any moment, the same command resumes, also with another number of processes. Several machines
can share one output folder: `--shard 0/3`, `--shard 1/3`, ... `thoraxlib.archives.score_archive` describes the output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import thoraxlib
from thoraxlib.archives import Scored, score_archive
from thoraxlib.cli import window_of
from thoraxlib.utils.workers import cpus, follow_parent

OWN = ("model", "option", "checkpoint", "labels", "processes")  # flags that are not options of score_archive


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 after an error. An image that cannot be read is a row with its error."""
    flags = parser()
    options = flags.parse_args(argv)
    if options.processes > 1 and options.shard is not None:
        flags.error("--processes starts all shards on this machine: give one of it and --shard")
    try:
        if options.processes > 1:
            return in_processes(options)
        report(score(options))
        return 0
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags."""
    flags = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flags.add_argument("source", nargs="+", help="folders, zip archives, patterns, buckets, a table .csv, or a copy")
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    model = flags.add_argument_group("model")
    model.add_argument("--model", required=True, help="a folder or Hub repository of save_pretrained, or a name")
    model.add_argument("--option", nargs="+", default=[], metavar="KEY=VALUE", help="for a name: JSON values, or text")
    model.add_argument("--checkpoint", help="for a name: published weights, in any supported layout")
    model.add_argument("--labels", nargs="+", help="the checkpoint's labels in its order, unless its layout says them")
    images = flags.add_argument_group("images")
    images.add_argument("--pattern", help="pattern of file names; by default *.png, *.jpg, *.jpeg, *.dcm, *.dicom")
    images.add_argument("--bits", type=int, help="bits in use in deep PNG files (16)")
    images.add_argument(
        "--window", type=window_of, help="bits, percentiles, minmax, CENTRE,WIDTH, or a number for DICOM"
    )
    boxes = flags.add_argument_group("boxes")
    boxes.add_argument("--boxes", action="store_true", help="boxes of the findings above the threshold, as COCO JSON")
    boxes.add_argument("--method", help="heat map; by default the model's own")
    boxes.add_argument("--rule", help="from heat map to boxes; by default that of thoraxlib.explain")
    boxes.add_argument("--threshold", type=float, default=0.5)
    run = flags.add_argument_group("run")
    run.add_argument(
        "--processes", type=int, default=1, help="scoring processes on this machine, each with a GPU if there is one"
    )
    run.add_argument("--shard", type=shard_of, metavar="I/N", help="shard of this process; by default that of torchrun")
    run.add_argument("--batch-size", type=int, default=32)
    run.add_argument("--num-workers", type=int, default=0, help="processes that read images, per scoring process")
    run.add_argument("--part-size", type=int, default=4096, help="images in a file")
    run.add_argument("--device", help="by default the GPU where there is one")
    run.add_argument("--precision", default="32-true", choices=("32-true", "16-mixed", "bf16-mixed"), help="precision")
    run.add_argument("--overwrite", action="store_true", help="remove the files of an earlier run in --output")
    run.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return flags


def shard_of(text: str) -> tuple[int, int]:
    """Parse "i/n" to (i, n)."""
    i, n = map(int, text.split("/"))
    return i, n


def build(options: argparse.Namespace) -> nn.Module:
    """Build a documented model by name, with the weights of a checkpoint, or load a saved model."""
    if options.model not in thoraxlib.names():
        if options.option or options.checkpoint or options.labels:
            raise ValueError(f"--option, --checkpoint and --labels are for models by name, {options.model} is none")
        return thoraxlib.load_pretrained(options.model)
    torch.manual_seed(0)  # weights that a checkpoint does not have are the same in each process
    model = thoraxlib.build(options.model, **dict(map(option_of, options.option)))
    if options.checkpoint:
        one_set = options.labels and options.labels[0] in thoraxlib.labels.names()
        labels = options.labels[0] if one_set else options.labels
        thoraxlib.load_checkpoint(model, options.checkpoint, labels=labels)
    return model.eval()


def option_of(text: str) -> tuple[str, Any]:
    """Parse "key=value"; the value is JSON or text."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def score(options: argparse.Namespace, **changes: Any) -> Scored:
    """Score this process's shard."""
    settings = {key: value for key, value in vars(options).items() if key not in OWN}
    return score_archive(build(options), **{**settings, **changes})


def in_processes(options: argparse.Namespace) -> int:
    """Score all shards, each in its own process; return the highest exit status."""
    if options.overwrite:
        raise ValueError(f"--overwrite is for one process: delete {options.output} first, and start again without it")
    start = multiprocessing.get_context("spawn")
    started = [start.Process(target=one_of, args=(options, i)) for i in range(options.processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return max(abs(process.exitcode or 0) for process in started)


def one_of(options: argparse.Namespace, i: int) -> None:
    """Score the i-th shard; end with the parent process."""
    follow_parent()
    os.environ["LOCAL_RANK"] = str(i)
    torch.set_num_threads(max(1, cpus() // options.processes))
    try:
        report(score(options, shard=(i, options.processes)))
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def report(scored: Scored) -> None:
    """Print the result once all images are scored."""
    if scored.complete:
        print(f"written: {scored.folder}/ ({scored.images} images, of which {scored.failed} could not be read)")


if __name__ == "__main__":
    sys.exit(main())
