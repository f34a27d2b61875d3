"""Useful tokens per second of four ways to answer a file of prompts, in one run on one model.

    python -m benchmarks.generate [--requests 500] [--rounds 1] [--skip a]

(a) one prompt at a time through transformers' pipeline, as generate_dataset.py of the tutorial does it
(b) static batches of 32 in file order through generate(), as lm_gen of the Snellius post does
(c) transformers' own continuous batching
(d) clusterlm: the whole job, from reading the file to the output file, with every result synced to the disk

The model is a Llama of 25 M parameters with random weights in float32; decoding is greedy. Prompt and answer lengths
A Llama of 25 M parameters with random weights in float32, decoding greedily. Prompt and answer lengths
stop check sees it ((c) is told it, because its interface wants it: an advantage). Useful tokens are those of the
answers; all ways must give the same ones. Where vLLM's CPU build is installed, a row for it stands beside.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    pipeline,
)
from transformers.utils import logging as transformers_logging

from clusterlm.runs.launch import prepare
from clusterlm.spec import GenerateSpec, make_spec
from clusterlm.store import find_model
from clusterlm.worker.job import run_job

VOCABULARY = 4096
MEDIAN_TOKENS = 32
SHORTEST_TOKENS, LONGEST_TOKENS = 4, 320
STATIC_BATCH_ROWS = 32

Answers = dict[int, list[int]]


@dataclass(frozen=True)
class Work:
    folder: Path
    prompts: list[list[int]]
    limits: list[int]

    @property
    def useful_tokens(self) -> int:
        return sum(self.limits)


def make_work(folder: Path, requests: int) -> Work:
    """The model, and the requests as an OpenAI batch file (its lines can hold a limit of their own)."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=7,
        num_attention_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.05,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    draw = random.Random(1)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(length(draw))] for _ in range(requests)]
    work = Work(folder, prompts, [length(draw) for _ in range(requests)])
    with open(folder / "requests.jsonl", "w") as file:
        for index, (prompt, limit) in enumerate(zip(prompts, work.limits, strict=True)):
            body = {"prompt": " ".join(f"w{token}" for token in prompt), "max_tokens": limit}
            file.write(json.dumps({"custom_id": str(index), "url": "/v1/completions", "body": body}) + "\n")
    return work


def length(draw: random.Random) -> int:
    return max(SHORTEST_TOKENS, min(LONGEST_TOKENS, round(MEDIAN_TOKENS * math.exp(draw.gauss(0, 1)))))


class RowLimits(StoppingCriteria):
    """Each row ends at its own limit."""

    def __init__(self, prompt_width: int, limits: list[int]) -> None:
        self.prompt_width = prompt_width
        self.limits = torch.tensor(limits)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **named: Any) -> torch.Tensor:
        return input_ids.shape[1] - self.prompt_width >= self.limits


def one_at_a_time(work: Work) -> Answers:
    generator = pipeline("text-generation", model=str(work.folder / "model"), dtype=torch.float32, device="cpu")
    answers = {}
    for index, prompt in enumerate(work.prompts):
        text = " ".join(f"w{token}" for token in prompt)
        stop = StoppingCriteriaList([RowLimits(len(prompt), [work.limits[index]])])
        [output] = generator(
            text,
            do_sample=False,
            max_new_tokens=LONGEST_TOKENS,
            stopping_criteria=stop,
            return_tensors=True,
            pad_token_id=0,
        )
        answers[index] = output["generated_token_ids"][len(prompt) :]
    return answers


def static_batches(work: Work) -> Answers:
    model = AutoModelForCausalLM.from_pretrained(work.folder / "model")
    answers = {}
    for first in range(0, len(work.prompts), STATIC_BATCH_ROWS):
        rows = range(first, min(first + STATIC_BATCH_ROWS, len(work.prompts)))
        width = max(len(work.prompts[row]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(work.prompts[row]) :] = torch.tensor(work.prompts[row])
            mask[place, width - len(work.prompts[row]) :] = 1
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=LONGEST_TOKENS,
            stopping_criteria=StoppingCriteriaList([RowLimits(width, [work.limits[row] for row in rows])]),
            pad_token_id=0,
        )
        for place, row in enumerate(rows):
            answers[row] = output[place, width : width + work.limits[row]].tolist()
    return answers


def continuous_batching(work: Work) -> Answers:
    model = AutoModelForCausalLM.from_pretrained(work.folder / "model")
    config = GenerationConfig(do_sample=False, max_new_tokens=LONGEST_TOKENS, eos_token_id=-1, pad_token_id=0)
    answers: Answers = {}
    with model.continuous_batching_context_manager(generation_config=config) as manager:
        for index, prompt in enumerate(work.prompts):
            manager.add_request(prompt, request_id=str(index), max_new_tokens=work.limits[index])
        while len(answers) < len(work.prompts):
            result = manager.get_result(timeout=60)
            if result is not None and result.is_finished():
                answers[int(result.request_id)] = list(result.generated_tokens)
    return answers


def clusterlm_job(work: Work) -> Answers:
    """The job as the command does it, loading included."""
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        output = Path(folder) / "answers.jsonl"
        asked = {"model": str(work.folder / "model"), "input": str(work.folder / "requests.jsonl")}
        spec = make_spec(GenerateSpec, {**asked, "output": str(output)})
        run_job(prepare(spec, lambda: find_model(spec.model), restart=False).run, lambda _: None, lambda: None)
        tokenizer = AutoTokenizer.from_pretrained(work.folder / "model")
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    texts = {int(line["custom_id"]): line["response"]["body"]["choices"][0]["text"] for line in lines}
    return {index: tokenizer(text)["input_ids"] for index, text in texts.items()}


def vllm_cpu(work: Work) -> Answers:
    from vllm import LLM, SamplingParams

    engine = LLM(str(work.folder / "model"), dtype="float32", max_model_len=2048, enforce_eager=True)
    inputs = [{"prompt_token_ids": prompt} for prompt in work.prompts]
    limits = [SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True) for limit in work.limits]
    return {index: list(out.outputs[0].token_ids) for index, out in enumerate(engine.generate(inputs, limits))}


WAYS: dict[str, tuple[str, Callable[[Work], Answers]]] = {
    "a": ("pipeline, one prompt at a time", one_at_a_time),
    "b": ("generate(), batches of 32 in file order", static_batches),
    "c": ("transformers' continuous batching", continuous_batching),
    "d": ("clusterlm generate, the whole job", clusterlm_job),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--skip", default="", help="letters of ways to leave out")
    asked = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    ways = {name: way for name, way in WAYS.items() if name not in asked.skip}
    if find_spec("vllm") and "v" not in asked.skip:
        ways["v"] = ("vLLM's CPU build", vllm_cpu)
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(Path(folder), asked.requests)
        measure(work, ways, asked.rounds)


def measure(work: Work, ways: dict[str, tuple[str, Callable[[Work], Answers]]], rounds: int) -> None:
    print(
        f"{len(work.prompts)} requests, {sum(map(len, work.prompts)):,} prompt tokens, {work.useful_tokens:,} useful"
        f" tokens, longest answer {max(work.limits)}; torch {torch.__version__}, {torch.get_num_threads()} threads,"
        f" {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Answers] = {}
    for _ in range(rounds):
        for name, (title, way) in reversed(ways.items()):
            started = time.perf_counter()
            answers[name] = way(work)
            seconds[name].append(time.perf_counter() - started)
            print(f"  ({name}) {title}: {seconds[name][-1]:.1f} s", flush=True)
    speed = {name: work.useful_tokens / statistics.median(times) for name, times in seconds.items()}
    for name, (title, _) in ways.items():
        equal = sum(answers[name][index] == answers["d"][index] for index in range(len(work.prompts)))
        print(
            f"({name}) {title:42} {speed[name]:7.0f} useful tokens/s; d is {speed['d'] / speed[name]:5.2f} x;"
            f" answers equal to d's: {equal} of {len(work.prompts)}"
        )


if __name__ == "__main__":
    main()
