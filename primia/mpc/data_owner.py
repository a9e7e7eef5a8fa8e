"""The data owner: knows the images, sees weights only under a mask, and alone learns the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.mpc.dpf import Backend
from primia.mpc.keys import BATCH_SHAPES, BatchKeys, Keep, stage_key_shapes
from primia.mpc.linear import Weights, Wires, layer_sum
from primia.mpc.messages import Kind, Message, Procedure, Role, Send, expect
from primia.mpc.party import ComparingParty, bits_shape, pack_bits, packed_shape, unpack_bits
from primia.mpc.program import DIGEST_BYTES, Layer, Program, comparison_index, comparisons, stage_number
from primia.mpc.ring import Ring, mask_of, pack, signed, unpack
from primia.mpc.seeds import Purpose, Seeds, as_seed
from primia.mpc.stages import Walk, walk
from primia.mpc.workers import Workers


@dataclass(frozen=True, eq=False)
class Result:
    """Of one batch: the outputs (images, classes) and, where values left their range, the first layer in which they did."""

    outputs: NDArray[np.float64]
    out_of_range: str = ""


class DataOwner(ComparingParty):
    """The data owner's side, for one model."""

    def __init__(self, workers: Workers, aes: Backend) -> None:
        super().__init__(Role.DATA_OWNER, workers, aes)

    def setup(self) -> Procedure[None]:
        """Learn the plan and the masked weights."""
        plan = yield from expect(Role.MODEL_OWNER, Kind.PLAN, 0, 0, None)
        self.program = Program.from_message(plan)
        self._weights: Weights = []
        for index, layer in enumerate(self.program.layers):
            shapes = [self.program.weight_shape(term, layer) for term in layer.terms]
            due = tuple(packed_shape(rows * columns, self.program.bits) for rows, columns in shapes)
            message = yield from expect(Role.MODEL_OWNER, Kind.MASKED_WEIGHTS, 0, index, due)
            self._weights.append([self._unpack(data, shape) for data, shape in zip(message.arrays, shapes, strict=True)])

    def preprocess(self, batch: int, images: int, keep: Keep) -> Procedure[None]:
        """Take the batch's keys from the dealer, and give the model owner what takes the masks out of its sums."""
        program = self.program
        start = yield from expect(Role.DEALER, Kind.BATCH, batch, 0, BATCH_SHAPES)
        keep(start)
        seeds = Seeds(as_seed(start.arrays[0]), program.bits)
        wires = Wires(program, self._input_mask(seeds, images))
        for index in range(len(program.layers)):
            layer, stage = wires.next_layer(), stage_number(index)
            shape = (layer.shape[0], images, *layer.shape[1:])
            blind = yield from expect(Role.DEALER, Kind.LINEAR_KEYS, batch, stage, (packed_shape(int(np.prod(shape)), program.bits),))
            share = layer_sum(layer, self._weights[index], wires, self.workers)
            share += self._unpack(blind.arrays[0], shape)
            share += seeds.ring(stage, Purpose.OUTPUT_SHARE, shape)
            yield Send(Role.MODEL_OWNER, Message(Kind.LINEAR_SHARE, batch, stage, (pack(share, program.bits),)))
            if not layer.last:
                wires.set(layer.output, self._wire_mask(seeds, index, images))
            for number, comparison in enumerate(comparisons(layer)):
                due = stage_key_shapes(comparison.bits, images * comparison.size)
                record = yield from expect(Role.DEALER, Kind.STAGE_KEYS, batch, stage_number(index, number), due)
                keep(record)

    def infer(self, images: Ring, keys: BatchKeys) -> Procedure[Result]:
        """The online phase for encoded images (C, B, H, W)."""
        program, batch = self.program, keys.batch
        seed, public = keys.take(Kind.BATCH, 0, BATCH_SHAPES)
        seeds = Seeds(as_seed(seed), program.bits)
        masked = images + self._input_mask(seeds, images.shape[1])
        yield Send(Role.MODEL_OWNER, Message(Kind.INPUT, batch, 0, (pack(masked, program.bits),)))
        digests: list[bytes] = []
        for index, layer in enumerate(program.layers[:-1]):
            yield from self._compare(index, layer, images.shape[1], seeds, as_seed(public), keys, digests)
        return (yield from self._result(batch, images.shape[1], seeds, digests))

    def _compare(
        self, index: int, layer: Layer, images: int, seeds: Seeds, public: bytes, keys: BatchKeys, digests: list[bytes]
    ) -> Procedure[None]:
        batch, kept = keys.batch, self.program.value_bits(layer)
        mask = mask_of(self.program.bits).dtype.type(2**kept - 1)
        shape: tuple[int, ...] = (layer.shape[0], images, *layer.shape[1:])
        stages: Walk | None = None
        due = int(np.prod(shape))
        for place, comparison in enumerate(comparisons(layer)):
            number, size = stage_number(index, place), images * comparison.size
            # What needs no value is expanded while the model owner still computes them.
            roots, table = seeds.roots(number, self.role, size), seeds.table(number, comparison.entries, size)
            values = yield from self._values(batch, number, due, kept)
            if stages is None:
                stages = walk(layer, values.reshape(shape), mask)
                stage = next(stages)
            else:
                stage = stages.send(values)
            due = stage.size
            own = self.sign_share(stage, number, roots, public, keys)
            theirs = yield from expect(Role.MODEL_OWNER, Kind.SIGN_SHARE, batch, number, (bits_shape(stage.size),))
            opened = own ^ unpack_bits(theirs.arrays[0], stage.size)
            share, digest = self.output_share(stage, kept, opened, *table)
            digests.append(digest)
            packed = pack(share, self.program.bits if stage.kind == "relu" else kept)
            yield Send(Role.MODEL_OWNER, Message(Kind.STAGE_OUTPUT, batch, number, (pack_bits(own), packed)))

    def _values(self, batch: int, number: int, count: int, kept: int) -> Procedure[Ring]:
        message = yield from expect(Role.MODEL_OWNER, Kind.MASKED_VALUES, batch, number, (packed_shape(count, kept),))
        return unpack(message.arrays[0], count, kept, self.program.dtype)

    def _result(self, batch: int, images: int, seeds: Seeds, digests: list[bytes]) -> Procedure[Result]:
        program, last = self.program, len(self.program.layers) - 1
        layer = program.layers[last]
        shape, stage = (layer.shape[0], images, *layer.shape[1:]), stage_number(last)
        due = (packed_shape(int(np.prod(shape)), program.bits), (np.uint8, (len(digests) * DIGEST_BYTES,)))
        message = yield from expect(Role.MODEL_OWNER, Kind.RESULT, batch, stage, due)
        sums = self._unpack(message.arrays[0], shape) + seeds.ring(stage, Purpose.OUTPUT_SHARE, shape)
        values = signed(sums & mask_of(program.bits), program.bits)
        return decoded(program, values, self._first_difference(digests, message.arrays[1].tobytes()))

    def _first_difference(self, ours: list[bytes], theirs: bytes) -> str:
        for place, (index, _) in enumerate(comparison_index(self.program)):
            if ours[place] != theirs[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]:
                return self.program.layers[index].name
        return ""

    def _input_mask(self, seeds: Seeds, images: int) -> Ring:
        channels, height, width = self.program.input_shape
        return seeds.ring(stage_number(0), Purpose.WIRE_MASK, (channels, images, height, width))

    def _wire_mask(self, seeds: Seeds, index: int, images: int) -> Ring:
        channels, height, width = self.program.shapes[self.program.layers[index].output]
        return seeds.ring(stage_number(index + 1), Purpose.WIRE_MASK, (channels, images, height, width))

    def _unpack(self, data: NDArray[np.uint8], shape: tuple[int, ...]) -> Ring:
        return unpack(data, int(np.prod(shape)), self.program.bits, self.program.dtype).reshape(shape)


def decoded(program: Program, values: NDArray[np.int64], out_of_range: str) -> Result:
    """The last layer's sums as real outputs (images, classes), judged against the ring's range."""
    layer = program.layers[-1]
    if not out_of_range and np.abs(values).max(initial=0) >= 2 ** (program.bits - 2):
        out_of_range = layer.name
    outputs = np.ldexp(values.astype(np.float64), -(program.fraction_bits + layer.weight_bits))
    return Result(np.moveaxis(outputs, 1, 0).reshape(values.shape[1], -1), out_of_range)
