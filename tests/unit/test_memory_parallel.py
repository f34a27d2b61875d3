"""Tensor and pipeline parallel with transformers' layers, by hand and by the formulas of the papers."""

from __future__ import annotations

import pytest

from clusterlm.cluster import find_gpu
from clusterlm.errors import UsageError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.find import find_model
from clusterlm.planning.case import Case
from clusterlm.planning.footprint import Phase
from clusterlm.planning.memory import phases_per_gpu
from clusterlm.planning.parallel import rank_shape
from clusterlm.planning.settle import settle
from clusterlm.planning.wishes import Wishes

LLAMA = "meta-llama/Llama-3.1-8B"
EMBEDDING = 128_256 * 4096
LAYER = 4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 14_336
NORMS = 2 * 4096


def planned(name: str = LLAMA, **wishes: object) -> Case:
    return settle(find_model(name), find_gpu("a100-80"), Wishes(**wishes))  # type: ignore[arg-type]


def phases(case: Case) -> list[tuple[Phase, ...]]:
    return phases_per_gpu(case.shape, case.workload, case.strategy, case.gpu)


def item(found: tuple[Phase, ...], phase: str, name: str) -> int:
    [chosen] = [one for one in found if one.name == phase]
    return sum(one.bytes for one in chosen.items if one.name.startswith(name))


def test_a_rank_has_the_layers_of_a_model_with_its_share_of_heads_and_width() -> None:
    config = catalogue_config(LLAMA)
    assert config
    narrow = {**config, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 3584}
    rank = rank_shape(find_model(LLAMA), 4)
    assert rank.layers == shape_from_config(narrow, LLAMA).layers
    assert rank.hidden_size == 4096
    assert (rank.embedding_parameters, rank.head_parameters) == (EMBEDDING // 4, EMBEDDING // 4)


@pytest.mark.parametrize("task", [{"method": "full", "dtype": "bfloat16"}, {"new_tokens": 100}])
def test_weights_of_a_tensor_parallel_rank_by_hand(task: dict[str, object]) -> None:
    [rank] = phases(planned(gpus=4, strategy="tensor", **task))
    assert rank[0].bytes == 2 * (32 * NORMS + 4096 + (32 * LAYER + 2 * EMBEDDING) // 4)


def test_cut_activations_shrink_with_the_degree_and_hidden_states_do_not() -> None:
    """Korthikanti et al. 2022, equation 2: s b h (10 + (24 + 5 a s / h) / t): a whole part, and one that t divides."""
    options = {"method": "full", "gradient_checkpointing": False, "dtype": "bfloat16", "strategy": "tensor"}
    two, four, eight = (
        item(phases(planned(gpus=degree, **options))[0], "forward", "activations kept") for degree in (2, 4, 8)
    )
    assert two - four == pytest.approx(2 * (four - eight), rel=0.001)
    assert eight > (two - four) / 2


def test_the_first_of_four_stages_holds_four_micro_batches_and_the_last_one() -> None:
    """Narayanan et al. 2021, section 2.2.1: 1F1B has at most as many micro-batches in flight as there are stages."""
    options = {"method": "full", "dtype": "bfloat16", "gpus": 4, "strategy": "pipeline"}
    stages = phases(planned(batch=16, **options))
    waiting = [item(stage, "backward", "activations of micro-batches in flight") for stage in stages]
    assert waiting[3] == 0
    assert waiting[1] == pytest.approx(2 * waiting[2], rel=0.01)
    assert waiting[0] == pytest.approx(3 * waiting[2], rel=0.02)
    # 8 of 32 layers, checkpointed: their inputs of 2,048 tokens x 4,096 x 2 B, and little else.
    assert waiting[2] == pytest.approx(8 * 2048 * 4096 * 2, rel=0.2)
    alone = phases(planned(**options))
    assert item(alone[0], "backward", "activations of micro-batches in flight") == 0


def test_each_stage_holds_its_layers_and_the_ends_theirs() -> None:
    stages = phases(planned(method="full", dtype="bfloat16", gpus=4, strategy="pipeline"))
    layers = 8 * (LAYER + NORMS)
    assert [stage[0].bytes for stage in stages] == [
        2 * (layers + EMBEDDING),
        2 * layers,
        2 * layers,
        2 * (layers + 4096 + EMBEDDING),
    ]
    # Only the last one computes logits: 2,048 x 128,256 in bfloat16 and float32 and more.
    assert item(stages[3], "forward", "working") > 4 * 2048 * 128_256 > item(stages[1], "forward", "working")


def test_a_tied_table_stands_on_the_first_and_the_last_stage() -> None:
    first, last = phases(planned("openai-community/gpt2", method="full", dtype="bfloat16", gpus=2, strategy="pipeline"))
    table = 50_257 * 768
    assert first[0].bytes + last[0].bytes >= 2 * (124_439_808 + table)


@pytest.mark.parametrize(
    ("name", "wishes", "says"),
    [
        ("openai-community/gpt2", {"gpus": 2, "strategy": "tensor"}, "no plan to cut all of gpt2"),
        (LLAMA, {"gpus": 16, "strategy": "tensor", "gpus_per_node": 16}, "8 key/value heads cannot be divided by 16"),
        (LLAMA, {"gpus": 4, "strategy": "pipeline", "method": "qlora"}, "not quantised"),
        (LLAMA, {"gpus": 4, "strategy": "tensor", "method": "full", "attention": "eager"}, "not counted for this way"),
    ],
)
def test_what_is_not_counted_is_refused(name: str, wishes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(name, **wishes)
