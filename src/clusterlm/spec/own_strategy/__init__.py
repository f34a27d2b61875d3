"""A user's own file of DeepSpeed or accelerate: how the processes of a training share its model, in those words."""

from clusterlm.spec.own_strategy.fit import settled
from clusterlm.spec.own_strategy.read import own_strategy
from clusterlm.spec.own_strategy.value import OwnStrategy

__all__ = ["OwnStrategy", "own_strategy", "settled"]
