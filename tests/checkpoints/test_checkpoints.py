from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import checkpoints
from thoraxlib.checkpoints import CheckpointError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    from torchvision import models

    torch.manual_seed(0)
    net = models.densenet121(num_classes=14)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.eval()


def old_names(state: State) -> State:
    """As torchvision before 0.2.1 and torch before 0.4.1 wrote them."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def sigmoid_head(state: State) -> State:
    return {key.replace("classifier.", "classifier.0."): value for key, value in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


VARIANTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "arnoweng": (
        lambda s: {"state_dict": prefixed("module.densenet121.", sigmoid_head(old_names(s)))},
        "chexnet_arnoweng",
    ),
    "arnoweng_no_data_parallel": (lambda s: prefixed("densenet121.", sigmoid_head(s)), "chexnet_arnoweng"),
    "zoogzog": (
        lambda s: {
            "epoch": 12,
            "state_dict": prefixed("module.densenet121.", sigmoid_head(old_names(s))),
            "best_loss": 0.1,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        },
        "chexnet_arnoweng",
    ),
    "jrzech": (lambda s: {"state_dict": sigmoid_head(s)}, "chexnet_jrzech"),
    "jrzech_old": (lambda s: sigmoid_head(old_names(s)), "chexnet_jrzech"),
    "jaydurant": (lambda s: prefixed("base_model.", s), "jaydurant"),
    "torchvision": (lambda s: s, "plain"),
    "torchvision_old": (lambda s: {"state_dict": prefixed("module.", old_names(s))}, "plain"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_public_chexnet_layouts(densenet: nn.Module, variant: str, legacy: bool, tmp_path: Path) -> None:
    make, layout = VARIANTS[variant]
    path = tmp_path / "model.pth.tar"
    torch.save(make(dict(densenet.state_dict())), path, _use_new_zipfile_serialization=not legacy)
    model = thoraxlib.build("chexnet").eval()
    assert thoraxlib.load_checkpoint(model, path, labels=model.labels) == layout
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), densenet(x))


def test_the_old_file_has_the_counts_of_the_spec(densenet: nn.Module) -> None:
    new, old = densenet.state_dict(), old_names(dict(densenet.state_dict()))
    assert len(new) == 727
    assert len(old) == 606
    assert len(set(old) - set(new)) == 580
    modern = checkpoints.layout.renaming(checkpoints.layout.OLD_DENSENET)(old)
    assert set(modern) == {key for key in new if not key.endswith("num_batches_tracked")}


def test_safetensors_and_own_state_dicts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = thoraxlib.build("chexnet", backbone="resnet10t")
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    torch.save({"state_dict": prefixed("model.", {**source.state_dict()})}, tmp_path / "lightning.ckpt")
    for name in ("own.safetensors", "lightning.ckpt"):
        model = thoraxlib.build("chexnet", backbone="resnet10t")
        assert thoraxlib.load_checkpoint(model, tmp_path / name, labels=model.labels) == "thoraxlib"
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("backbone", "factory"),
    [
        ("resnet18", "resnet18"),
        pytest.param("vgg11_bn", "vgg11_bn", marks=pytest.mark.slow),
        ("alexnet", "alexnet"),
        ("googlenet", "googlenet"),
    ],
)
def test_backbone_only_takes_imagenet_weights(backbone: str, factory: str) -> None:
    from torchvision import models

    options = {"init_weights": False, "aux_logits": False} if factory == "googlenet" else {}
    theirs = getattr(models, factory)(**options).state_dict()
    model = thoraxlib.build("chexnet", backbone=backbone)
    before = model.head.fc.weight.clone()
    with pytest.warns(UserWarning, match=r"entries of the checkpoint are not loaded: .*the last layer's\.bias"):
        thoraxlib.load_checkpoint(model, theirs, backbone_only=True)
    assert torch.equal(model.head.fc.weight, before)
    first = next(iter(model.backbone.parameters()))
    assert torch.equal(first, next(iter(theirs.values())))


def unchanged(model: nn.Module) -> Callable[[], bool]:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    return lambda: all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_number_of_outputs(densenet: nn.Module) -> None:
    state = dict(densenet.state_dict())
    state["classifier.weight"], state["classifier.bias"] = state["classifier.weight"][:8], state["classifier.bias"][:8]
    model = thoraxlib.build("chexnet")
    same = unchanged(model)
    with pytest.raises(
        CheckpointError,
        match=r"(?s)2 entries have another shape.*8 outputs, the model 14: build it with its labels, or",
    ):
        thoraxlib.load_checkpoint(model, state, labels=model.labels)
    assert same()


def test_another_architecture(densenet: nn.Module) -> None:
    model = thoraxlib.build("chexnet", backbone="resnet10t")
    same = unchanged(model)
    with pytest.raises(
        CheckpointError, match=r"(?s)nothing was loaded.*entries get no value.*have no place in the model"
    ) as caught:
        thoraxlib.load_checkpoint(model, dict(densenet.state_dict()))
    assert "725 entries of the checkpoint have no place" in str(caught.value)
    assert same()
    with pytest.raises(CheckpointError, match="get no value"):
        thoraxlib.load_checkpoint(model, dict(densenet.state_dict()), backbone_only=True)
    assert same()


def test_one_missing_and_one_extra_entry(densenet: nn.Module) -> None:
    state = dict(densenet.state_dict())
    state["features.surprise.weight"] = state.pop("features.norm0.bias")
    model = thoraxlib.build("chexnet")
    same = unchanged(model)
    with pytest.raises(
        CheckpointError,
        match=r"(?s)1 of the model's.*norm0\.bias.*1 entries of the checkpoint.*features\.surprise\.weight",
    ):
        thoraxlib.load_checkpoint(model, state)
    assert same()


def test_unknown_layout_and_wrong_layout(densenet: nn.Module) -> None:
    model = thoraxlib.build("chexnet")
    with pytest.raises(
        CheckpointError, match=r"not recognised; it has 1 entries such as something\.weight.*Known layouts"
    ):
        thoraxlib.load_checkpoint(model, {"something.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="did you mean 'chexnet_arnoweng'"):
        thoraxlib.load_checkpoint(model, dict(densenet.state_dict()), layout="chexnet_arnowen")


def test_different_aliases_give_a_warning() -> None:
    from torchvision import models

    net = models.resnet50(num_classes=22)
    state = prefixed("base_model.", dict(net.state_dict()))
    aliases = {key: value for key, value in net.state_dict().items() if key.startswith(("layer4.", "fc."))}
    assert len(aliases) == 62
    model = thoraxlib.build("unified_dcnn", preset="jaydurant")
    thoraxlib.load_checkpoint(model, {**aliases, **state})
    with pytest.warns(UserWarning, match="1 alias entries differ"):
        thoraxlib.load_checkpoint(model, {**aliases, "fc.bias": aliases["fc.bias"] + 1, **state})
    assert torch.equal(model.head.fc.bias, state["base_model.fc.bias"])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


def test_hostile_and_broken_files(densenet: nn.Module, tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet")
    same = unchanged(model)
    bomb = tmp_path / "bomb.pth"
    bomb.write_bytes(pickle.dumps({"state_dict": Bomb()}))
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb2.pth")
    torch.save({"model": densenet}, tmp_path / "jrzech")
    whole = tmp_path / "whole.pth"
    torch.save(dict(densenet.state_dict()), whole)
    (tmp_path / "truncated.pth").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"lr": 1.0}, tmp_path / "other.pth")
    for name, message in {
        "bomb.pth": "",
        "bomb2.pth": "allow_pickle",
        "jrzech": "whole pickled module.*allow_pickle=True",
        "truncated.pth": "truncated",
        "empty.pth": "truncated",
        "text.safetensors": "no readable safetensors",
        "list.pth": "expected a state dict",
        "other.pth": "expected a state dict.*'lr'",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            thoraxlib.load_checkpoint(model, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        thoraxlib.load_checkpoint(model, tmp_path / "absent.pth")
    assert same()


def test_allow_pickle_reads_jrzechs_module(densenet: nn.Module, tmp_path: Path) -> None:
    import copy

    net = copy.deepcopy(densenet)
    net.classifier = nn.Sequential(net.classifier, nn.Sigmoid())
    torch.save({"model": net, "best_loss": 0.1, "epoch": 3}, tmp_path / "checkpoint")
    model = thoraxlib.build("chexnet", preset="jrzech").eval()
    assert thoraxlib.load_checkpoint(model, tmp_path / "checkpoint", allow_pickle=True) == "chexnet_jrzech"
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x).sigmoid(), net(x))


def test_x_ray_files(tmp_path: Path) -> None:
    """Wrapped as its trainer does, from several GPUs, and with DenseNet's head of before April 2021."""
    from formulas import load_record, state_dict

    state = state_dict(load_record("x_ray_densenet121.json"))
    older = {key.replace("img_model.classifier.0.", "FF.0."): value for key, value in state.items()}
    older |= {"img_model.classifier.weight": torch.ones(1000, 1024), "img_model.classifier.bias": torch.ones(1000)}
    x = torch.randn(1, 3, 64, 64)
    outputs = []
    for number, content in enumerate((state, older, prefixed("module.", state))):
        path = tmp_path / f"{number}.pth"
        torch.save({"epoch": 3, "model_state_dict": content, "best_va_acc": 0.8}, path)
        model = thoraxlib.build("x_ray", preset="densenet121").eval()
        assert thoraxlib.load_checkpoint(model, path) == "x_ray"
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_jfhealthcare_files(tmp_path: Path) -> None:
    """Bare, as published; wrapped, as its trainer does; and without the counters of batches."""
    from formulas import load_record, state_dict

    state = state_dict(load_record("jfhealthcare_densenet121_top1.json"))
    bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    x = torch.randn(1, 3, 64, 64)
    outputs = []
    for number, content in enumerate((state, {"epoch": 2, "step": 9, "state_dict": prefixed("module.", state)}, bare)):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        model = thoraxlib.build("jf_top1").eval()
        assert thoraxlib.load_checkpoint(model, path) == "jfhealthcare"
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "once"}, "the model's .* entries get no value: neck"),
        ({"pool": "avg"}, r"another shape.*head.fc.weight \(5, 2048\) -> \(5, 1024\)"),
        ({"attention": "channel_attention", "labels": "nih14"}, "build it with labels='chexpert5'"),
    ],
)
def test_a_network_that_jfhealthcare_s_weights_do_not_fit(options: dict[str, Any], message: str) -> None:
    from formulas import load_record, state_dict

    model = thoraxlib.build("jf_top1", **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.compile(message, re.DOTALL)):
        thoraxlib.load_checkpoint(model, state_dict(load_record("jfhealthcare_densenet121_top1.json")))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- the order of the labels -------------------------------------------------------------------------------------------


def resnet(labels: str | list[str]) -> nn.Module:
    return thoraxlib.build("chexnet", backbone="test_resnet", labels=labels, input_spec={"size": 32})


@pytest.mark.parametrize("layout", ["thoraxlib", "plain"])
def test_a_file_without_names_needs_labels(layout: str) -> None:
    import timm

    theirs = resnet("nih14_alphabetical")
    state = (
        theirs.state_dict() if layout == "thoraxlib" else timm.create_model("test_resnet", num_classes=14).state_dict()
    )
    model = resnet("nih14")
    same = unchanged(model)
    with pytest.raises(CheckpointError, match=rf"layout '{layout}' does not say.*pass labels=model\.labels"):
        thoraxlib.load_checkpoint(model, state)
    with pytest.raises(CheckpointError, match=r"in this order; the model has.*build it with 'nih14_alphabetical'"):
        thoraxlib.load_checkpoint(model, state, labels="nih14_alphabetical")
    with pytest.raises(CheckpointError, match="does not say which labels"):  # of another number
        thoraxlib.load_checkpoint(model, state, labels="nih8")
    with pytest.raises(KeyError, match="nih14_alphabetical"):
        thoraxlib.load_checkpoint(model, state, labels="nih14_alphabetic")
    assert same()
    thoraxlib.load_checkpoint(model, state, backbone_only=True)
    assert thoraxlib.load_checkpoint(theirs, state, labels="nih14_alphabetical") == layout
    assert thoraxlib.load_checkpoint(theirs, state, labels=list(theirs.labels)) == layout


@pytest.mark.parametrize("variant", ["zoogzog", "jrzech", "arnoweng"])
def test_a_published_layout_knows_its_labels(variant: str, densenet: nn.Module) -> None:
    state = VARIANTS[variant][0](dict(densenet.state_dict()))
    for labels in ("nih14_alphabetical", "chexpert14"):
        model = thoraxlib.build("chexnet", labels=labels)
        with pytest.raises(
            CheckpointError, match=r"has the labels \('Atelectasis', 'Cardiomegaly', .*build it with 'nih14'"
        ):
            thoraxlib.load_checkpoint(model, state)
        thoraxlib.load_checkpoint(model, state, labels=labels)  # a fork with other labels


def test_the_hint_takes_no_label_set_from_a_number(densenet: nn.Module) -> None:
    state = dict(densenet.state_dict())
    with pytest.raises(CheckpointError, match="14 outputs, the model 8: build it with its labels, or") as caught:
        thoraxlib.load_checkpoint(thoraxlib.build("chexnet", labels="nih8"), state)
    assert "nih14" not in str(caught.value)
    sigmoid = VARIANTS["jrzech"][0](state)
    with pytest.raises(CheckpointError, match="14 outputs, the model 8: build it with labels='nih14', or"):
        thoraxlib.load_checkpoint(thoraxlib.build("chexnet", labels="nih8"), sigmoid)
