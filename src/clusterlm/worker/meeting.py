"""Meeting: the ranks of a job find each other before the work, agree to stop, and leave together.

Each computes its own records, so nothing is exchanged between steps: the steps of one never wait for another. What they
must know of each other goes through torchrun's own store, which lives as long as the job and outlives any rank.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from clusterlm.errors import RunError
from clusterlm.worker.ranks import Ranks

SECONDS_TO_MEET = 300
"""The first node to have imported torch waits so long for the last: from a busy file system that takes minutes."""

SECONDS_BETWEEN_LOOKS = 1
NETWORK = "GLOO_SOCKET_IFNAME"
STOP = "clusterlm/stop"


class Meeting:
    def __init__(
        self, ranks: Ranks, signalled: Callable[[], signal.Signals | None], backend: str = "gloo", seconds: float = 0
    ) -> None:
        """Returns when every rank has reached every other; RunError where one does not.

        `backend`: of torch.distributed; `seconds`: most that anything exchanged may take, from then on.
        """
        self._ranks = ranks
        self._backend = backend
        self._seconds = seconds
        self._signalled = signalled
        self._problem: Exception | None = None
        meeting = threading.Thread(target=self._meet, name="meeting", daemon=True)
        meeting.start()
        while meeting.is_alive():
            meeting.join(SECONDS_BETWEEN_LOOKS)  # not in one go: between two of them signals are obeyed
        if self._problem is not None:
            raise _not_met(ranks, self._problem) from self._problem
        self._is_over = threading.Event()
        # A look at the store is a round trip over the network: in a thread, where it keeps no step waiting.
        self._thread = threading.Thread(target=self._agree, name="agreement", daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        return f"rank {self._ranks.rank} of {self._ranks.ranks} on {socket.gethostname()} ({_own_address()})"

    def _meet(self) -> None:
        timeout = timedelta(seconds=SECONDS_TO_MEET)
        rank, ranks = self._ranks.rank, self._ranks.ranks
        try:
            self._store, _, _ = next(iter(rendezvous("env://", rank, ranks, timeout=timeout)))
            most = timedelta(seconds=max(SECONDS_TO_MEET, self._seconds))
            dist.init_process_group(self._backend, store=self._store, rank=rank, world_size=ranks, timeout=most)
            dist.barrier()
        except Exception as problem:  # noqa: BLE001 raised in the thread that waits for this one
            self._problem = problem

    def tell(self, number: signal.Signals) -> None:
        """Make the other ranks stop too, as far as they can be told."""
        with contextlib.suppress(RuntimeError):
            self._store.set(STOP, str(int(number)))

    def leave(self) -> None:
        """After the work, wait for the others: torchrun ends a node's agent some minutes after the node's last rank,
        and with the first node's agent ends the store, and sooner or later the others' work.
        """
        ended = [f"clusterlm/ended/{rank}" for rank in range(self._ranks.ranks)]
        try:
            self._store.set(ended[self._ranks.rank], "1")
            while not (number := self._signalled()) and not self._store.check(ended):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            if number:
                self.tell(number)
        except RuntimeError:
            return  # the store is gone, and with it whoever there was to wait for
        finally:
            self._is_over.set()
            self._thread.join(SECONDS_BETWEEN_LOOKS)

    def _agree(self) -> None:
        """A signal may reach one rank alone: what one got, all get, and each obeys it between two steps of its own."""
        try:
            while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
                if number := self._signalled():
                    self.tell(number)
                    return
                if self._store.check([STOP]):
                    os.kill(os.getpid(), int(self._store.get(STOP)))
                    return
        except RuntimeError:
            return  # without the store each rank stops by its own signals alone


def _not_met(ranks: Ranks, problem: Exception) -> RunError:
    said = str(problem).strip().split("\n")[0]
    network = os.environ.get(NETWORK)
    hint = f"{NETWORK} names the network between the nodes; it is {network or 'not set'}. ip -brief address lists them"
    where = f"rank {ranks.rank} on {socket.gethostname()} ({_own_address()})"
    return RunError(f"the ranks do not reach each other: {said}", where=where, hint=hint)


def _own_address() -> str:
    """The address that speaks to the first node; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            speaker.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
            return str(speaker.getsockname()[0])
    except OSError:
        return "no address"
