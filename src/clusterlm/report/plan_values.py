"""A verdict as JSON values; docs/reference/plan-json.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from clusterlm.model.catalogue import published_parameters
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.case import Case
from clusterlm.planning.footprint import Item
from clusterlm.planning.verdict import Verdict
from clusterlm.report.plan import headline

SCHEMA = 1


def plan_values(verdict: Verdict) -> dict[str, Any]:
    """One object; every amount in bytes."""
    found, case = verdict.footprint, verdict.case
    return {
        "schema": SCHEMA,
        "fits": verdict.fits,
        "tight": verdict.tight,
        "headline": headline(verdict),
        "model": _model(case),
        "workload": _workload(case),
        "strategy": _strategy(case),
        "gpu": {"key": case.gpu.key, "name": case.gpu.name, "bytes": case.gpu.memory_bytes, "source": case.gpu.source},
        "one_gpu": {
            "allocated": found.allocated,
            "reserved_low": found.reserved_low,
            "reserved_high": found.reserved_high,
            "needed": found.needed,
            "available": verdict.available,
            "margin": verdict.margin,
        },
        "deciding": {"phase": found.deciding_phase.name, "item": found.deciding_item.name},
        "phases": [{"name": phase.name, "bytes": phase.bytes, "items": _items(phase.items)} for phase in found.phases],
        "runtime": _items(found.runtime),
        "host_per_node": _items(found.host_per_node),
        "disk": _items(found.disk),
        "network": _items(found.network),
        "rules_of_thumb": [{**item, "misses": rule.misses} for item, rule in _with_rules(verdict)],
        "largest_batch": verdict.largest_batch,
        "cache_pool": _cache_pool(verdict),
        "changes": [
            {"words": change.words, "flags": change.flags, "needed": change.needed} for change in verdict.changes
        ],
        "notes": list(verdict.cautions),
    }


def _cache_pool(verdict: Verdict) -> dict[str, int] | None:
    pool = verdict.cache_pool
    if pool is None:
        return None
    return {"bytes": pool.bytes, "tokens": pool.tokens, "sequences": pool.sequences(verdict.case.tokens_each)}


def _items(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{"name": item.name, "bytes": item.bytes, "formula": item.formula, "source": item.source} for item in items]


def _with_rules(verdict: Verdict) -> Any:
    rules = verdict.footprint.rules_of_thumb
    return zip(_items(rules), rules, strict=True)


def _model(case: Case) -> dict[str, Any]:
    shape = case.shape
    return {
        "name": shape.name,
        "architecture": shape.architecture,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "published_parameters": published_parameters(shape.name),
        "parameters_by_part": shape.parameters_by_part(),
        "context_tokens": shape.context_tokens,
        "quantisation": asdict(shape.quantisation) if shape.quantisation else None,
    }


def _workload(case: Case) -> dict[str, Any]:
    workload = case.workload
    common = {
        "task": workload.task,
        "engine": workload.software.engine,
        "dtype": case.compute_dtype,
        "weights_dtype": case.weights_dtype,
        "quantize": workload.quantise,
        "batch": workload.batch,
        "sequence_tokens": workload.sequence_tokens,
        "attention": workload.attention,
    }
    if not workload.trains:
        return {**common, "new_tokens": workload.new_tokens}
    return {
        **common,
        "method": workload.method,
        "autocast": workload.autocast,
        "trained_parameters": trained_parameters(case.shape, workload),
        "accumulation_steps": case.accumulation_steps,
        "global_batch": case.global_batch,
        "gradient_checkpointing": workload.checkpointing,
        "optimizer": workload.optimizer,
        "lora_rank": workload.lora_rank if workload.method != "full" else None,
        "lora_targets": list(workload.lora_targets) if workload.method != "full" else None,
    }


def _strategy(case: Case) -> dict[str, Any]:
    return {**asdict(case.strategy), "nodes": case.strategy.nodes, "data_degree": case.strategy.data_degree}
