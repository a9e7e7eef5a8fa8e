"""The model owner: knows the weights, sees activations only under masks, and computes the linear layers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from primia.mpc.dealer import weight_masks
from primia.mpc.dpf import Backend
from primia.mpc.keys import BATCH_SHAPES, BatchKeys, Keep, correction_shapes, stage_key_shapes
from primia.mpc.linear import Weights, Wires, layer_sum
from primia.mpc.messages import Kind, Message, Procedure, Role, Send, expect
from primia.mpc.party import ComparingParty, bits_shape, pack_bits, packed_shape, unpack_bits
from primia.mpc.program import Layer, Program, comparisons, stage_number
from primia.mpc.ring import Ring, mask_of, pack, unpack
from primia.mpc.seeds import Purpose, Seeds, as_seed
from primia.mpc.stages import walk
from primia.mpc.workers import Workers


class ModelOwner(ComparingParty):
    """The model owner's side.

    Args:
        program: the plan.
        weights: encoded, a matrix for each term.
        biases: encoded with the fraction bits of the sum, one vector for each layer.
    """

    def __init__(self, program: Program, weights: Weights, biases: Sequence[Ring], workers: Workers, aes: Backend) -> None:
        super().__init__(Role.MODEL_OWNER, workers, aes)
        self.program = program
        self._weights = weights
        self._biases = biases

    def setup(self) -> Procedure[None]:
        """Give the plan to both, take the mask seed from the dealer, and give the masked weights to the data owner."""
        for role in (Role.DEALER, Role.DATA_OWNER):
            yield Send(role, self.program.to_message())
        seed = yield from expect(Role.DEALER, Kind.WEIGHT_SEED, 0, 0, ((np.uint8, (16,)),))
        masks = weight_masks(self.program, as_seed(seed.arrays[0]))
        for index, (own, hidden) in enumerate(zip(self._weights, masks, strict=True)):
            packed = tuple(pack(weights - mask, self.program.bits) for weights, mask in zip(own, hidden, strict=True))
            yield Send(Role.DATA_OWNER, Message(Kind.MASKED_WEIGHTS, 0, index, packed))

    def preprocess(self, batch: int, images: int, keep: Keep) -> Procedure[None]:
        """Take the batch's keys from the dealer and the data owner."""
        program = self.program
        start = yield from expect(Role.DEALER, Kind.BATCH, batch, 0, BATCH_SHAPES)
        keep(start)
        seeds = Seeds(as_seed(start.arrays[0]), program.bits)
        for index, layer in enumerate(program.layers):
            stage, shape = stage_number(index), (layer.shape[0], images, *layer.shape[1:])
            size = int(np.prod(shape))
            share = yield from expect(Role.DATA_OWNER, Kind.LINEAR_SHARE, batch, stage, (packed_shape(size, program.bits),))
            offset = unpack(share.arrays[0], size, program.bits, program.dtype).reshape(shape)
            offset = offset + seeds.ring(stage, Purpose.LINEAR_MASK, shape)
            if not layer.last:
                offset -= seeds.ring(stage, Purpose.VALUE_MASK, shape)
            keep(Message(Kind.LINEAR_SHARE, batch, stage, (offset,)))
            for number, comparison in enumerate(comparisons(layer)):
                count, where = images * comparison.size, stage_number(index, number)
                keys = stage_key_shapes(comparison.bits, count)
                keep((yield from expect(Role.DEALER, Kind.STAGE_KEYS, batch, where, keys)))
                corrections = correction_shapes(program.dtype, comparison.entries, count)
                keep((yield from expect(Role.DEALER, Kind.STAGE_CORRECTIONS, batch, where, corrections)))

    def infer(self, images: int, keys: BatchKeys) -> Procedure[None]:
        """The online phase for a batch of so many images."""
        program, batch = self.program, keys.batch
        seed, public = keys.take(Kind.BATCH, 0, BATCH_SHAPES)
        seeds = Seeds(as_seed(seed), program.bits)
        channels, height, width = program.input_shape
        count = channels * images * height * width
        message = yield from expect(Role.DATA_OWNER, Kind.INPUT, batch, 0, (packed_shape(count, program.bits),))
        wires = Wires(program, unpack(message.arrays[0], count, program.bits, program.dtype).reshape(channels, images, height, width))
        digests: list[bytes] = []
        for index in range(len(program.layers)):
            layer = wires.next_layer()
            sums = self._sums(index, layer, images, wires, keys)
            if layer.last:
                arrays = (pack(sums, program.bits), np.frombuffer(b"".join(digests), np.uint8))
                yield Send(Role.DATA_OWNER, Message(Kind.RESULT, batch, stage_number(index), arrays))
                return
            output = yield from self._compare(index, layer, sums, seeds, as_seed(public), keys, digests)
            wires.set(layer.output, output)

    def _sums(self, index: int, layer: Layer, images: int, wires: Wires, keys: BatchKeys) -> Ring:
        shape = (layer.shape[0], images, *layer.shape[1:])
        (offset,) = keys.take(Kind.LINEAR_SHARE, stage_number(index), ((self.program.dtype, shape),))
        sums = layer_sum(layer, self._weights[index], wires, self.workers)
        sums += self._biases[index].reshape(-1, 1, 1, 1)
        sums -= offset
        sums &= mask_of(self.program.bits)
        return sums

    def _compare(
        self, index: int, layer: Layer, sums: Ring, seeds: Seeds, public: bytes, keys: BatchKeys, digests: list[bytes]
    ) -> Procedure[Ring]:
        batch, kept = keys.batch, self.program.value_bits(layer)
        mask = sums.dtype.type(2**kept - 1)
        values = sums >> sums.dtype.type(layer.weight_bits)
        yield Send(Role.DATA_OWNER, Message(Kind.MASKED_VALUES, batch, stage_number(index, 0), (pack(values, kept),)))
        stages = walk(layer, values, mask)
        stage = next(stages)
        while True:
            number = stage_number(index, stage.number)
            own = self.sign_share(stage, number, seeds.roots(number, self.role, stage.size), public, keys)
            yield Send(Role.DATA_OWNER, Message(Kind.SIGN_SHARE, batch, number, (pack_bits(own),)))
            table, check = keys.take(Kind.STAGE_CORRECTIONS, number, correction_shapes(self.program.dtype, stage.entries, stage.size))
            kept_out = self.program.bits if stage.kind == "relu" else kept
            due = (bits_shape(stage.size), packed_shape(stage.size, kept_out))
            theirs = yield from expect(Role.DATA_OWNER, Kind.STAGE_OUTPUT, batch, number, due)
            opened = own ^ unpack_bits(theirs.arrays[0], stage.size)
            share, digest = self.output_share(stage, kept, opened, table, check)
            digests.append(digest)
            output = share + unpack(theirs.arrays[1], stage.size, kept_out, self.program.dtype)
            if stage.kind == "max":
                output &= mask
                yield Send(
                    Role.DATA_OWNER, Message(Kind.MASKED_VALUES, batch, stage_number(index, stage.number + 1), (pack(output, kept),))
                )
            try:
                stage = stages.send(output)
            except StopIteration as end:
                last: Ring = end.value
                return last
