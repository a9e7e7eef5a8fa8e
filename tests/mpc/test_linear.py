from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from primia.mpc.linear import Wires, layer_sum
from primia.mpc.program import INPUT, Layer, Program, Term
from primia.mpc.ring import Window, signed
from primia.mpc.workers import Workers

RNG = np.random.default_rng(0)


def small(*shape: int) -> np.ndarray:
    return RNG.integers(-500, 500, shape).astype(np.uint32)


def as_torch(maps: np.ndarray) -> Tensor:
    return torch.from_numpy(signed(maps, 32).swapaxes(0, 1).copy()).double()


def test_a_wire_is_forgotten_after_its_last_use(kit: SimpleNamespace) -> None:
    program = kit.program("residual")
    wires = Wires(program, small(2, 1, 6, 6))
    alive = []
    for layer in program.layers:
        assert wires.next_layer() is layer
        alive.append([name for name in program.shapes if name in wires._values])
        for term in layer.terms:
            assert wires[term.source].shape[0] == program.shapes[term.source][0]
        wires.set(layer.output, small(layer.shape[0], 1, *layer.shape[1:]))
    assert alive == [["input"], ["a.out"], ["a.out", "b.out"], ["c.out"]]


def test_local_steps_are_taken_on_the_way(kit: SimpleNamespace) -> None:
    program = kit.program("u-net's steps")
    wires = Wires(program, small(2, 3, 6, 6))
    for layer in program.layers:
        wires.next_layer()
        wires.set(layer.output, small(layer.shape[0], 3, *layer.shape[1:]))
        outputs = {name: wires._values[name].shape for name in wires._values if name in program.shapes}
        assert all(shape == (program.shapes[name][0], 3, *program.shapes[name][1:]) for name, shape in outputs.items())
    assert signed(wires["all"], 32).shape == (10, 3, 6, 6)


def test_what_local_steps_compute_is_torchs(kit: SimpleNamespace) -> None:
    program = kit.program("u-net's steps")
    wires = Wires(program, small(2, 3, 6, 6))
    outputs = {layer.output: small(layer.shape[0], 3, *layer.shape[1:]) for layer in program.layers}
    for layer in program.layers:
        wires.next_layer()
        for name in ("down", "apart"):
            if name in wires._values:
                outputs[name] = wires[name]
        wires.set(layer.output, outputs[layer.output])
    a, b, c = (as_torch(outputs[f"{name}.out"]) for name in "abc")
    assert torch.equal(as_torch(outputs["down"]), F.avg_pool2d(a, 2, divisor_override=1))
    assert torch.equal(as_torch(outputs["apart"])[:, :, ::2, ::2], b) and outputs["apart"].any(axis=(0, 1)).sum() <= 9
    assert torch.equal(as_torch(wires["all"]), torch.cat([a, F.interpolate(b, scale_factor=2), c], 1))


@pytest.mark.parametrize("factor", [1.0, 0.25, -0.5])
@pytest.mark.parametrize("sum_window", [None, Window((2, 3), (2, 1), (1, 0))])
def test_a_layers_sum_is_torchs(sum_window: Window | None, factor: float) -> None:
    same, down = Window((3, 3), (1, 1), (1, 1)), Window((1, 1), (1, 1), (0, 0))
    shape = (4, *(sum_window.output(6, 5) if sum_window else (6, 5)))
    layer = Layer("a", (Term(INPUT, same), Term(INPUT, None, factor), Term(INPUT, down)), "a.out", shape, 8, sum_window)
    program = Program(32, 4, (4, 6, 5), (layer,))
    maps, weights = small(4, 2, 6, 5), [small(4, 36), np.zeros((0, 0), np.uint32), small(4, 4)]
    images = as_torch(maps)
    matrices = [torch.from_numpy(signed(matrix, 32)).double() for matrix in weights]
    convolved = F.conv2d(images, matrices[0].view(4, 4, 3, 3), padding=1) + F.conv2d(images, matrices[2].view(4, 4, 1, 1))
    for bare, due in ((True, convolved + images * factor * 2**8), (False, convolved)):
        wires = Wires(program, maps)
        wires.next_layer()
        expected = F.avg_pool2d(F.pad(due, (0, 0, 1, 1)), (2, 3), (2, 1), divisor_override=1) if sum_window else due
        assert torch.equal(as_torch(layer_sum(layer, weights, wires, Workers(1), bare_wires=bare)), expected)
        assert np.array_equal(wires[INPUT], maps)
