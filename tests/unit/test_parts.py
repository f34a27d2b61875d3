"""Parts: each record of a run is in exactly one; and each process of a node has devices and threads of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping

import hypothesis
import hypothesis.strategies as st
import pytest

from clusterlm.errors import RunError
from clusterlm.runs.attempt import Part
from clusterlm.worker.ranks import Ranks, ranks_of_this_job, share_node


@hypothesis.given(shards=st.integers(1, 12), ranks=st.integers(1, 6), requests=st.integers(0, 300))
def test_each_record_is_in_exactly_one_part_and_no_part_is_much_longer(shards: int, ranks: int, requests: int) -> None:
    parts = [Part(shard, shards, rank, ranks) for shard in range(shards) for rank in range(ranks)]
    indices = [list(part.indices(requests)) for part in parts]
    assert sorted(index for part in indices for index in part) == list(range(requests))
    assert [[index for index in range(requests) if index in part] for part in parts] == indices
    assert [part.size(requests) for part in parts] == [len(part) for part in indices]
    assert max(map(len, indices)) - min(map(len, indices)) <= 2


def test_neighbours_are_in_different_parts() -> None:
    assert list(Part(1, 3).indices(10)) == [1, 4, 7]
    assert list(Part(1, 3, rank=1, ranks=2).indices(12)) == [4, 10]


# -------------------------------------------------------------------------------------------------------------- ranks


def torchrun(rank: int, ranks: int, local_rank: int, local_ranks: int) -> dict[str, str]:
    values = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_ranks}
    return {"TORCHELASTIC_RUN_ID": "12", **{name: str(value) for name, value in values.items()}}


def test_a_rank_knows_its_place_from_torchrun_alone() -> None:
    assert ranks_of_this_job(torchrun(5, 8, 1, 4)) == Ranks(5, 8, 1, 4)
    assert ranks_of_this_job({"RANK": "3", "WORLD_SIZE": "4"}) == Ranks()  # left by another tool


def devices(variables: Mapping[str, str], ranks: int) -> list[dict[str, str]]:
    found = []
    for rank in range(ranks):
        environment = dict(variables)
        share_node(Ranks(rank, ranks, rank, ranks), environment)
        found.append({name: value for name, value in environment.items() if name.endswith("DEVICES")})
    return found


@pytest.mark.parametrize(
    ("variables", "shares"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]),
        ({"CUDA_VISIBLE_DEVICES": "4,7,9"}, [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "7,9"}]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, [{"CUDA_VISIBLE_DEVICES": f"MIG-{name}"} for name in "ab"]),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, [{"HIP_VISIBLE_DEVICES": "0"}, {"HIP_VISIBLE_DEVICES": "1"}]),
        # HIP would look for its number 2 among the one or two devices that ROCR leaves.
        (
            {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"},
            [{"ROCR_VISIBLE_DEVICES": "2"}, {"ROCR_VISIBLE_DEVICES": "3"}],
        ),
        ({"CUDA_VISIBLE_DEVICES": ""}, [{"CUDA_VISIBLE_DEVICES": ""}] * 2),
    ],
)
def test_each_rank_has_its_slice_of_the_devices(variables: dict[str, str], shares: list[dict[str, str]]) -> None:
    assert devices(variables, 2) == shares


def test_more_ranks_than_devices_are_refused() -> None:
    with pytest.raises(RunError, match=r"4 processes share a node, and it shows them 2 GPUs \(CUDA_VISIBLE_DEVICES\)"):
        devices({"CUDA_VISIBLE_DEVICES": "0,1"}, 4)


def test_one_process_on_a_node_keeps_all_as_it_is() -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "1"}
    environment = dict(variables)
    share_node(Ranks(1, 2, 0, 1), environment)
    assert environment == variables


@pytest.mark.parametrize(("before", "after"), [("6", "6"), ("1", None), (None, None)])
def test_threads_are_shared_unless_their_number_was_chosen(before: str | None, after: str | None) -> None:
    """1 is what torchrun sets where nothing was chosen."""
    environment = {} if before is None else {"OMP_NUM_THREADS": before}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    share_node(Ranks(0, 2, 0, 2), environment)
    assert environment["OMP_NUM_THREADS"] == (after or str(max(1, len(os.sched_getaffinity(0)) // 2)))
