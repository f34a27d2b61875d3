"""Training of the built-in model."""

from __future__ import annotations

import json
import math
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from clusterlm.worker.demo_recipe import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    RECIPE,
    SYSTEM,
    USER,
    DemoModel,
    OnProgress,
    documents,
)
from clusterlm.worker.loading import quiet

CARD = """---
license: other
license_name: psf-documentation
language: en
---
# clusterlm demo model

A Llama of {parameters:,} parameters, trained from nothing in {seconds:.0f} s.
It writes English-like text and knows nothing.

- Data: the prose of `pydoc_data.topics`, which CPython installs (PSF licence for the documentation)
- Recipe: {recipe}
- Loss on held-out text, nats per token: {loss_before:.2f} before, {loss_after:.2f} after
"""


def make_demo_model(
    folder: Path, *, steps: int | None = None, on_progress: OnProgress | None = None, seed: int = 0
) -> DemoModel:
    """Train and save; `folder` appears whole at the end, or not at all."""
    quiet()
    started = time.monotonic()
    steps = steps or RECIPE["steps"]
    prose = documents()
    held_out = prose[: max(1, int(len(prose) * RECIPE["held_out_share"]))]
    training = prose[len(held_out) :]
    tokenizer = _train_tokenizer(training)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(tokenizer))
    test_tokens = _tokens(tokenizer, held_out)
    loss_before = _loss(model, test_tokens)
    _train(model, _tokens(tokenizer, training), steps, seed, on_progress)
    made = DemoModel(
        folder=folder,
        parameters=sum(weight.numel() for weight in model.parameters()),
        loss_before=loss_before,
        loss_after=_loss(model, test_tokens),
        seconds=time.monotonic() - started,
    )
    _save(made, model, tokenizer)
    return made


def _train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=RECIPE["vocabulary"],
        special_tokens=[END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    sizes = {name: RECIPE[name] for name in names}
    end = tokenizer.eos_token_id
    return LlamaConfig(
        **sizes,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _tokens(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    """All documents in one row, each ended by the end token."""
    encoded = tokenizer(documents)["input_ids"]
    return torch.tensor([token for document in encoded for token in (*document, tokenizer.eos_token_id)])


def _train(
    model: LlamaForCausalLM, tokens: torch.Tensor, steps: int, seed: int, on_progress: OnProgress | None
) -> None:
    """A plain loop: importing transformers' Trainer alone takes as long as a tenth of the training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["learning_rate"], betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(_batches(tokens, steps, seed), start=1):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if on_progress is not None:
            on_progress(step, steps, loss.item(), time.monotonic() - started)
    model.eval()


def _learning_rate_share(step: int, steps: int) -> float:
    warm_up: float = min(1.0, (step + 1) / RECIPE["warm_up_steps"])
    return warm_up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _batches(tokens: torch.Tensor, steps: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = RECIPE["tokens_per_sequence"]
    for _ in range(steps):
        starts = torch.randint(len(tokens) - length, (RECIPE["sequences_per_step"],), generator=generator)
        yield torch.stack([tokens[start : start + length] for start in starts.tolist()])


@torch.inference_mode()
def _loss(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """Nats per token over all of `tokens`."""
    length = RECIPE["tokens_per_sequence"]
    batch = tokens[: len(tokens) // length * length].view(-1, length)[:64]
    loss: float = model(input_ids=batch, labels=batch).loss.item()
    return loss


def _save(made: DemoModel, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = made.folder.with_name(f"{made.folder.name}.{secrets.token_hex(4)}.unfinished")
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        numbers = {name: value for name, value in asdict(made).items() if name != "folder"}
        (unfinished / "README.md").write_text(CARD.format(**numbers, recipe=json.dumps(RECIPE)))
        (unfinished / "demo.json").write_text(json.dumps(numbers))
        try:
            unfinished.rename(made.folder)
        except OSError:
            if not (made.folder / "demo.json").exists():  # else another process was faster, with the same model
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
