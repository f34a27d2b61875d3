"""What cannot be run at all, whatever the memory, and what can but deserves a warning."""

from __future__ import annotations

from clusterlm.cluster import Gpu
from clusterlm.errors import ModelError, UsageError, did_you_mean
from clusterlm.model.encoders import ENCODERS
from clusterlm.model.shape import Attention, Linear, ModelShape
from clusterlm.planning.adapters import ALL_LINEAR, adapts
from clusterlm.planning.case import Case
from clusterlm.planning.parallel import TENSOR_PLANS, is_learned
from clusterlm.planning.stored import loaded_bytes
from clusterlm.strategy import UNCUT_BY_FSDP
from clusterlm.units import show_bytes

FLASH_CAPABILITY = (8, 0)
"""FlashAttention 2 needs Ampere or newer (its README); AMD's port supports MI200 and MI300."""
FOUR_BITS = ("nf4", "nf4-dq")
"""Of bitsandbytes."""
QUANTISED_WHILE_LOADING = {"transformers": ("int8", "nf4", "nf4-dq"), "vllm": ("fp8", "nf4")}
"""Schemes that an engine makes out of 16-bit weights as it loads them; the others stand in the checkpoint."""

NO_FLOAT16_IN_VLLM = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Computed in bfloat16 or float32 only (_FLOAT16_NOT_SUPPORTED_MODELS of vllm/config/model.py)."""


def refuse(case: Case) -> None:
    """UsageError or ModelError, with what to do."""
    _refuse_task(case)
    _refuse_engine(case)
    _refuse_length(case)
    _refuse_precision(case)
    _refuse_quantisation(case)
    _refuse_spread(case)
    _refuse_adapters(case)


def cautions(case: Case) -> tuple[str, ...]:
    """What the reader of the numbers must know."""
    shape, workload, strategy, gpu = case.shape, case.workload, case.strategy, case.gpu
    found = []
    tokens, context = workload.sequence_tokens + workload.new_tokens, shape.context_tokens
    if context and tokens > context:
        found.append(f"{tokens:,} tokens are beyond the {context:,} that {shape.name} was made for: bad text, no crash")
    if workload.dtype == "bfloat16" and not gpu.bfloat16:
        found.append(f"{gpu.name} has no bfloat16 arithmetic: torch emulates it, slowly; --dtype float16 is as small")
    if case.compute_dtype == "float32" and usual_half(shape, gpu, workload.software.engine) != "float32":
        half = "bfloat16" if gpu.bfloat16 else "float16"
        found.append(f"computed in float32: --dtype {half} takes half the memory and far less time")
    deepspeed = strategy.sharding.startswith("zero")  # keeps float32 copies of its own
    pure = workload.trains and workload.method == "full" and not workload.autocast and not deepspeed
    if pure and workload.dtype == "float16":
        found.append("training pure float16 weights overflows; --autocast keeps them in float32")
    loaded = QUANTISED_WHILE_LOADING.get(workload.software.engine, ())
    if workload.quantise and workload.quantise not in loaded:
        found.append(f"{workload.quantise} is not made while loading: it needs a checkpoint that was stored so")
    if "unverified" in gpu.source:
        found.append(f"the memory of {gpu.name} is from a data sheet, not from a log")
    if workload.trains and shape.architecture in ENCODERS:
        found.append("counted with a loss over the whole vocabulary; a classifier on top of an encoder needs less")
    found += [f"not checked against measurements: {name}" for name in _unmeasured(case)]
    if strategy.gpus > strategy.gpus_per_node and strategy.tensor_degree > strategy.gpus_per_node:
        found.append("a tensor-parallel group over several nodes waits for the network in every layer")
    return tuple(found)


def usual_half(shape: ModelShape, gpu: Gpu, engine: str) -> str:
    """The 16-bit type that an engine takes on this GPU; float32 where it has none for the architecture."""
    if gpu.bfloat16:
        return "bfloat16"
    return "float32" if engine == "vllm" and shape.architecture in NO_FLOAT16_IN_VLLM else "float16"


def _unmeasured(case: Case) -> list[str]:
    """Parts of the memory model that no published measurement has confirmed yet (docs/concepts/memory.md)."""
    workload, strategy = case.workload, case.strategy
    names = []
    if workload.trains and strategy.sharding.startswith("zero"):
        names.append("DeepSpeed ZeRO")
    if strategy.offload != "none":
        names.append("offloading")
    if workload.trains and any(layer.feed_forward.experts for layer in case.shape.layers):
        names.append("training a mixture of experts")
    if workload.software.engine == "transformers" and strategy.tensor_degree > 1:
        names.append("tensor parallelism of transformers")
    if workload.trains and strategy.pipeline_degree > 1:
        names.append("pipeline parallel training")
    if case.shape.encoder_layers:
        names.append("encoder-decoder models")
    if case.gpu.vendor != "nvidia":
        names.append("AMD GPUs")
    return names


def _refuse_task(case: Case) -> None:
    shape = case.shape
    if shape.architecture in ENCODERS and case.workload.task == "generate":
        problem = f"{shape.name} is an encoder ({shape.architecture}), which writes no text"
        raise UsageError(problem, where="--task generate", hint="--task embed")


def _refuse_engine(case: Case) -> None:
    """With its V0 engine vLLM dropped all encoder-decoders but Whisper (github.com/vllm-project/vllm/pull/24907)."""
    if case.workload.software.engine == "vllm" and case.shape.encoder_layers:
        problem = f"vLLM serves no text model with both an encoder and a decoder, as {case.shape.architecture} is"
        raise UsageError(problem, where="--engine vllm", hint="leave --engine out: transformers serves it")


def _refuse_length(case: Case) -> None:
    shape, workload = case.shape, case.workload
    context, tokens = shape.context_tokens, workload.sequence_tokens + workload.new_tokens
    if not context or tokens <= context:
        return
    where = "--sequence-length + --new-tokens" if workload.new_tokens else "--sequence-length"
    problem = f"{tokens:,} tokens; {shape.name} takes {context:,}"
    learned, vllm = shape.traits.get("position") == "learned", workload.software.engine == "vllm"
    if (learned or vllm) and workload.new_tokens >= context:
        problem = f"{workload.new_tokens:,} new tokens; {shape.name} takes {context:,} with the prompt"
        raise UsageError(problem, where="--new-tokens", hint=f"fewer than {context:,}, with room for a prompt")
    if learned:
        hint = f"at most {context - workload.new_tokens:,}: its positions are a table, and one more is out of bounds"
        raise UsageError(problem, where=where, hint=hint)
    if vllm:
        raise UsageError(problem, where=where, hint="vLLM refuses a max_model_len beyond the model's context")


def _refuse_precision(case: Case) -> None:
    shape, workload, gpu = case.shape, case.workload, case.gpu
    vllm, usual = workload.software.engine == "vllm", usual_half(shape, gpu, workload.software.engine)
    if vllm and workload.dtype == "bfloat16" and not gpu.bfloat16:
        raise UsageError(f"vLLM has no bfloat16 on {gpu.name}", where="--dtype", hint=f"--dtype {usual}")
    if vllm and workload.dtype == "float16" and shape.architecture in NO_FLOAT16_IN_VLLM:
        problem = f"vLLM has no float16 for {shape.architecture}, whose numbers are unstable in it"
        raise UsageError(problem, where="--dtype", hint=f"--dtype {usual}")
    if workload.attention == "flash" and gpu.vendor == "nvidia" and gpu.compute_capability < FLASH_CAPABILITY:
        problem = f"FlashAttention 2 needs an Ampere GPU or newer; {gpu.name} is older"
        raise UsageError(problem, where="--attention flash", hint="--attention sdpa")
    if workload.attention == "flash" and workload.dtype == "float32" and not workload.autocast:
        raise UsageError("FlashAttention computes in 16 bits only", where="--attention flash", hint="--dtype bfloat16")


def _refuse_quantisation(case: Case) -> None:
    shape, workload, strategy = case.shape, case.workload, case.strategy
    stored = shape.quantisation
    asked = workload.quantise
    if stored and asked:
        problem = f"{shape.name} is quantised already ({stored.method}, {stored.bits} bits)"
        raise UsageError(problem, where="--quantize", hint="leave --quantize out, or name the unquantised model")
    if workload.trains and workload.method == "full" and (asked or stored):
        raise UsageError("quantised weights are not trained", where="--method full", hint="--method qlora")
    if asked and strategy.tensor_degree > 1 and workload.software.engine == "transformers":
        problem = f"{asked} weights are packed, and transformers cannot cut them by --strategy tensor"
        raise UsageError(problem, where="--quantize", hint="--strategy fsdp, or --strategy pipeline to generate")
    if asked and strategy.sharding == "zero3" and workload.method == "qlora":
        problem = "each process loads all packed weights before ZeRO-3 cuts them, and no plan counts that"
        raise UsageError(problem, where="--strategy zero3", hint="--strategy fsdp, zero2 or ddp")
    method = asked or (stored.method if stored else None)
    if method in FOUR_BITS and workload.trains and strategy.sharding.startswith("fsdp"):
        _refuse_whole(loaded_bytes(shape, workload), case.gpu)
    if workload.trains and workload.optimizer in UNCUT_BY_FSDP and strategy.sharding.startswith("fsdp"):
        problem = "FSDP cannot cut its states"
        where = f"--optimizer {workload.optimizer}"
        raise UsageError(problem, where=where, hint="--strategy zero3, or --optimizer adamw-fused")


def _refuse_whole(packed: int, gpu: Gpu) -> None:
    """The trainer puts packed weights on each GPU before they are cut. Source: accelerate 1.15, fsdp2_prepare_model"""
    if packed > gpu.memory_bytes:
        problem = f"each process loads all {show_bytes(packed)} of packed weights before FSDP cuts them"
        hint = f"a GPU with more than the {show_bytes(gpu.memory_bytes)} of {gpu.name}, or --method lora"
        raise UsageError(problem, where="--strategy fsdp", hint=hint)


def _refuse_spread(case: Case) -> None:
    shape, strategy = case.shape, case.strategy
    degree, stages = strategy.tensor_degree, strategy.pipeline_degree
    if case.workload.software.engine == "transformers" and (degree > 1 or (case.workload.trains and stages > 1)):
        _refuse_parallel(case)
    if stages > max(len(shape.layers), 1):
        problem = f"{stages} stages for {len(shape.layers)} layers"
        raise UsageError(problem, where="--strategy pipeline", hint=f"--gpus {len(shape.layers)} or fewer")
    if stages > strategy.gpus_per_node and not case.workload.trains and case.workload.software.engine != "vllm":
        problem = (
            f"transformers lays a model over the GPUs of one node; {stages} GPUs are more than {strategy.gpus_per_node}"
        )
        hint = (
            f"--gpus {strategy.gpus_per_node}, or --engine vllm, or --gpus-per-node {stages} where there are such nodes"
        )
        raise UsageError(problem, where="--strategy pipeline", hint=hint)
    mixers = [layer.mixer for layer, _ in shape.counted_layers if isinstance(layer.mixer, Attention)]
    odd = [mixer for mixer in mixers if mixer.heads % degree]
    if odd:
        fitting = ", ".join(str(n) for n in range(2, odd[0].heads + 1) if odd[0].heads % n == 0 and n <= 64)
        problem = f"{odd[0].heads} attention heads cannot be divided by {degree}"
        raise UsageError(problem, where="--strategy tensor", hint=f"--gpus one of {fitting}")
    narrow = [one for one in mixers if max(one.kv_heads, degree) % min(one.kv_heads, degree)]
    if narrow:
        problem = f"{narrow[0].kv_heads} key/value heads can be neither divided nor repeated by {degree}"
        raise UsageError(problem, where="--strategy tensor", hint=f"--gpus {narrow[0].kv_heads}, or a divisor of it")


def _refuse_parallel(case: Case) -> None:
    """Tensors or stages cut with transformers' own layers."""
    shape, workload, degree = case.shape, case.workload, case.strategy.tensor_degree
    where = f"--strategy {'tensor' if degree > 1 else 'pipeline'}"
    other = "--strategy fsdp" if workload.trains else "--strategy pipeline, or --engine vllm"
    if degree > 1 and shape.architecture not in TENSOR_PLANS:
        problem = f"transformers has no plan to cut all of {shape.architecture}'s attention and MLP"
        raise UsageError(problem, where=where, hint=other)
    if shape.quantisation or workload.quantise:
        raise UsageError("is counted for weights that are not quantised", where=where, hint=other)
    if workload.trains and not is_learned(shape, workload):
        raise UsageError(f"is not counted for this way to train {shape.architecture}", where=where, hint=other)
    heads = [layer.mixer.kv_heads for layer, _ in shape.counted_layers if isinstance(layer.mixer, Attention)]
    odd = [count for count in heads if count % degree]
    if odd:
        hint = f"--gpus {odd[0]}, or a divisor of it; or {other}"
        raise UsageError(f"{odd[0]} key/value heads cannot be divided by {degree}", where=where, hint=hint)


def _refuse_adapters(case: Case) -> None:
    shape, workload = case.shape, case.workload
    if not workload.trains or workload.method not in ("lora", "qlora"):
        return
    linears = [linear for layer, _ in shape.counted_all_layers for linear in layer.linears]
    names = sorted({_module(linear) for linear in linears if linear.copies == 1})
    for target in workload.lora_targets:
        if target not in (ALL_LINEAR, "lm_head") and not any(adapts(linear, (target,)) for linear in linears):
            hint = did_you_mean(target, [*names, ALL_LINEAR])
            raise UsageError(f"{shape.name} has no module {target!r}", where="--lora-targets", hint=hint)
    if not names:
        raise ModelError("has no linear module that LoRA could adapt", where=shape.name)


def _module(linear: Linear) -> str:
    return linear.name.split(".", 1)[-1]
