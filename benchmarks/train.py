"""Real tokens per second, peak memory and losses of three ways to fine-tune, in turn on one model and the same data.

    python -m benchmarks.train [--rounds 3] [--steps 4] [--skip b] [--data reviews.jsonl --sequence-length 256]

(a) transformers' Trainer with DataCollatorForLanguageModeling: batches filled up to their longest text, as
    finetuning.py of CSC's examples has it
(b) TRL's SFTTrainer as it is without settings: the same batches, a fused head, activations computed twice
(c) clusterlm: the command as it is without settings

Each is a process of its own. All learn the same sequences in each step, with the same optimizer, learning rate and
precision (float32 without a GPU), so the losses must agree. Real tokens are those of the texts, not what fills up; time
is that of the steps alone, without imports, loading and encoding; memory is the most that the process ever held.

The model is a Llama of 31 M parameters with random weights and a vocabulary of 16,384: what a tokenizer learns from a
few megabytes of text. Texts are pieces of Python's own library; their lengths are log-normal, sigma 1, median 100
tokens, at most 1,024. `--data` takes the `text` of a file's lines instead.

On a GPU, `--size 8b --sequence-length 8192 --sequences 16 [--method lora]` takes the shape of Llama 3.1 8B in bfloat16
and full sequences, and tells the share of the card's own measured rate of products; it has not been run yet.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

VOCABULARY = 16_384
CORPUS_CHARACTERS = 6_000_000
END, FILL = "<|end|>", "<|fill|>"
LEARNING_RATE = 1e-3
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
SIZES: dict[str, dict[str, Any]] = {
    "30m": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 7,
        "num_attention_heads": 8,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    },
}
TITLES = {"a": "Trainer, padded", "b": "TRL's SFTTrainer", "c": "clusterlm train"}


@dataclass(frozen=True)
class Work:
    """What all do. The folder holds `model`, `texts.jsonl` and, for (a) and (b), `ordered.jsonl`."""

    folder: str
    size: str
    method: str
    dtype: str
    sequence_length: int
    sequences: int
    """Of one optimizer step."""
    steps: int
    batch: int
    """Of (a) and (b), sequences at once."""

    @property
    def path(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Outcome:
    losses: list[float]
    seconds: float
    """Of all steps."""
    cpu_seconds: float
    """Of all its threads: where others use the machine too, this is the fairer measure."""
    gpu_bytes: int


# ---------------------------------------------------------------------------------------------------- model and texts


def make_work(work: Work, data: Path | None) -> list[int]:
    """Tokens of the sequences, in the order in which they are learned."""
    import numpy
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from clusterlm.worker.training.data.steps import Steps

    corpus = library_text()
    tokenizer = make_tokenizer(corpus)
    tokenizer.save_pretrained(work.path / "model")
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, work.dtype))
    config = LlamaConfig(max_position_embeddings=max(2048, work.sequence_length), **SIZES[work.size])
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    LlamaForCausalLM(config).save_pretrained(work.path / "model")
    wanted = work.sequences * work.steps
    texts = read_texts(data) if data else pieces(corpus, tokenizer, wanted, work)
    sequences: list[list[int]] = []
    with open(work.path / "texts.jsonl", "w") as file:
        while len(sequences) < wanted and (text := next(texts, None)) is not None:
            file.write(json.dumps({"text": text}) + "\n")
            ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            parts = [ids[first : first + work.sequence_length] for first in range(0, len(ids), work.sequence_length)]
            sequences += [part for part in parts if len(part) > 1]
    steps = Steps(numpy.array([len(one) for one in sequences]), work.sequences, 1, work.steps, seed=0)
    ordered = [sequences[number] for step in range(work.steps) for number in steps.sequences(step)]
    with open(work.path / "ordered.jsonl", "w") as file:
        file.writelines(json.dumps({"input_ids": one, "attention_mask": [1] * len(one)}) + "\n" for one in ordered)
    return [len(one) for one in ordered]


def library_text() -> str:
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return "".join(file.read_bytes().decode("ascii", "ignore") for file in files)[:CORPUS_CHARACTERS]


def make_tokenizer(corpus: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, FILL], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=FILL)


def pieces(corpus: str, tokenizer: Any, count: int, work: Work) -> Iterator[str]:
    """Of the corpus one behind the other; for the large model all as long as a sequence."""
    starts = [start for start, _ in tokenizer(corpus, return_offsets_mapping=True)["offset_mapping"]]
    draw = random.Random(1)
    place = 0
    for _ in range(count):
        length = round(100 * math.exp(draw.gauss(0, 1))) if work.size == "30m" else work.sequence_length
        behind = place + max(2, min(work.sequence_length - 1, length))
        if behind >= len(starts):
            place, behind = 0, behind - place
        yield corpus[starts[place] : starts[behind]]
        place = behind


def read_texts(data: Path) -> Iterator[str]:
    with open(data) as file:
        for line in file:
            yield json.loads(line)["text"]


# --------------------------------------------------------------------------------------------------------- the ways


def trainer_padded(work: Work) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(work.path / "model", dtype=getattr(torch, work.dtype))
    if work.method == "lora":
        model = get_peft_model(model, LoraConfig(**LORA))
    tokenizer = tokenizer_of(work)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**usual(work), bf16=work.dtype == "bfloat16"),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False, return_tensors="pt"),
        train_dataset=ordered(work),
        processing_class=tokenizer,
    )
    trainer.train()


def trl_default(work: Work) -> None:
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    given: dict[str, Any] = {"max_length": work.sequence_length, "model_init_kwargs": {"dtype": work.dtype}}
    trainer = SFTTrainer(
        model=str(work.path / "model"),
        args=SFTConfig(**usual(work), **given, bf16=work.dtype == "bfloat16"),
        train_dataset=ordered(work),
        processing_class=tokenizer_of(work),
        peft_config=LoraConfig(**LORA) if work.method == "lora" else None,
    )
    trainer.train()


def clusterlm_train(work: Work) -> None:
    from clusterlm.cli.main import main as clusterlm

    output = work.path / "learned"
    asked = {
        "--global-batch-size": work.sequences,
        "--max-steps": work.steps,
        "--sequence-length": work.sequence_length,
        "--learning-rate": LEARNING_RATE,
        "--schedule": "constant",
        "--warm-up": 0,
        "--method": work.method,
        **({"--dtype": work.dtype} if work.dtype != "float32" else {}),
    }
    words = [str(word) for option in asked.items() for word in option]
    model, texts = str(work.path / "model"), str(work.path / "texts.jsonl")
    clusterlm(["train", model, texts, "-o", str(output), *words, "--restart"], standalone_mode=False)


WAYS: dict[str, Callable[[Work], None]] = {"a": trainer_padded, "b": trl_default, "c": clusterlm_train}


def usual(work: Work) -> dict[str, Any]:
    """What both trainers are told, so that they do what is asked of all."""
    import torch

    return {
        "output_dir": str(work.path / "checkpoints"),
        "max_steps": work.steps,
        "per_device_train_batch_size": work.batch,
        "gradient_accumulation_steps": work.sequences // work.batch,
        "train_sampling_strategy": "sequential",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
    }


def ordered(work: Work) -> Any:
    from datasets import Dataset

    return Dataset.from_json(str(work.path / "ordered.jsonl"), cache_dir=str(work.path / "cache"))


def tokenizer_of(work: Work) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work.path / "model")


def watch(way: Callable[[Work], None], work: Work) -> Outcome:
    """The steps, timed by a callback that transformers gives to every trainer."""
    import torch
    from transformers import TrainerCallback, trainer

    moments: list[tuple[float, float]] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **others: Any) -> None:
            moments.append((time.monotonic(), time.process_time()))

        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            moments.append((time.monotonic(), time.process_time()))

        def on_log(self, *arguments: Any, logs: dict[str, float], **others: Any) -> None:
            losses.extend(logs[name] for name in ("loss",) if name in logs)

    trainer.DEFAULT_CALLBACKS.append(Watch)
    way(work)
    seconds, cpu_seconds = (end - begin for begin, end in zip(moments[0], moments[-1], strict=True))
    gpu_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return Outcome(losses, seconds, cpu_seconds, gpu_bytes)


# ---------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Measured:
    outcome: Outcome
    wall_seconds: float
    peak_bytes: int
    """Of the process, in main memory; on a GPU, there."""


def run(way: str, work: Work) -> Measured:
    """In a process of its own, whose peak the system tells."""
    environment = {**os.environ, "XDG_STATE_HOME": str(work.path / "state")}
    command = [sys.executable, "-m", "benchmarks.train", "--way", way, json.dumps(asdict(work))]
    result = work.path / f"{way}.json"
    result.unlink(missing_ok=True)
    started = time.monotonic()
    with open(work.path / f"{way}.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status or not result.exists():
        raise SystemExit(f"({way}) failed:\n{(work.path / f'{way}.log').read_text()[-3000:]}")
    outcome = Outcome(**json.loads(result.read_text()))
    return Measured(outcome, wall, outcome.gpu_bytes or used.ru_maxrss * 1024)


def measure(work: Work, lengths: list[int], ways: list[str], rounds: int) -> None:
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            one = run(way, work)
            found[way].append(one)
            print(
                f"  ({way}) {sum(lengths) / one.outcome.seconds:,.0f} tokens/s,"
                f" {sum(lengths) / one.outcome.cpu_seconds:,.0f} a CPU second, {one.peak_bytes / 2**30:.2f} GiB,"
                f" {one.wall_seconds:.0f} s in all, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )

    def median(way: str, value: Callable[[Measured], float]) -> float:
        return statistics.median(map(value, found[way]))

    speed = {way: sum(lengths) / median(way, lambda one: one.outcome.seconds) for way in ways}
    effort = {way: sum(lengths) / median(way, lambda one: one.outcome.cpu_seconds) for way in ways}
    peak = {way: median(way, lambda one: one.peak_bytes) for way in ways}
    wall = {way: median(way, lambda one: one.wall_seconds) for way in ways}
    peak_rate = product_rate() if work.dtype == "bfloat16" else None
    for way in ways:
        losses = found[way][0].outcome.losses
        share = f"; MFU {speed[way] * flops_per_token(work) / peak_rate:.1%}" if peak_rate else ""
        print(
            f"({way}) {TITLES[way]:16} {speed[way]:6,.0f} real tokens/s, {effort[way]:,.0f} a CPU second;"
            f" {peak[way] / 2**30:5.2f} GiB at most; {wall[way]:4.0f} s in all;"
            f" loss {losses[0]:.4f} ... {losses[-1]:.4f}{share}"
        )
    for way in [way for way in ways if "c" in ways and way != "c"]:
        pairs = zip(found["c"][0].outcome.losses, found[way][0].outcome.losses, strict=True)
        apart = max(abs(mine - other) for mine, other in pairs)
        print(
            f"c / {way}: {speed['c'] / speed[way]:.2f} x the speed ({effort['c'] / effort[way]:.2f} x by CPU time),"
            f" {peak['c'] / peak[way]:.2f} x the memory, {wall['c'] / wall[way]:.2f} x the whole time;"
            f" losses apart by {apart:.5f} at most"
        )


def product_rate() -> float:
    """Multiplications and additions a second in the card's own product of large bfloat16 matrices."""
    import torch

    left = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ left
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * 8192**3 / statistics.median(seconds)


def flops_per_token(work: Work) -> float:
    """Forward, and backward by the inputs, and by the weights where these learn; half of the pairs attend."""
    size = SIZES[work.size]
    layers, hidden = size["num_hidden_layers"], size["hidden_size"]
    grouped = size.get("num_key_value_heads", size["num_attention_heads"]) / size["num_attention_heads"]
    layer_weights = (2 + 2 * grouped) * hidden**2 + 3 * hidden * size["intermediate_size"]
    weights = layers * layer_weights + size["vocab_size"] * hidden
    attention = 2 * layers * hidden * work.sequence_length
    return float((6 if work.method == "full" else 4) * weights + 3 * attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=32, help="of one optimizer step")
    parser.add_argument("--batch", type=int, default=8, help="sequences at once of (a) and (b); 8 is their default")
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--data", type=Path, help="JSON Lines with `text`, instead of Python's library")
    parser.add_argument("--size", choices=SIZES, default="30m")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--skip", default="", help="letters of ways to leave out")
    parser.add_argument("--way", nargs=2, metavar=("LETTER", "WORK"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        work = Work(**json.loads(asked.way[1]))
        outcome = watch(WAYS[asked.way[0]], work)
        (work.path / f"{asked.way[0]}.json").write_text(json.dumps(asdict(outcome)))
        return
    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if asked.size == "8b" else "float32"
        batch = min(asked.batch, asked.sequences)
        work = Work(folder, asked.size, asked.method, dtype, asked.sequence_length, asked.sequences, asked.steps, batch)
        lengths = make_work(work, asked.data)
        print(conditions(work, lengths, asked.data), flush=True)
        measure(work, lengths, [way for way in WAYS if way not in asked.skip], asked.rounds)


def conditions(work: Work, lengths: list[int], data: Path | None) -> str:
    from importlib.metadata import version

    import torch

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    source = data.name if data else "Python's library"
    held = sum(max(some) * len(some) for some in batches(lengths, work.batch))
    return (
        f"Llama {work.size}, {work.method}, {work.dtype}; {source}: {work.steps} steps of {work.sequences} sequences,"
        f" {sum(lengths):,} tokens, median {statistics.median(lengths):.0f}, longest {max(lengths)}; in batches of"
        f" {work.batch} real tokens are {sum(lengths) / held:.0%}\n"
        f"{packages}; {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()},"
        f" load {os.getloadavg()[0]:.1f}"
    )


def batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    rest = iter(lengths)
    while some := list(islice(rest, size)):
        yield some


if __name__ == "__main__":
    main()
