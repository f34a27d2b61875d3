"""Which sequences a step learns from, however many processes share them."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterlm.worker.training.data.steps import Shares, Steps, pack

LENGTHS = numpy.random.default_rng(5).integers(2, 100, 203)


def steps(epochs: int = 2, max_steps: int | None = None, seed: int = 0) -> Steps:
    return Steps(LENGTHS, 20, epochs, max_steps, seed)


def test_an_epoch_sees_each_sequence_once_and_the_next_in_another_order() -> None:
    found = steps()
    assert (found.per_epoch, found.count) == (11, 22)
    epochs = [[number for step in range(start, start + 11) for number in found.sequences(step)] for start in (0, 11)]
    assert all(sorted(epoch) == list(range(203)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert steps(seed=1).sequences(0) != found.sequences(0)
    assert steps(max_steps=30).count == 30


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_however_a_step_is_shared_each_of_its_sequences_is_learned_once(
    processes: int, is_packed: bool, rows: int
) -> None:
    found = steps()
    shares = Shares(found, 100, rows, processes, is_packed)
    for step in range(found.count):
        micro_batches = shares.of_step(step)
        assert len(micro_batches) == processes * shares.micro_batches
        held = [max(sum(LENGTHS[list(row)]) for row in batch) * len(batch) for batch in micro_batches if batch]
        assert max(held) <= rows * 100
        learned = [number for batch in micro_batches for row in batch for number in row]
        assert sorted(learned) == sorted(found.sequences(step))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 80))
def test_a_row_holds_no_more_than_it_may_and_packing_wastes_little(lengths: list[int], room: int) -> None:
    rows = pack(range(len(lengths)), numpy.array(lengths), room)
    assert Counter(number for row in rows for number in row) == Counter(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= room for row in rows)
    # Best fit decreasing needs at most 11/9 of the fewest rows, and one more. Source: Johnson 1974.
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // room) * 2 + 1
