"""Causes in the machine: memory, disk, processes, and GPUs that break.

CUDA's and HIP's words: pytorch's c10/cuda/CUDACachingAllocator.cpp and cudaGetErrorString.
"""

from __future__ import annotations

from clusterlm.runs.causes.cause import Cause

AMOUNT = r"[\d.]+ [KMGT]i?B"

MEMORY = (
    Cause(
        key="gpu-out-of-memory",
        signs=(
            "CUDA out of memory",
            "HIP out of memory",
            "CUDA error: out of memory",
            "HIP error: out of memory",
            "OutOfMemoryError",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "HIPBLAS_STATUS_ALLOC_FAILED",
            "Cuda failure 'out of memory'",
            "Cuda failure 2 'out of memory'",
            "No available memory for the cache blocks",
            "on startup is less than desired GPU memory utilization",
        ),
        numbers=(
            rf"Tried to allocate (?P<wanted>{AMOUNT})",
            rf"total capac?i?ty of (?P<capacity>{AMOUNT})",
            rf"(?P<capacity>{AMOUNT}) total capacity",
            rf"of which (?P<free>{AMOUNT}|0 bytes) is free",
            rf"already allocated; (?P<free>{AMOUNT}|0 bytes) free",
        ),
        sentence="a GPU ran out of memory[: {wanted} more was asked for][, {free} was free][ of {capacity}]",
        fix="a lower --max-batch-tokens or --micro-batch, smaller weights (--quantize nf4), or more GPUs;"
        " clusterlm plan says what fits",
        again="after progress",
    ),
    Cause(
        key="shared-memory-full",
        signs=(
            "Bus error",
            "unable to allocate shared memory(shm)",
            "out of shared memory. Please try to raise your shared memory limit",
            "insufficient shared memory (shm)",
            "Error while creating shared memory segment",
        ),
        signals=frozenset({7}),
        sentence="the node's shared memory (/dev/shm) is full, or a file shrank while it was read",
        fix='look at df /dev/shm on the node; more memory may help: --sbatch "--mem=64G"',
        again="yes",
    ),
    Cause(
        key="host-out-of-memory",
        signs=(
            "oom-kill",
            "oom_kill",
            "OOM Killed",
            ": Out Of Memory",
            "Exceeded job memory limit",
            "exceeded memory limit",
            "MemoryError",
            "DefaultCPUAllocator: can't allocate memory",
            "DefaultCPUAllocator: not enough memory",
            "Cannot allocate memory",
            "std::bad_alloc",
        ),
        states=frozenset({"OUT_OF_MEMORY"}),
        numbers=(
            r"you tried to allocate (?P<bytes>\d+) bytes",
            r"Unable to allocate (?P<wanted>[\d.]+ [KMGTPE]iB)",
        ),
        sentence="the memory of the node that the job may use was full[: {wanted} more was asked for]",
        fix='ask for more memory: --sbatch "--mem=64G" (clusterlm plan says how much the host needs)',
        again="after progress",
    ),
    Cause(
        key="killed",
        signs=("Signal 9 (SIGKILL) received by PID", "(exitcode: -9)", "task … : Killed", " Killed  "),
        signals=frozenset({9}),
        sentence="a process was killed (SIGKILL): by the kernel when the node's memory was full, or by somebody",
        fix='should it happen again, ask for more memory: --sbatch "--mem=64G" (clusterlm plan says how much it needs)',
        again="yes",
        vague=True,
    ),
)

DISK = (
    Cause(
        key="disk-full",
        signs=(
            "No space left on device",
            "no space left on the disk",
            "Disk quota exceeded",
            "Quota exceeded",
            "over the quota",
            "os error 28",
            "os error 122",
        ),
        numbers=(
            r"(No space left on device|Disk quota exceeded)[^:'\n]*: '(?P<file>[^']+)'",
            r"(?P<file>/\S+?):? [^/\n]*(no space left on the disk|over the quota)",
            r"writing '(?P<file>[^']+)': No space",
        ),
        sentence="the disk or your quota is full[: {file}]",
        fix="make room, or put OUTPUT and HF_HOME on scratch; quotas count files too (`lfs quota`, `quota -s`)",
        again="no",
    ),
    Cause(
        key="file-too-large",
        signs=("File too large", "File size limit exceeded"),
        signals=frozenset({25}),
        sentence="a file grew beyond the limit for a file",
        fix="raise it before sbatch (`ulimit -f unlimited`), or put OUTPUT on another file system",
        again="no",
    ),
    Cause(
        key="too-many-open-files",
        signs=("Too many open files",),
        sentence="the process had as many files open as it may",
        fix="raise the limit before sbatch, which hands it on: ulimit -n 65536",
        again="no",
    ),
    Cause(
        key="stale-file",
        signs=("Stale file handle", "Transport endpoint is not connected", "Input/output error", "os error 116"),
        numbers=(r"(Stale file handle|Input/output error)[^:'\n]*: '(?P<file>[^']+)'",),
        sentence="the file system lost a file while it was in use[: {file}]",
        fix="try again; should it come back, keep caches (HF_HOME, TRITON_CACHE_DIR) away from home",
        again="yes",
    ),
    Cause(
        key="read-only",
        signs=("Read-only file system",),
        numbers=(r"Read-only file system: '(?P<file>[^']+)'", r"touch '(?P<file>[^']+)': Read-only"),
        sentence="a folder that must be written is read-only on the node[: {file}]",
        fix="put OUTPUT and the caches (HF_HOME) on scratch; home is read-only on compute nodes of some sites",
        again="no",
    ),
    Cause(
        key="permission-denied",
        signs=("[Errno 13] Permission denied", "PermissionError", "bash: … : Permission denied"),
        numbers=(r"Permission denied: '(?P<file>[^']+)'",),
        statuses=frozenset({126}),
        sentence="a file may not be read, written or started[: {file}]",
        fix="look at its rights with ls -l, and at those of the folders above it",
        again="no",
    ),
)

BROKEN = (
    Cause(
        key="gpu-fault",
        signs=(
            "uncorrectable ECC error",
            "fallen off the bus",
            "is/are busy or unavailable",
            "CUDA error: unspecified launch failure",
            "CUDA error: unknown error",
            "CUDA error: hardware stack error",
            "Memory access fault by GPU node",
            "HSA_STATUS_ERROR",
            "NVML: Driver/library version mismatch",
            "CUDA driver initialization failed",
        ),
        sentence="a GPU[ of {node}] does not work as it should",
        fix='the next attempt may get another[; should it not: --sbatch "--exclude={node}"]; tell the site\'s support',
        again="yes",
    ),
    Cause(
        key="too-many-processes",
        signs=("fork: retry: Resource temporarily unavailable", "fork: Resource", "can't start new thread"),
        sentence="you have as many processes and threads as you may",
        fix="end some of yours on that machine, or raise the limit before sbatch: ulimit -u",
        again="yes",
    ),
    Cause(
        key="crashed",
        signs=("Segmentation fault", "Fatal Python error: ", "Signal 11 (SIGSEGV)", "Signal 6 (SIGABRT)", "Aborted  "),
        signals=frozenset({6, 11}),
        sentence="a library crashed (a fault in compiled code)",
        fix="try again; should it come back at the same place, another version of torch may help",
        again="yes",
        vague=True,
    ),
)

MACHINE = (*MEMORY, *DISK, *BROKEN)
