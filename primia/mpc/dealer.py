"""The crypto provider: deals randomness that depends on neither images nor weights, and receives no message of a batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from primia.mpc.aes import fresh_seed
from primia.mpc.dpf import Backend, generate
from primia.mpc.linear import Weights, Wires, layer_sum
from primia.mpc.messages import Kind, Message, Procedure, Role, Send, expect
from primia.mpc.program import Layer, Program, stage_number
from primia.mpc.ring import Ring, mask_of, pack
from primia.mpc.seeds import Purpose, Seeds, as_array, tree_key
from primia.mpc.select import correct, low_bits
from primia.mpc.stages import Stage, walk
from primia.mpc.workers import Workers

_BOTH = (Role.MODEL_OWNER, Role.DATA_OWNER)


def weight_masks(program: Program, seed: bytes) -> Weights:
    """A: one uniform matrix for each term that has weights, used with this one model only."""
    seeds = Seeds(seed, program.bits)
    return [
        [
            seeds.ring(stage_number(index, number), Purpose.WEIGHT_MASK, program.weight_shape(term, layer))
            for number, term in enumerate(layer.terms)
        ]
        for index, layer in enumerate(program.layers)
    ]


class Dealer:
    """Deals for one model."""

    def __init__(self, workers: Workers, aes: Backend) -> None:
        self._workers = workers
        self._aes = aes

    def setup(self) -> Procedure[None]:
        """Learn the plan, and give the model owner the seed of its weight masks."""
        plan = yield from expect(Role.MODEL_OWNER, Kind.PLAN, 0, 0, None)
        self.program = Program.from_message(plan)
        seed = fresh_seed()
        self._masks = weight_masks(self.program, seed)
        yield Send(Role.MODEL_OWNER, Message(Kind.WEIGHT_SEED, 0, 0, (as_array(seed),)))

    def preprocess(self, batch: int, images: int) -> Procedure[None]:
        """Deal the keys of one batch, layer by layer."""
        seeds = {role: Seeds(fresh_seed(), self.program.bits) for role in _BOTH}
        own, public = Seeds(fresh_seed(), self.program.bits), fresh_seed()
        for role in _BOTH:
            yield Send(role, Message(Kind.BATCH, batch, 0, (as_array(seeds[role].seed), as_array(public))))
        yield from self._layers(batch, images, seeds[Role.MODEL_OWNER], seeds[Role.DATA_OWNER], own, public)

    def _layers(self, batch: int, images: int, model: Seeds, data: Seeds, own: Seeds, public: bytes) -> Iterator[Send]:
        program = self.program
        channels, height, width = program.input_shape
        wires = Wires(program, data.ring(stage_number(0), Purpose.WIRE_MASK, (channels, images, height, width)))
        for index in range(len(program.layers)):
            layer, stage = wires.next_layer(), stage_number(index)
            shape = (layer.shape[0], images, *layer.shape[1:])
            blind = layer_sum(layer, self._masks[index], wires, self._workers, bare_wires=False)
            blind -= model.ring(stage, Purpose.LINEAR_MASK, shape)
            yield Send(Role.DATA_OWNER, Message(Kind.LINEAR_KEYS, batch, stage, (pack(blind, program.bits),)))
            if layer.last:
                return
            mask = model.ring(stage, Purpose.VALUE_MASK, shape) - data.ring(stage, Purpose.OUTPUT_SHARE, shape)
            mask = (mask & mask_of(program.bits)) >> mask.dtype.type(layer.weight_bits)
            output = yield from self._comparisons(batch, index, layer, mask, model, data, own, public)
            wires.set(layer.output, output)

    def _comparisons(
        self, batch: int, index: int, layer: Layer, mask: Ring, model: Seeds, data: Seeds, own: Seeds, public: bytes
    ) -> Generator[Send, None, Ring]:
        kept = self.program.value_bits(layer)
        stages = walk(layer, mask, mask_of(kept).astype(mask.dtype))
        stage = next(stages)
        while True:
            number = stage_number(index, stage.number)
            if stage.kind == "relu":
                output = data.ring(stage_number(index + 1), Purpose.WIRE_MASK, (stage.size,))
            else:
                output = own.ring(number, Purpose.POOL_MASK, (stage.size,), kept)
            yield from self._deal(batch, number, stage, output, kept, model, data, public)
            try:
                stage = stages.send(output)
            except StopIteration as end:
                last: Ring = end.value
                return last

    def _deal(
        self, batch: int, number: int, stage: Stage, output: Ring, kept: int, model: Seeds, data: Seeds, public: bytes
    ) -> Iterator[Send]:
        sides = [seeds.roots(number, role, stage.size) for role, seeds in zip(_BOTH, (model, data), strict=True)]
        roots = np.stack([side[0] for side in sides])
        keys = generate(tree_key(public, number), roots, low_bits(stage.values, stage.bits), stage.bits, self._workers, self._aes)
        common = Message(Kind.STAGE_KEYS, batch, number, (keys.correction, keys.leaf, keys.flags))
        for role in _BOTH:
            yield Send(role, common)
        table, check = data.table(number, stage.entries, stage.size)
        correct(stage.values, stage.base, output, sides[0][1] ^ sides[1][1], table, check, stage.kind == "relu", kept, stage.bits)
        yield Send(Role.MODEL_OWNER, Message(Kind.STAGE_CORRECTIONS, batch, number, (table, check)))
