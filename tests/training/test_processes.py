"""Two processes that torchrun starts: one validation, one writer, and a run that goes on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
HERE, EXAMPLES = Path(__file__).parent, Path(__file__).parents[2] / "examples"

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from samples import Images, Net, to_float
from lightning.pytorch import Callback
from thoraxlib import training

class Killed(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == 2 and trainer.global_rank == 1 and not (out / "killed").exists():
            (out / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

def fit(folder, callbacks=()):
    torch.manual_seed(0)
    data = training.DataModule(
        Images(40), Images(33, seed=1), batch_size=4, train_transform=to_float, eval_transform=to_float
    )
    return training.fit(
        Net(), data, output=out / folder, epochs=4, accelerator="cpu", devices="2", num_nodes=1, strategy="auto",
        accumulate=2, precision="32-true", progress=False, callbacks=callbacks,
    )

@training.first_process
def write(score):
    with (out / "written").open("a") as file:
        file.write(f"{os.environ['RANK']}\\n")
    return {"score": score, "by": os.environ["RANK"]}

def main():
    whole = fit("whole")
    result = fit("killed", [Killed()])
    found = training.predict(result.model, Images(33, seed=1), transform=to_float, progress=False)
    shared = write(result.score)
    torch.save(
        {"whole": whole.model.state_dict(), "resumed": result.model.state_dict(), "scores": [whole.score, result.score],
         "shared": shared, "logits": found.logits, "targets": found.targets, "first": training.is_first_process(),
         "world": result.trainer.world_size},
        out / f"rank{os.environ['RANK']}.pt",
    )

if __name__ == "__main__":
    out = Path(sys.argv[1])
    main()
"""


def torchrun(*command: str, restarts: int = 0, cwd: Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    return subprocess.run(
        [*launch, *where, *command], capture_output=True, text=True, timeout=900, cwd=cwd, env=environment
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback has another name")
def test_killed_and_resumed_it_ends_as_it_would_have(tmp_path: Path) -> None:
    from thoraxlib import metrics

    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(HERE)!r})\n{SCRIPT}")
    done = torchrun(str(script), str(tmp_path), restarts=1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [each["first"] for each in ranks] == [True, False]
    for each in ranks:
        assert each["world"] == 2
        assert each["shared"] == {"score": ranks[0]["scores"][1], "by": "0"}
        assert each["scores"][0] == each["scores"][1] == ranks[0]["scores"][0]
        for name, value in each["resumed"].items():
            assert torch.equal(value, ranks[0]["whole"][name])
    assert (tmp_path / "written").read_text() == "0\n"
    # 33 images on two processes: one is seen twice and counts once
    scores = metrics.auroc(ranks[0]["targets"], ranks[0]["logits"])
    assert scores.mean() == pytest.approx(ranks[0]["scores"][0], abs=1e-6)
    assert (tmp_path / "whole" / "logs" / "metrics.csv").read_text() == (
        tmp_path / "killed" / "logs" / "metrics.csv"
    ).read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback has another name")
def test_an_example(tmp_path: Path) -> None:
    flags = [
        "--data",
        "synthetic",
        "--num-images",
        "24",
        "--size",
        "32",
        "--backbone",
        "resnet10t",
        "--labels",
        "Mass",
        "Edema",
    ]
    flags += ["--epochs", "1", "--batch-size", "4", "--weights", "none", "--no-progress", "--device", "cpu"]
    done = torchrun(str(EXAMPLES / "chexnet.py"), *flags, "--devices", "2", "--accumulate", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: outputs/chexnet/") == 1
    assert done.stdout.count("published") == 2
    folder = tmp_path / "outputs" / "chexnet"
    assert {"metrics.csv", "panel.png", "model", "checkpoints", "logs", "config.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert json.loads((folder / "config.json").read_text())["accumulate"] == 2
    assert not list(folder.rglob("*.part.*"))
