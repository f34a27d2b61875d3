"""Tiny random models of many architectures, saved as ordinary folders: what a model is made of, not what it knows."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1000
CONTEXT_TOKENS = 512

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

USUAL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT_TOKENS,
}
OLD: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_TOKENS}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
WINDOW: dict[str, Any] = {"sliding_window": 24}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": USUAL,
    "mistral": {**USUAL, **WINDOW},
    "qwen2": USUAL,
    "qwen3": USUAL,
    "gpt2": OLD,
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 24,
        "max_position_embeddings": CONTEXT_TOKENS,
    },
    "gpt_neox": {key: value for key, value in USUAL.items() if key != "head_dim"},
    "opt": {**USUAL, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "phi": {key: value for key, value in USUAL.items() if key != "head_dim"},
    "phi3": USUAL,
    "gemma": USUAL,
    "gemma2": {**USUAL, **WINDOW},
    "gemma3_text": {**USUAL, **WINDOW},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mixtral": {**USUAL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": {**OLD, "rotary_dim": 8},
    "codegen": {**OLD, "rotary_dim": 8},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT_TOKENS},
    "olmo2": USUAL,
    "starcoder2": {**USUAL, **WINDOW},
    "qwen3_moe": {**USUAL, **EXPERTS, "num_experts": 4},
    "deepseek_v3": {
        **USUAL,
        **EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
    },
    "gpt_oss": {**USUAL, **WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {
        **USUAL,
        "intermediate_size_mlp": 128,
        "num_local_experts": 2,
        "attention_chunk_size": 24,
        "num_experts_per_tok": 1,
    },
}
"""The sizes that are set; windows and chunks are so small that every test crosses them."""

RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
}


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE, pad_token: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on English that every Python installs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(pydoc_data.topics.topics.values())[:20], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token=pad_token)
    fast.chat_template = chat_template
    return fast


def make_model(folder: Path, architecture: str, **settings: Any) -> None:
    """A random model and its tokenizer, in float32; weights large enough that texts differ from prompt to prompt."""
    torch.manual_seed(0)
    sizes = {**ARCHITECTURES, **RECURRENT}[architecture]
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(architecture, **{**sizes, **tokens, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
