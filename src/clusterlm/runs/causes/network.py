"""Causes in the network: the hub of models, and the processes of a run among themselves.

Words of huggingface_hub 2.4, transformers 5.23, torch 2.13 with gloo, NCCL 2.14 to 2.27.
"""

from __future__ import annotations

from clusterlm.runs.causes.cause import Cause

MODEL_ID = r"(?P<model>[\w.-]+/[\w.-]+)"

HUB = (
    Cause(
        key="gated-model",
        signs=(
            "GatedRepoError",
            "Cannot access gated repo",
            "You are trying to access a gated repo",
            "the owner lets only registered users have this model",
        ),
        numbers=(
            rf"gated repo for url https?://[^/]+/{MODEL_ID}/resolve",
            rf"access to it at https?://[^/]+/{MODEL_ID}",
        ),
        sentence="the model's owner gives it only to those who asked[: {model}]",
        fix="ask for access at https://huggingface.co[/{model}], then run: hf auth login",
        again="no",
    ),
    Cause(
        key="no-such-model",
        signs=(
            "RepositoryNotFoundError",
            "401 Unauthorized",
            "403 Forbidden",
            "RevisionNotFoundError",
            "is not a valid model identifier",
            "the Hugging Face hub has no such model",
        ),
        numbers=(rf"url '?https?://[^/]+/{MODEL_ID}/resolve", rf"url '?https?://[^/]+/api/models/{MODEL_ID}"),
        sentence="the hub has no such model, or does not show it to you[: {model}]",
        fix="check the spelling; a private model needs: hf auth login",
        again="no",
        vague=True,
    ),
    Cause(
        key="not-in-cache",
        signs=(
            "outgoing traffic has been disabled",
            "OfflineModeIsEnabled",
            "offline mode is enabled",
            "is not in the Hugging Face cache, and HF_HUB_OFFLINE",
        ),
        numbers=(rf"(ModelError: |error: )?{MODEL_ID}: is not in the Hugging Face cache",),
        sentence="the model is not in the cache, and the job may not ask the hub[: {model}]",
        fix="fetch it on a login node, with the same HF_HOME as in job.sbatch: hf download[ {model}]",
        again="no",
    ),
    Cause(
        key="hub-busy",
        signs=("429 Too Many Requests", "503 Service Unavailable", "502 Bad Gateway", "504 Gateway Time"),
        sentence="the hub of models was busy",
        fix="try again later; a model that is in the cache needs no hub: hf download on a login node",
        again="yes",
    ),
    Cause(
        key="proxy-refused",
        signs=("ProxyError", "407 Proxy Authentication", "Cannot connect to proxy", "Tunnel connection failed"),
        sentence="the site's proxy refused the connection",
        fix="check https_proxy in the job's environment; a model that is in the cache needs no network",
        again="no",
    ),
    Cause(
        key="no-network",
        signs=(
            "Name or service not known",
            "Temporary failure in name resolution",
            "Network is unreachable",
            "No route to host",
            "ConnectError",
            "ConnectTimeout",
            "NameResolutionError",
            "the hub cannot be reached",
            "We couldn't connect to '",
            "LocalEntryNotFoundError",
            "Failed to establish a new connection",
        ),
        sentence="the node does not reach the internet",
        fix="fetch the model on a login node (hf download), with the same HF_HOME, and set HF_HUB_OFFLINE=1 in the job",
        again="no",
        vague=True,
    ),
)

AMONG_RANKS = (
    Cause(
        key="port-in-use",
        signs=("EADDRINUSE", "ddress already in use"),
        numbers=(r"port: (?P<port>\d+)", r":(?P<port>\d+)\b.*ddress already in use"),
        sentence="another program on the node has the port[ {port}]",
        fix="try again: every job takes a port of its own, and checks that it is free",
        again="yes",
    ),
    Cause(
        key="gloo-interface",
        signs=(
            "Unable to find address for: ",
            "Unable to resolve hostname to a (local) address",
            "ifa != nullptr",
            "makeDeviceForHostname",
        ),
        numbers=(r"Unable to find address for: (?P<interface>\S+)",),
        sentence="the node has no such network interface, or not with an address[: {interface}]",
        fix="mend network_interface in the cluster's profile: see `ip -brief address` (GLOO_SOCKET_IFNAME)",
        again="no",
    ),
    Cause(
        key="nccl-interface",
        signs=(
            "Bootstrap : no socket interface found",
            "no NCCL_SOCKET_IFNAME interface found",
            "is neither AF_INET(2) nor AF_INET6(10)",
            "NET/IB : No device found … NCCL_IB_HCA",
            "NCCL WARN NET/Socket : No interface found",
        ),
        numbers=(r"NCCL_SOCKET_IFNAME set (by environment )?to (?P<interface>\S+)",),
        sentence="NCCL finds no network interface that it may use[: {interface}]",
        fix="mend network_interface in the cluster's profile: see `ip -brief address` (NCCL_SOCKET_IFNAME)",
        again="no",
    ),
    Cause(
        key="rendezvous-failed",
        signs=(
            "client socket has timed out … while trying to connect",
            "client socket has failed to connect",
            "RendezvousConnectionError",
            "RendezvousTimeoutError",
            "The IPv4 network addresses of … cannot be retrieved",
        ),
        numbers=(r"connect to \(?(?P<address>[^\s,)]+,? ?\d*)",),
        sentence="the processes of the run did not find each other[, at {address}]",
        fix="try again; should it come back, network_interface in the cluster's profile is wrong",
        again="yes",
    ),
    Cause(
        key="partner-lost",
        signs=(
            "Connection closed by peer",
            "Connection reset by peer",
            "ncclRemoteError",
            "remote process exited or there was a network error",
            "Watchdog caught collective operation timeout",
            "Broken pipe",
            "ChildFailedError",
            "SignalException",
            "Timed out waiting … for recv operation to complete",
            "Timed out waiting … for send operation to complete",
            "failed to recv, got 0 bytes",
            "DistStoreError",
            "NCCL communicator was aborted",
        ),
        sentence="a process of the run lost another one, and the log does not say why that one ended",
        fix="the next attempt continues; should it come back, read the log of the first process that ended[: {log}]",
        again="yes",
        follows=True,
    ),
)

NETWORK = (*HUB, *AMONG_RANKS)
