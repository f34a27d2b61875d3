"""The door of the memory model: shape x workload x strategy x GPU -> Footprint. Pure arithmetic, milliseconds."""

from __future__ import annotations

from clusterlm.cluster import Gpu
from clusterlm.model.shape import ModelShape
from clusterlm.planning.activations import Activations, trainer_activations
from clusterlm.planning.autoawq import autoawq_phases
from clusterlm.planning.coefficients import CUDA_CONTEXT, GENERATION, at_version, cublas_bytes
from clusterlm.planning.footprint import Footprint, Item, Phase
from clusterlm.planning.generation import generation_phases
from clusterlm.planning.litgpt_generation import litgpt_phases
from clusterlm.planning.litgpt_training import litgpt_training_phases
from clusterlm.planning.parallel import parallel_training_phases, rank_shape
from clusterlm.planning.reserved import HOLES_GENERATION, nccl, reserved_high_bytes, unusable_bytes
from clusterlm.planning.serving import serving_phases
from clusterlm.planning.stepwise import stepwise_generation_phases, stepwise_training_phases
from clusterlm.planning.torchtitan import torchtitan_phases
from clusterlm.planning.training import training_phases
from clusterlm.planning.weights import scheme_of, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import SHARDS_PARAMETERS, Strategy


def footprint(shape: ModelShape, workload: Workload, strategy: Strategy, gpu: Gpu) -> Footprint:
    per_gpu = phases_per_gpu(shape, workload, strategy, gpu)
    worst = max(per_gpu, key=lambda phases: max(phase.bytes for phase in phases))
    allocated = max(phase.bytes for phase in worst)
    context = Item("CUDA context", at_version(CUDA_CONTEXT, workload.software.torch))
    holes = unusable_bytes(worst, workload, strategy) if workload.trains else round(allocated * HOLES_GENERATION)
    return Footprint(
        phases=worst,
        reserved_low=allocated,
        reserved_high=reserved_high_bytes(worst, workload),
        runtime=(context, *nccl(strategy)) if workload.trains or strategy.tensor_degree > 1 else (context,),
        holes=holes,
        allocated_all_gpus=sum(max(phase.bytes for phase in phases) for phases in per_gpu),
    )


def phases_per_gpu(shape: ModelShape, workload: Workload, strategy: Strategy, gpu: Gpu) -> list[tuple[Phase, ...]]:
    """The phases of each GPU where they differ; one entry where all GPUs hold alike."""
    scheme = scheme_of(shape, workload.quantise)
    if workload.software.engine == "transformers" and strategy.tensor_degree > 1 and not workload.trains:
        shape = rank_shape(shape, strategy.tensor_degree)
    weights = weight_sizes(shape, workload.dtype, scheme)
    if workload.software.engine == "vllm":
        return serving_phases(shape, workload, weights, scheme, strategy)
    if workload.trains:
        workspace = cublas_bytes(gpu.compute_capability, handles=2, vendor=gpu.vendor)
        if strategy.tensor_degree * strategy.pipeline_degree > 1 and workload.software.engine == "transformers":
            return parallel_training_phases(shape, workload, strategy, workspace)
        if workload.software.engine.startswith("litgpt"):
            return [litgpt_training_phases(shape, workload, weights, scheme, strategy, workspace)]
        if workload.software.engine == "torchtitan":
            return [torchtitan_phases(shape, workload, weights, strategy, workspace)]
        learned = (
            stepwise_training_phases(shape, workload, strategy, scheme, workspace) if _is_learned(workload) else None
        )
        if learned:
            return [learned]
        activations = activations_of(shape, workload, strategy)
        return [training_phases(shape, workload, weights, strategy, activations, workspace)]
    workspace = cublas_bytes(gpu.compute_capability, handles=1, vendor=gpu.vendor)
    if workload.software.engine == "autoawq":
        return autoawq_phases(shape, workload, weights, strategy.pipeline_degree, workspace)
    if workload.software.engine == "litgpt":
        return litgpt_phases(shape, workload, weights, scheme, workspace)
    if _is_learned(workload) and strategy.pipeline_degree == 1:
        steps = stepwise_generation_phases(shape, workload, weights, workspace)
        if steps:
            return [steps]
    law = at_version(GENERATION, workload.software.version)
    return generation_phases(shape, workload, weights, law, strategy.pipeline_degree, workspace)


def _is_learned(workload: Workload) -> bool:
    """The laws were read off transformers 5; what 4 keeps is in coefficients.py."""
    return workload.software.engine == "transformers" and workload.software.version >= (5,)


def activations_of(shape: ModelShape, workload: Workload, strategy: Strategy) -> Activations:
    sharded = strategy.sharding in SHARDS_PARAMETERS and strategy.model_shards > 1
    hooked = sharded and strategy.sharding == "fsdp1"
    return trainer_activations(shape, workload, sharded=sharded, hooked=hooked)
