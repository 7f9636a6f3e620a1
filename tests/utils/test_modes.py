"""Views of a model in eval mode, while the model stays in training mode."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import thoraxlib
from thoraxlib.models.tta import TenCrop
from thoraxlib.utils.modes import eval_view, shared_copy


class Block(nn.Module):
    """Batch norm and dropout, whose outputs depend on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layers(x).mean(dim=(2, 3)))
        return logits


class ByAttributes(Block):
    """Runs its modules through a list, a dictionary and a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.order = [self.layers, {"fc": self.fc}]
        self.pooled = self.mean

    def mean(self, x: Tensor) -> Tensor:
        return self.order[0](x).mean(dim=(2, 3))  # type: ignore[no-any-return, operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.order[1]["fc"](self.pooled(x))  # type: ignore[no-any-return, index]


class Remembering(Block):
    """Hooks that are its own methods, and an output that it keeps, with its graph."""

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept = output

    def forward(self, x: Tensor) -> Tensor:
        self.layers(x)
        logits: Tensor = self.fc(self.kept.mean(dim=(2, 3)))
        return logits


class Merging(Block):
    """Changes its weights in eval mode and back in training mode, as adapters of low rank do."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.fc.weight.data += -1 if mode else 1
        self.merged = not mode
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc.weight if self.merged else self.fc.weight + 1
        return nn.functional.linear(self.layers(x).mean(dim=(2, 3)), weight, self.fc.bias)


class Recurrent(Block):
    """A recurrent layer, which holds its weights in a list too."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True, num_layers=2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.rnn(self.layers(x).flatten(2).transpose(1, 2))[0].mean(dim=1))
        return logits


def parametrized() -> nn.Module:
    net = Block()
    parametrizations.weight_norm(net.fc)
    parametrizations.spectral_norm(net.layers[0])
    return net


def tied() -> nn.Module:
    net = Block()
    net.layers.append(net.layers[1])  # one batch norm, twice
    return net


def with_a_view_of_weights() -> nn.Module:
    net = Block()
    net.__dict__["doubled"] = net.fc.weight * 2  # has a graph: cannot be copied, and need not be
    return net


NETS = [Block, ByAttributes, Remembering, Recurrent, parametrized, tied, with_a_view_of_weights]


def trained(make: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = make()
    for _ in range(3):
        net.train()(torch.randn(4, 3, 8, 8) * 2 + 1)
    return net


@pytest.mark.parametrize("make", NETS)
def test_a_view_computes_in_eval_mode_and_changes_nothing(make: Any) -> None:
    net, x = trained(make), torch.randn(2, 3, 8, 8)
    net.fc.eval()  # some parts may be frozen
    modes = [module.training for module in net.modules()]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    view = eval_view(net)
    assert view is not net
    found = view(x)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(found, net.eval()(x), rtol=0, atol=0)
    assert type(view) is type(net)


@pytest.mark.parametrize("make", NETS)
def test_a_view_shares_every_weight(make: Any) -> None:
    net = trained(make)
    view = eval_view(net)
    for ours, theirs in (
        (view.named_parameters(), net.named_parameters()),
        (view.named_buffers(), net.named_buffers()),
    ):
        pairs = list(zip(ours, theirs, strict=True))
        assert pairs
        assert all(name == other and tensor is shared for (name, tensor), (other, shared) in pairs)
    assert not {id(module) for module in view.modules()} & {id(module) for module in net.modules()}


def test_a_model_in_eval_mode_is_its_own_view() -> None:
    net = trained(Block).eval()
    assert eval_view(net) is net
    assert eval_view(net, torch.device("cpu")) is net
    assert shared_copy(net) is not net


def test_methods_that_change_weights_are_not_called() -> None:
    net, x = trained(Merging), torch.randn(2, 3, 8, 8)
    weight = net.fc.weight.clone()
    found = eval_view(net)(x)
    assert torch.equal(net.fc.weight, weight)
    torch.testing.assert_close(found, net.eval()(x))


def test_hooks_of_the_model_run_with_the_view() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.shapes: list[torch.Size] = []

        def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.shapes.append(output.shape)

    net, recorder = trained(Block), Recorder()
    net.layers.register_forward_hook(recorder)
    net.fc.register_forward_hook(recorder.__call__)
    view = eval_view(net)
    view(torch.randn(2, 3, 8, 8))
    assert recorder.shapes == [(2, 4, 6, 6), (2, 2)]
    view.layers.register_forward_hook(recorder)
    assert len(net.layers._forward_hooks) == 1


def test_a_view_on_another_device_does_not_move_the_model() -> None:
    net = trained(Block)
    for mode in (True, False):
        view = eval_view(net.train(mode), torch.device("meta"))
        assert view(torch.randn(2, 3, 8, 8, device="meta")).shape == (2, 2)
        assert {tensor.device.type for tensor in (*view.parameters(), *view.buffers())} == {"meta"}
        assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}
        assert [type(p) for p in view.parameters()] == [type(p) for p in net.parameters()]


def test_a_view_of_a_compiled_network() -> None:
    net, x = trained(Block), torch.randn(2, 3, 8, 8)
    expected = eval_view(net)(x)
    refusing = "thoraxlib_never"

    def backend(graph: Any, inputs: Any) -> Any:
        raise AssertionError(refusing)

    outer = torch.compile(net, backend=backend)
    torch.testing.assert_close(eval_view(outer)(x), expected, rtol=0, atol=0)
    net.layers = torch.compile(net.layers, backend=backend)  # type: ignore[assignment]
    torch.testing.assert_close(eval_view(net)(x), expected, rtol=0, atol=0)
    other = trained(Block)
    other.compile(backend=backend)
    torch.testing.assert_close(eval_view(other)(x), expected, rtol=0, atol=0)
    assert net.training
    assert other.training


def test_a_scripted_network() -> None:
    net, x = trained(Block), torch.randn(2, 3, 8, 8)
    scripted = torch.jit.script(net)
    torch.testing.assert_close(eval_view(scripted)(x), net.eval()(x))
    assert scripted.training


def test_a_model_that_cannot_be_copied_is_refused_in_training_mode() -> None:
    net = trained(Block)
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Block cannot be copied .*lock.*model\.eval\(\)"):
        eval_view(net)
    assert eval_view(net.eval()) is net


@pytest.mark.parametrize(
    "options", [{}, {"head": {"name": "label_graph", "adjacency": "identity", "embeddings": "onehot", "hidden": [8]}}]
)
def test_probabilities_of_a_model_in_training_mode(options: dict[str, Any]) -> None:
    spec = {"backbone": "resnet10t", "labels": ["Edema", "Effusion"], "input_spec": {"size": 64}}
    model: Any = thoraxlib.build("classifier", **spec, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    found, crops = model.predict_proba(x), TenCrop(model, size=48).predict_proba(x)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(found, model.eval()(x).sigmoid().detach())
    torch.testing.assert_close(crops, TenCrop(model, size=48)(x).sigmoid().detach())
