"""The catalogue: what config.json says of well-known models, carried along so that a plan needs no network."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clusterlm.errors import InputError, ModelError
from clusterlm.model.derived import derived_from

Entry = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """A model's config.json, as far as sizes depend on it, and where that is from."""

    config: dict[str, Any]
    source: str


MIRRORS = ("NousResearch/", "unsloth/")


@cache
def entries() -> dict[str, Entry]:
    """Each model's entry by its id on the Hugging Face hub, as models/*.json has it."""
    found: dict[str, Entry] = {}
    for file in (Path(__file__).parents[1] / "models").glob("*.json"):
        found |= json.loads(file.read_text(encoding="utf-8"))["models"]
    return found


@cache
def ids_by_short_name() -> dict[str, tuple[str, ...]]:
    """Ids by what follows their owner, in lower case: `llama-2-7b-hf`."""
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(entries()):
        short = short_name(name)
        found[short] = (*found.get(short, ()), name)
    return found


def catalogue_names() -> list[str]:
    return sorted(entries(), key=str.lower)


def catalogue_config(name: str) -> dict[str, Any] | None:
    """The model's config.json, as far as sizes depend on it; None where the catalogue has no such model."""
    found = catalogue_entry(name)
    return None if found is None else found.config


def catalogue_entry(name: str) -> Known | None:
    """By its own id, or as a copy or a quantisation of a known model; raises ModelError where sizes are not public."""
    known = catalogue_id(name)
    if known is not None:
        entry = merged(known)
        if "refused" in entry:
            raise ModelError(entry["refused"], where=name, hint="give a folder that has the model's config.json")
        return Known(copy.deepcopy(entry["config"]), source_of(known, entry))
    derived = derived_from(name, same_sizes)
    if derived is None:
        return None
    config = copy.deepcopy(merged(derived.original)["config"])
    if derived.quantised:
        config["quantization_config"] = copy.deepcopy(derived.quantised)
    return Known(config, f"clusterlm's catalogue, by its name alone: {derived.how}")


def source_of(known: str, entry: Entry) -> str:
    """One line, with what is not certain in it."""
    doubt = f"; not certain: {entry['uncertain']}" if "uncertain" in entry else ""
    return f"clusterlm's catalogue: config.json of https://huggingface.co/{known}{doubt}"


def same_sizes(name: str) -> str | None:
    """The only shape that unquantised models of this id or short name have."""
    if "/" in name:
        known = catalogue_id(name)
        ids: tuple[str, ...] = (known,) if known else ()
    else:
        ids = ids_by_short_name().get(name, ())
    whole = [one for one in ids if is_whole(merged(one))]
    configs = [merged(one)["config"] for one in whole]
    return originals_first(whole)[0] if whole and all(config == configs[0] for config in configs) else None


def published_parameters(name: str) -> int | None:
    """Parameters as its authors count them, before any quantisation; None where unknown."""
    known = catalogue_id(name)
    return None if known is None else merged(known).get("parameters")


def is_whole(entry: Entry) -> bool:
    """Its sizes are known, and it is not quantised."""
    return "refused" not in entry and not entry["config"].get("quantization_config")


def originals_first(ids: Iterable[str]) -> list[str]:
    """Copies by other owners last."""
    return sorted(ids, key=lambda one: ("like" in entries()[one], one.startswith(MIRRORS), one))


def catalogue_id(name: str) -> str | None:
    """The id that `name` means: itself, its spelling, or the only model of this short name."""
    if name in entries():
        return name
    alike = [known for known in ids_by_short_name().get(short_name(name), ()) if known.lower() == name.lower()]
    return alike[0] if alike else id_of_short_name(name)


def id_of_short_name(name: str) -> str | None:
    """Raises InputError where several different models are called so; copies of one model are no choice."""
    if "/" in name:
        return None
    ids = ids_by_short_name().get(name.lower(), ())
    if not ids:
        return None
    first, *others = originals_first(ids)
    if any(merged(other)["config"] != merged(first)["config"] for other in others):
        raise InputError(f"several models are called {name!r}", hint=f"say which: {', '.join(ids)}")
    return first


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Ids that `name` may be a slip of, the likeliest first."""
    import difflib  # only for a name that is not known

    names = {known.lower(): known for known in entries()}
    shorts = {short: ids[0] for short, ids in ids_by_short_name().items()}
    spellings = names if "/" in name else shorts
    close = difflib.get_close_matches(name.lower(), spellings, n=count, cutoff=0.6)
    return [spellings[spelling] for spelling in close]


def merged(name: str) -> Entry:
    """The entry of an id with what it takes from the one that it is `like`; its own keys of `config` win."""
    entry = entries()[name]
    if "like" not in entry:
        return entry
    original = merged(entry["like"])
    return {**original, **entry, "config": {**original["config"], **entry.get("config", {})}}


def short_name(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()
