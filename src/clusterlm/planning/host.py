"""RAM of a node: what its processes hold of the model while they load it, what is offloaded, and the processes."""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.coefficients import GIB
from clusterlm.planning.footprint import Item
from clusterlm.planning.stored import loaded_bytes, published_bytes
from clusterlm.planning.weights import element_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

PROCESS_BYTES = round(2.5 * GIB)
PROCESS_SOURCE = (
    "torch and the Trainer 0.5 GiB (measured on a CPU build); CUDA's libraries 2 GiB (assumed, not measured)"
)
FILE_BYTES = 5_000_000_000
FILE_SOURCE = "safetensors are mapped, and processes share the pages; files of 5 GB are usual on the hub"
EVERY_PROCESS_SOURCE = (
    "TRL loads with device_map=None when distributed: each process a whole copy on the CPU, then .to(GPU)"
)
FSDP_SOURCE = "cpu_ram_efficient_loading: the first process of a node loads, the others get it by broadcast"
ZERO3_SOURCE = "transformers with ZeRO-3: rank 0 holds the whole state dict, the others its shapes only"
DEEPSPEED_STATES = {"optimizer-cpu": 16, "cpu": 18}
DEEPSPEED_BUFFERS = 1.5
DEEPSPEED_SOURCE = "DeepSpeed estimate_zero3_model_states_mem_needs: 16 (18 with parameters) B a parameter x 1.5"
FSDP_OFFLOAD_SOURCE = "torch CPUOffloadPolicy: parameters, gradients and optimizer states live on the host"


def host_items(shape: ModelShape, workload: Workload, strategy: Strategy) -> tuple[Item, ...]:
    """Of one node, at its peak; page cache that is given back under pressure is not counted."""
    processes = processes_per_node(workload, strategy)
    items = [_loading(shape, workload, strategy, processes), *_offloaded(shape, workload, strategy)]
    items.append(Item("processes", processes * PROCESS_BYTES, f"{processes} x 2.5 GiB", PROCESS_SOURCE))
    return tuple(items)


def processes_per_node(workload: Workload, strategy: Strategy) -> int:
    """One for each GPU; a model whose layers transformers lays over the GPUs of a node needs one in all."""
    on_node = min(strategy.gpus, strategy.gpus_per_node)
    alone = workload.software.engine == "transformers" and not workload.trains and strategy.pipeline_degree > 1
    return max(1, on_node // strategy.pipeline_degree) if alone else on_node


def _loading(shape: ModelShape, workload: Workload, strategy: Strategy, processes: int) -> Item:
    whole = loaded_bytes(shape, workload)
    parts = strategy.tensor_degree * strategy.pipeline_degree
    straight_to_gpu = not workload.trains or strategy.gpus == 1 or workload.quantise is not None or parts > 1
    if straight_to_gpu and strategy.sharding not in ("fsdp1", "fsdp2"):
        one_file = min(published_bytes(shape), FILE_BYTES)
        return Item("weights while loading", one_file, "one weight file at a time, at most 5 GB", FILE_SOURCE)
    if strategy.sharding in ("fsdp1", "fsdp2"):
        copies = processes if workload.quantise else 1
        return Item("weights while loading", copies * whole, f"{copies} x {whole:,} B", FSDP_SOURCE)
    if strategy.sharding == "zero3":
        return Item("weights while loading", whole, f"1 x {whole:,} B on the first node", ZERO3_SOURCE)
    formula = f"{processes} processes x {whole:,} B"
    return Item("weights while loading", processes * whole, formula, EVERY_PROCESS_SOURCE)


def _offloaded(shape: ModelShape, workload: Workload, strategy: Strategy) -> list[Item]:
    if strategy.offload in ("none", "nvme"):
        return []
    trained, size = trained_parameters(shape, workload), element_bytes(workload.dtype)
    frozen = 0 if workload.method == "full" or strategy.offload == "optimizer-cpu" else loaded_bytes(shape, workload)
    nodes = strategy.nodes
    if strategy.sharding.startswith("zero"):
        bytes_each = DEEPSPEED_STATES[strategy.offload]
        amount = (trained * bytes_each * DEEPSPEED_BUFFERS + frozen) / nodes
        formula = f"({trained:,} trained x {bytes_each} B x 1.5 + {frozen:,} B frozen) / {nodes}"
        return [Item("offloaded states", round(amount), formula, DEEPSPEED_SOURCE)]
    held = 4 if workload.autocast or workload.method != "full" else size
    amount = (trained * 4 * held + frozen) / nodes
    formula = f"({trained:,} trained x 4 copies x {held:g} B + {frozen:,} B frozen) / {nodes}"
    return [Item("offloaded states", round(amount), formula, FSDP_OFFLOAD_SOURCE)]
