"""Examples as a batch: padded at the right or the left, or packed end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.model.base import Batch, Encoded


def collate(examples: Sequence[Encoded], padding: int, *, pack: bool = False, left: bool = False) -> Batch:
    """Examples as a batch, without their sounds.

    Args:
        examples: At least one.
        padding: The token id that stands where there is nothing.
        pack: Puts them into one row; positions begin at 0 in each, by which attention stays within.
        left: Pads at the left, for generation.
    """
    assert examples, "a batch needs an example"
    lengths = [len(example.ids) for example in examples]
    if pack:
        shape, at = (1, sum(lengths)), [(0, sum(lengths[:n])) for n in range(len(lengths))]
    else:
        longest = max(lengths)
        shape = (len(lengths), longest)
        at = [(row, longest - length if left else 0) for row, length in enumerate(lengths)]
    ids = np.full(shape, padding, np.int64)
    positions = np.zeros(shape, np.int64)
    mask, targets, ends = np.zeros((3, *shape), np.bool_)
    for example, length, (row, begin) in zip(examples, lengths, at, strict=True):
        place = row, slice(begin, begin + length)
        ids[place], targets[place], ends[place] = example.ids, example.targets, example.ends
        mask[place] = True
        positions[place] = np.arange(length)
    as_tensor = torch.from_numpy
    return Batch(
        len(examples), as_tensor(ids), as_tensor(mask), as_tensor(positions), as_tensor(targets), as_tensor(ends)
    )
