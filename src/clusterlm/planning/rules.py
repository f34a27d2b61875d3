"""The rules of thumb of well-known guides, with this model's numbers, and what they do not see."""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.footprint import Rule
from clusterlm.planning.stored import weight_element_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

CSC_GUIDE = "CSC guide, Working with large language models on supercomputers"
SLIDES = "EuroCC Austria, Large Language Model Parallelization (slides, Mistral 7B on VSC-5)"

INFERENCE_MISSES = (
    "the KV cache, which grows with batch and length; the working memory of the prompt; quantised weights"
)
TRAINING_MISSES = "activations, which grow with micro-batch, length and vocabulary; LoRA and sharding, which need less"
SLIDES_MISSES = "gradients and optimizer states (3 more copies), activations, 16-bit weights"
HOST_MISSES = "loaders that read a file at a time, or load on one process and broadcast"


def rules_of_thumb(shape: ModelShape, workload: Workload, strategy: Strategy) -> tuple[Rule, ...]:
    """What the guides would say for this model on one GPU, and on the host of one node."""
    count, size = shape.parameters, weight_element_bytes(workload)
    billions = f"{count / 1e9:.4g} x 10^9"
    processes = min(strategy.gpus, strategy.gpus_per_node)
    if workload.trains:
        factor, name, misses = 5.0, "weights x 5, for fine-tuning", TRAINING_MISSES
    else:
        factor, name, misses = 1.2, "weights x 1.2, for inference", INFERENCE_MISSES
    guide = Rule(name, round(count * size * factor), f"{billions} x {size:g} B x {factor:g}", CSC_GUIDE, misses)
    slides = Rule("parameters x 4 B, on the GPU", count * 4, f"{billions} x 4 B", SLIDES, SLIDES_MISSES)
    host = Rule(
        "parameters x 4 B x GPUs of a node, on the host",
        count * 4 * processes,
        f"{billions} x 4 B x {processes}",
        SLIDES,
        HOST_MISSES,
    )
    return (guide, slides, host)
