"""Asked: what a run is, checked: the spec, with the model and the input by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from clusterlm.records.examples import Examples, open_examples
from clusterlm.records.source import Source, open_source
from clusterlm.spec import SPECS
from clusterlm.spec.files import AnySpec


@dataclass(frozen=True, slots=True)
class Asked(Generic[AnySpec]):
    """Two commands with the same `identity` are the same run."""

    spec: AnySpec
    input_path: Path
    model_name: str
    model_path: Path
    model_fingerprint: str
    requests: int
    """Rows of the input that can be used."""
    input_digest: str
    notes: tuple[str, ...] = ()
    """What the user should know of the input before it is worked on."""

    @property
    def output_path(self) -> Path:
        return Path(self.spec.output)

    @property
    def other_places(self) -> dict[str, str]:
        """Files beside input and output, so that they are found from every folder."""
        held_out = getattr(self.spec, "eval", None)
        return {"eval": str(Path(held_out).expanduser().absolute())} if held_out else {}

    def source(self) -> Source:
        """Its requests; InputError where the input is not what it was."""
        return open_source(self.input_path, **self._reading())

    def examples(self) -> Examples:
        """Of a training, what is learned."""
        return open_examples(self.input_path, **self._reading())

    def held_out(self) -> Examples | None:
        """Of a training, the file of what is held out."""
        held_out = self.other_places.get("eval")
        return open_examples(Path(held_out), **self._reading()) if held_out else None

    def _reading(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "column": spec.column,
            "template": spec.template,
            "whole_file": spec.whole_file,
            "split": spec.split,
        }

    @property
    def identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in self.spec.settings().items() if name not in ("input", "model")}
        if settings.get("eval"):
            settings["eval"] = "a file"  # wherever it stands: what it holds is a part of the input's content
        content = {"content of the model": self.model_fingerprint, "content of the input": self.input_digest}
        return {**settings, **content}


def asked_of(content: Mapping[str, Any]) -> Asked[Any]:
    """Of the content of run.json."""
    spec = SPECS[content["spec"]["task"]](**content["spec"])
    fields = {name: content[name] for name in ("model_name", "model_fingerprint", "requests", "input_digest")}
    return Asked(spec=spec, input_path=Path(content["input_path"]), model_path=Path(content["model_path"]), **fields)
