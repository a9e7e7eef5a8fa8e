"""From a torch module to layers as :mod:`primia.mpc.program` knows them, still with real weights.

BatchNorm is folded into the convolution before it, averages become sums with their divisor in the weights before them, maxima move
before ReLU (they commute), and what has no secure counterpart is refused by the name of its layer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from primia.errors import ModelError
from primia.mpc.program import INPUT, Local, Shape
from primia.mpc.ring import Window


@dataclass(frozen=True, eq=False)
class RealTerm:
    """A convolution of a wire by ``weight`` (O, C, kh, kw); without a weight the wire itself times ``factor``."""

    source: str
    window: Window | None
    weight: Tensor | None
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class RealLayer:
    """As :class:`primia.mpc.program.Layer`, with its weights and without the widths that calibration finds."""

    name: str
    terms: tuple[RealTerm, ...]
    bias: Tensor
    output: str
    shape: Shape
    sum_window: Window | None
    pool: Window | None
    last: bool


Observe = Callable[[RealLayer, Tensor, list[Tensor]], None]
"""Sees each layer's sum, and the differences that its maxima compare."""


@dataclass(frozen=True, eq=False)
class Network:
    """Steps on named wires, as a program has them."""

    input_shape: Shape
    steps: tuple[Local | RealLayer, ...]

    def run(self, images: Tensor, observe: Observe | None = None) -> Tensor:
        """Outputs for images (B, C, H, W), (B, classes) or (B, C, H, W), in floating point."""
        wires = {INPUT: images}
        for step in self.steps:
            if isinstance(step, Local):
                wires[step.output] = _local(step, [wires[name] for name in step.sources])
                continue
            total = _sum(step, wires)
            differences: list[Tensor] = []
            if not step.last:
                pooled = _maxima(total, step.pool, differences) if step.pool else total
                wires[step.output] = pooled.clamp_min(0)
            if observe:
                observe(step, total, differences)
            if step.last:
                return total
        raise AssertionError("a network ends with its last layer")


def read_network(model: nn.Module, input_shape: Shape) -> Network:
    """The layers of ``model`` in evaluation mode for one image of ``input_shape``.

    Raises:
        ModelError: a layer has no counterpart under encryption; the message names it and the alternative.
    """
    reader = _Reader(model, input_shape)
    for node in reader.graph.nodes:
        reader.read(node)
    return Network(input_shape, tuple(reader.steps))


@dataclass(frozen=True)
class _Wire:
    """A wire whose numbers stand for ``scale`` times themselves."""

    name: str
    shape: Shape
    scale: float = 1.0
    positive: bool = False


@dataclass(frozen=True, eq=False)
class _Sum:
    name: str
    terms: tuple[RealTerm, ...]
    bias: Tensor
    shape: Shape
    sum_window: Window | None = None

    def scaled(self, by: Tensor) -> _Sum:
        """Every output channel times its factor (O,)."""
        return replace(self, terms=tuple(_scaled(term, by) for term in self.terms), bias=self.bias * by)


@dataclass(eq=False)
class _Activated:
    """A sum after maxima and ReLU, not yet a step: what follows may still move into it."""

    sum: _Sum
    pool: Window | None
    rectified: bool
    wire: _Wire | None = None


_Value = _Wire | _Sum | _Activated


class _Tracer(fx.Tracer):
    """Takes every module that there is a rule for as one operation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or any(isinstance(m, kind) for kind, _ in _MODULES)


class _Reader:
    def __init__(self, model: nn.Module, input_shape: Shape) -> None:
        self.steps: list[Local | RealLayer] = []
        self._modules = dict(model.named_modules())
        self._values: dict[fx.Node, _Value] = {}
        self._names: set[str] = set()
        self._input_shape = input_shape
        try:
            self.graph = _Tracer().trace(model.eval())
        except Exception as error:
            raise ModelError(
                f"the network cannot be traced for encrypted inference: {error}; its forward must not branch on values"
            ) from None

    def read(self, node: fx.Node) -> None:
        """Give ``node`` its value; append the steps that it needs."""
        if node.op == "placeholder":
            self._values[node] = _Wire(INPUT, self._input_shape)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise ModelError("the network must give one tensor to be used under encryption")
            self._finish(node.args[0])
        else:
            self._values[node] = self._operation(node)

    def _operation(self, node: fx.Node) -> _Value:
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            rule = next((rule for kind, rule in _MODULES if isinstance(module, kind)), None)
            what, argument = type(module).__name__, module
        else:
            rule = _FUNCTIONS.get(node.target)
            what, argument = getattr(node.target, "__name__", str(node.target)), None
        name = str(node.target) if node.op == "call_module" else node.name
        if rule is None:
            raise ModelError(_refusal(name, what))
        try:
            return rule(self, name, node, argument)
        except (KeyError, IndexError, TypeError, AttributeError):  # arguments of a form that no rule expects
            raise ModelError(_refusal(name, what)) from None

    def value(self, node: Any) -> _Value:
        """What a node stands for."""
        return self._values[node]

    def alone(self, node: fx.Node) -> bool:
        """Whether only one operation takes this node's value."""
        value = self._values[node]
        while len(node.users) == 1:
            source = node.args[0]
            if not isinstance(source, fx.Node) or self._values.get(source) is not value:
                return True
            node = source
        return False

    def fresh(self, name: str) -> str:
        """``name``, with a number where a step has that name already."""
        found = next(each for n in count(1) if (each := name if n == 1 else f"{name}#{n}") not in self._names)
        self._names.add(found)
        return found

    def wire(self, value: _Value, name: str) -> _Wire:
        """``value`` as a wire, by a step of its own where it is not one yet."""
        if isinstance(value, _Wire):
            return value
        if isinstance(value, _Sum) or not value.rectified:
            raise ModelError(
                f"{name}: takes a sum that no ReLU follows, which encrypted inference does not support; put a ReLU between the two layers"
            )
        if value.wire is None:
            total = replace(value.sum, name=self.fresh(value.sum.name))
            shape = (total.shape[0], *value.pool.output(*total.shape[1:])) if value.pool else total.shape
            value.wire = _Wire(f"{total.name}.out", shape, positive=True)
            self.steps.append(_layer(total, value.wire.name, value.pool, last=False))
        return value.wire

    def total(self, value: _Value, name: str) -> _Sum:
        """``value`` as a sum."""
        if isinstance(value, _Sum):
            return value
        wire = self.wire(value, name)
        return _Sum(name, (RealTerm(wire.name, None, None, wire.scale),), torch.zeros(wire.shape[0]), wire.shape)

    def _finish(self, node: Any) -> None:
        value = self.value(node)
        if not isinstance(value, _Sum) or value.sum_window:
            raise ModelError(f"{node}: the network must end with a linear layer or a convolution")
        self.steps.append(_layer(replace(value, name=self.fresh(value.name)), "result", None, last=True))


def _layer(total: _Sum, output: str, pool: Window | None, *, last: bool) -> RealLayer:
    if not any(term.window for term in total.terms):
        raise ModelError(f"{total.name}: a layer without weights before ReLU is not supported under encryption")
    return RealLayer(total.name, total.terms, total.bias, output, total.shape, total.sum_window, pool, last)


def _scaled(term: RealTerm, by: Tensor) -> RealTerm:
    if term.weight is not None:
        return replace(term, weight=term.weight * by.view(-1, 1, 1, 1))
    if bool((by == by[0]).all()):
        return replace(term, factor=term.factor * float(by[0]))
    return RealTerm(term.source, Window((1, 1), (1, 1), (0, 0)), torch.diag(by * term.factor)[:, :, None, None])


def _convolution(reader: _Reader, name: str, node: fx.Node, module: nn.Conv2d) -> _Value:
    source = reader.wire(reader.value(node.args[0]), name)
    if module.groups != 1 or module.dilation != (1, 1) or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ModelError(f"{name} (Conv2d): groups, dilation and other than zero padding by numbers are not supported under encryption")
    window = Window(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    # A convolution whose weights are a function of its parameters says so.
    effective = getattr(module, "effective_weight", None)
    return _convolved(name, source, effective().detach() if effective else module.weight.detach(), module.bias, window)


def _convolved(name: str, source: _Wire, weight: Tensor, bias: Tensor | None, window: Window) -> _Sum:
    shape = (len(weight), *window.output(*source.shape[1:]))
    offset = torch.zeros(len(weight)) if bias is None else bias.detach()
    return _Sum(name, (RealTerm(source.name, window, weight * source.scale),), offset, shape)


def _transposed(reader: _Reader, name: str, node: fx.Node, module: nn.ConvTranspose2d) -> _Value:
    source = reader.wire(reader.value(node.args[0]), name)
    if module.groups != 1 or module.dilation != (1, 1) or any(_pair(module.output_padding)):
        raise ModelError(f"{name} (ConvTranspose2d): groups, dilation and output padding are not supported under encryption")
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    channels, height, width = source.shape
    apart = _Wire(f"{reader.fresh(name)}.apart", (channels, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1), source.scale)
    reader.steps.append(Local("spread", (source.name,), apart.name, apart.shape, factor=stride))
    if any(size <= edge for size, edge in zip(kernel, padding, strict=True)):
        raise ModelError(f"{name} (ConvTranspose2d): padding of the kernel's size or more is not supported under encryption")
    window = Window(kernel, (1, 1), (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1]))
    return _convolved(name, apart, module.weight.detach().flip(2, 3).transpose(0, 1), module.bias, window)


def _linear(reader: _Reader, name: str, node: fx.Node, module: nn.Linear) -> _Value:
    source = reader.wire(reader.value(node.args[0]), name)
    if prod(source.shape) != module.in_features:
        raise ModelError(f"{name} (Linear): takes {module.in_features} numbers, not maps of {source.shape}; flatten before it")
    weight = module.weight.detach().view(module.out_features, *source.shape)
    return _convolved(name, source, weight, module.bias, Window(source.shape[1:], (1, 1), (0, 0)))


def _batch_norm(reader: _Reader, name: str, node: fx.Node, module: nn.BatchNorm2d) -> _Value:
    if module.running_mean is None or module.running_var is None:
        raise ModelError(f"{name} (BatchNorm2d): keeps no running statistics, so it does not fold into the layer before")
    total = reader.total(reader.value(node.args[0]), name)
    scale = (module.running_var.double() + module.eps).rsqrt()
    scale = scale * module.weight.detach().double() if module.affine else scale
    folded = total.scaled(scale.float())
    shift = (module.bias.detach().double() if module.affine else 0.0) - module.running_mean.double() * scale
    return replace(folded, bias=folded.bias + shift.float())


def _rectifier(reader: _Reader, name: str, node: fx.Node, module: Any) -> _Value:
    value = reader.value(node.args[0])
    if isinstance(value, _Wire) and value.positive:
        return value
    if isinstance(value, _Activated):
        return value if value.rectified else _Activated(value.sum, value.pool, rectified=True)
    return _Activated(reader.total(value, name), None, rectified=True)


def _max_pool(reader: _Reader, name: str, node: fx.Node, module: nn.MaxPool2d) -> _Value:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise ModelError(f"{name} (MaxPool2d): dilation, ceil_mode and indices are not supported under encryption")
    source = node.args[0]
    value = reader.value(source)
    window = Window(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    if isinstance(value, _Sum):
        return _Activated(value, window, rectified=False)
    if isinstance(value, _Activated) and value.pool is None and value.wire is None and isinstance(source, fx.Node) and reader.alone(source):
        return _Activated(value.sum, window, rectified=value.rectified)
    raise ModelError(f"{name} (MaxPool2d): encrypted inference takes maxima only next to a layer's own ReLU; set model.pooling = avg")


def _average_pool(reader: _Reader, name: str, node: fx.Node, module: nn.AvgPool2d) -> _Value:
    padding = _pair(module.padding)
    if module.ceil_mode or module.divisor_override or (any(padding) and not module.count_include_pad):
        raise ModelError(f"{name} (AvgPool2d): only averages over whole windows, padding counted, are supported under encryption")
    return _averaged(reader, name, node.args[0], Window(_pair(module.kernel_size), _pair(module.stride), padding))


def _adaptive_pool(reader: _Reader, name: str, node: fx.Node, module: nn.AdaptiveAvgPool2d) -> _Value:
    _, *sizes = _shape(reader.value(node.args[0]))
    wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    outputs = tuple(size if want is None else int(want) for size, want in zip(sizes, wanted, strict=True))
    if any(size % output for size, output in zip(sizes, outputs, strict=True)):
        raise ModelError(
            f"{name} (AdaptiveAvgPool2d): {tuple(sizes)} does not divide into {outputs}, so windows differ; choose another image size"
        )
    kernel = (sizes[0] // outputs[0], sizes[1] // outputs[1])
    return reader.value(node.args[0]) if kernel == (1, 1) else _averaged(reader, name, node.args[0], Window(kernel, kernel, (0, 0)))


def _averaged(reader: _Reader, name: str, source: Any, window: Window) -> _Value:
    value, divisor = reader.value(source), float(prod(window.kernel))
    if isinstance(value, _Sum) and any(window.padding):
        raise ModelError(f"{name}: an average with padding before ReLU is not supported under encryption; put ReLU before it")
    if isinstance(value, _Sum) and value.sum_window is None:
        small = value.scaled(torch.full_like(value.bias, 1 / divisor))
        return replace(small, bias=value.bias, shape=(value.shape[0], *window.output(*value.shape[1:])), sum_window=window)
    scale = 1 / divisor
    if isinstance(value, _Activated) and value.wire is None and value.rectified and reader.alone(source):
        # ReLU and maxima commute with a positive factor: dividing before the sum keeps it in range.
        value.sum, scale = value.sum.scaled(torch.full_like(value.sum.bias, 1 / divisor)), 1.0
    wire = reader.wire(value, name)
    summed = _Wire(f"{reader.fresh(name)}.out", (wire.shape[0], *window.output(*wire.shape[1:])), wire.scale * scale, wire.positive)
    reader.steps.append(Local("sum", (wire.name,), summed.name, summed.shape, window))
    return summed


def _added(reader: _Reader, name: str, node: fx.Node, module: Any) -> _Value:
    first, second = (reader.total(reader.value(argument), name) for argument in node.args[:2])
    if first.sum_window or second.sum_window or first.shape != second.shape or node.kwargs.get("alpha", 1) != 1:
        raise ModelError(f"{name} (add): encrypted inference adds maps of one shape that are not averaged")
    # Named after the convolution that comes last, which is what people look for.
    named = first if first.terms[0].window else second
    return _Sum(named.name, first.terms + second.terms, first.bias + second.bias, first.shape)


def _concatenated(reader: _Reader, name: str, node: fx.Node, module: Any) -> _Value:
    dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    wires = [reader.wire(reader.value(argument), name) for argument in node.args[0]]  # type: ignore[union-attr]
    if dimension not in (1, -3) or len({(wire.shape[1:], wire.scale) for wire in wires}) > 1:
        raise ModelError(f"{name} (cat): encrypted inference joins channels of maps of one size that are averaged alike")
    shape = (sum(wire.shape[0] for wire in wires), *wires[0].shape[1:])
    joined = _Wire(f"{reader.fresh(name)}.out", shape, wires[0].scale, all(wire.positive for wire in wires))
    reader.steps.append(Local("concatenate", tuple(wire.name for wire in wires), joined.name, joined.shape))
    return joined


def _upsampled(reader: _Reader, name: str, node: fx.Node, module: Any) -> _Value:
    scale: Any = module.scale_factor if module is not None else node.kwargs.get("scale_factor")
    mode = module.mode if module is not None else node.kwargs.get("mode", "nearest")
    if mode != "nearest" or not isinstance(scale, int | float) or scale != int(scale):
        raise ModelError(f"{name} (upsampling): only mode nearest with a whole scale_factor is supported under encryption")
    wire, factor = reader.wire(reader.value(node.args[0]), name), int(scale)
    channels, height, width = wire.shape
    larger = replace(wire, name=f"{reader.fresh(name)}.out", shape=(channels, height * factor, width * factor))
    reader.steps.append(Local("repeat", (wire.name,), larger.name, larger.shape, factor=(factor, factor)))
    return larger


def _unchanged(reader: _Reader, name: str, node: fx.Node, module: Any) -> _Value:
    return reader.value(node.args[0])


_Rule = Callable[[_Reader, str, fx.Node, Any], _Value]
_MODULES: Sequence[tuple[Any, _Rule]] = (
    (nn.Conv2d, _convolution),
    (nn.ConvTranspose2d, _transposed),
    (nn.Linear, _linear),
    (nn.BatchNorm2d, _batch_norm),
    (nn.ReLU, _rectifier),
    (nn.MaxPool2d, _max_pool),
    (nn.AvgPool2d, _average_pool),
    (nn.AdaptiveAvgPool2d, _adaptive_pool),
    (nn.Upsample, _upsampled),
    ((nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten), _unchanged),
)
_FUNCTIONS: dict[Any, _Rule] = {
    torch.flatten: _unchanged,
    "flatten": _unchanged,
    torch.relu: _rectifier,
    F.relu: _rectifier,
    "relu": _rectifier,
    operator.add: _added,
    operator.iadd: _added,
    torch.add: _added,
    torch.cat: _concatenated,
    F.interpolate: _upsampled,
    F.dropout: _unchanged,
}


def _refusal(name: str, what: str) -> str:
    if what == "GroupNorm":
        return (
            f"{name} (GroupNorm): its statistics depend on the image, so it does not fold into the layer before, and encrypted inference "
            "does not compute them; train with model.normalisation = batch, or weight (standardised weights)"
        )
    return f"{name} ({what}): not supported under encryption; use convolutions, linear layers, BatchNorm, ReLU, max and average pooling"


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) else (int(value), int(value))


def _shape(value: _Value) -> Shape:
    if isinstance(value, _Activated):
        return (value.sum.shape[0], *value.pool.output(*value.sum.shape[1:])) if value.pool else value.sum.shape
    return value.shape


def _sum(layer: RealLayer, wires: dict[str, Tensor]) -> Tensor:
    total: Tensor | float = 0.0
    for term in layer.terms:
        source = wires[term.source]
        if term.weight is None or term.window is None:
            total = total + source * term.factor
        else:
            total = total + F.conv2d(source, term.weight, stride=term.window.stride, padding=term.window.padding)
    assert isinstance(total, Tensor), "a layer has a term"
    return (_window_sums(total, layer.sum_window) if layer.sum_window else total) + layer.bias.view(1, -1, 1, 1)


def _window_sums(maps: Tensor, window: Window) -> Tensor:
    return F.avg_pool2d(maps, window.kernel, window.stride, window.padding, divisor_override=1)


def _maxima(total: Tensor, window: Window, differences: list[Tensor]) -> Tensor:
    """Maxima with zeros as padding, and the largest and smallest differences that finding them compares."""
    for axis in (1, 0):
        kernel = tuple(window.kernel[place] if place == axis else 1 for place in range(2))
        stride = tuple(window.stride[place] if place == axis else 1 for place in range(2))
        padding = (0, 0, window.padding[0], window.padding[0]) if axis == 0 else (window.padding[1], window.padding[1], 0, 0)
        padded = F.pad(total, padding)
        total = F.max_pool2d(padded, kernel, stride)
        differences.append(total + F.max_pool2d(-padded, kernel, stride))
    return total


def _local(step: Local, values: Sequence[Tensor]) -> Tensor:
    if step.kind == "concatenate":
        return torch.cat(list(values), 1)
    if step.kind == "repeat":
        return F.interpolate(values[0], scale_factor=step.factor[0])
    if step.kind == "spread":
        spread = values[0].new_zeros(len(values[0]), *step.shape)
        spread[:, :, :: step.factor[0], :: step.factor[1]] = values[0]
        return spread
    assert step.window is not None, "a sum has a window"
    return _window_sums(values[0], step.window)
