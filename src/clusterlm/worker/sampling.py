"""Choosing the next token of every row at once, each row by its own settings and its own random numbers.

The order is that of `generate()`: repetition penalty, temperature, top-k, top-p. A row's token is the one at which the
cumulative probability passes a uniform number drawn by that row alone.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import torch

from clusterlm.worker.sequence import Sequence

CANDIDATES = 1024
"""Tokens looked at first for top-k and top-p; a full sort of the vocabulary follows only where these do not reach."""


def choose_tokens(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> list[int]:
    """The next token of each row; `logits` is [rows, vocabulary]."""
    logits = logits.float()
    logits = _penalise_repetition(logits, sequences)
    tokens = logits.argmax(dim=-1)
    plain = [row for row, sequence in enumerate(sequences) if _is_plain(sequence)]
    sorted_rows = [row for row, sequence in enumerate(sequences) if _needs_order(sequence)]
    if plain:
        tokens[plain] = _sample_plain(logits[plain], [sequences[row] for row in plain])
    if sorted_rows:
        tokens[sorted_rows] = _sample_sorted(logits[sorted_rows], [sequences[row] for row in sorted_rows])
    return [int(token) for token in tokens.tolist()]


def _is_plain(sequence: Sequence) -> bool:
    return sequence.sampling.temperature > 0 and not _needs_order(sequence)


def _needs_order(sequence: Sequence) -> bool:
    sampling = sequence.sampling
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


def _penalise_repetition(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> torch.Tensor:
    rows = [row for row, sequence in enumerate(sequences) if sequence.sampling.repetition_penalty != 1]
    if not rows:
        return logits
    for row in rows:
        _mark_seen(sequences[row], logits.shape[-1], logits.device)
    seen = torch.stack([mask for row in rows if (mask := sequences[row].seen) is not None])
    penalty = _column([sequences[row].sampling.repetition_penalty for row in rows], logits)
    scores = logits[rows]
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    logits = logits.clone()
    logits[rows] = torch.where(seen, penalised, scores)
    return logits


def _mark_seen(sequence: Sequence, vocabulary: int, device: torch.device) -> None:
    """`seen` is a mask over the vocabulary; after the first call only the newest token has to be added."""
    if sequence.seen is None:
        sequence.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        sequence.seen[sequence.tokens] = True
    else:
        sequence.seen[sequence.tokens[-1]] = True


def _sample_plain(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> torch.Tensor:
    temperature = _column([sequence.sampling.temperature for sequence in sequences], logits)
    cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)
    return _pick(cumulative, sequences).squeeze(-1)


def _sample_sorted(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> torch.Tensor:
    vocabulary = logits.shape[-1]
    temperature = _column([sequence.sampling.temperature for sequence in sequences], logits)
    top_p = _column([sequence.sampling.top_p for sequence in sequences], logits)
    top_k = _column([min(sequence.sampling.top_k or vocabulary, vocabulary) for sequence in sequences], logits)
    scores = logits / temperature
    normaliser = scores.logsumexp(dim=-1, keepdim=True)
    for candidates in (min(CANDIDATES, vocabulary), vocabulary):
        best, order = scores.topk(candidates, dim=-1)
        # Top-p is over what top-k left: where top-k cuts within the candidates they are all that is left.
        inside = torch.arange(candidates, device=logits.device) < top_k
        left = torch.where(
            top_k < candidates, best.masked_fill(~inside, -torch.inf).logsumexp(-1, keepdim=True), normaliser
        )
        probability = (best - left).exp().masked_fill(~inside, 0)
        cumulative = probability.cumsum(dim=-1)
        reached = (top_k <= candidates) | (cumulative[:, -1:] >= top_p)
        if candidates == vocabulary or bool(reached.all()):
            break
    # A token stays while what is before it does not yet make up top_p: the first one always stays.
    kept = probability.masked_fill(cumulative - probability >= top_p, 0)
    return order.gather(-1, _pick(kept.cumsum(dim=-1), sequences)).squeeze(-1)


def _pick(cumulative: torch.Tensor, sequences: SequenceOf[Sequence]) -> torch.Tensor:
    """[rows, 1]: the first column whose cumulative weight is above the row's own uniform number times the total."""
    uniform = _column([sequence.random.random() for sequence in sequences], cumulative)
    picked = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    # Rounding may put the threshold on the total itself: then the last column with any weight is meant.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(picked, last)


def _column(values: SequenceOf[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(-1)
