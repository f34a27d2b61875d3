"""TensorBoard, Weights & Biases, MLflow: told of a training, and none of their errors is the reason for its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback
from transformers.trainer_callback import TrainerCallback

from clusterlm.worker.training.work import Say

REPORTERS = {TensorBoardCallback: "tensorboard", WandbCallback: "wandb", MLflowCallback: "mlflow"}
EVENTS = tuple(name for name in dir(TrainerCallback) if name.startswith("on_"))


class Reporter(TrainerCallback):
    """Passes each event on until one fails: steps.jsonl in the run folder has all the same."""

    def __init__(self, callback: TrainerCallback, name: str, say: Say) -> None:
        self._callback = callback
        self._name = name
        self._say = say
        self._has_failed = False

    def pass_on(self, event: str, *arguments: Any, **settings: Any) -> None:
        if self._has_failed:
            return
        try:
            getattr(self._callback, event)(*arguments, **settings)
        except Exception as problem:  # noqa: BLE001 whatever a service may raise, from no key to no network
            self._has_failed = True
            setattr(self._callback, "_auto_end_run", False)  # noqa: B010 MLflow's would call once more when it goes
            first = str(problem).strip().split("\n")[0] or type(problem).__name__
            self._say(f"note: --report-to {self._name} failed, and the training goes on without it: {first}")


def _passing_on(event: str) -> Callable[..., None]:
    return lambda self, *arguments, **settings: self.pass_on(event, *arguments, **settings)


for one in EVENTS:
    setattr(Reporter, one, _passing_on(one))


def guarded(callback: TrainerCallback, say: Say) -> TrainerCallback:
    """The callback itself where it reports to nobody."""
    name = REPORTERS.get(type(callback))
    return Reporter(callback, name, say) if name else callback
