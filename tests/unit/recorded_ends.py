"""Ends of logs that a machine without GPUs cannot bring about: as users have published them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RecordedEnd:
    cause: str
    source: str
    log: str
    told: tuple[str, ...] = ()
    """What the sentence or the fix must say of it."""


ENDS = (
    RecordedEnd(
        "gpu-out-of-memory",
        "github.com/pytorch/pytorch/issues/16417, comment of 2024-03-13",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of "
        "23.65 GiB of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB memory in use.",
        ("22.00 MiB", "23.65 GiB", "11.06 MiB", "--max-batch-tokens"),
    ),
    RecordedEnd(
        "gpu-out-of-memory",
        "github.com/pytorch/pytorch/issues/59778, before torch 2.0",
        "RuntimeError: CUDA out of memory. Tried to allocate 2.26 GiB (GPU 0; 6.00 GiB total capacity; 781.59 MiB "
        "already allocated; 3.03 GiB free; 1.24 GiB reserved in total by PyTorch)",
        ("2.26 GiB", "6.00 GiB", "3.03 GiB"),
    ),
    RecordedEnd(
        "gpu-out-of-memory",
        "github.com/ROCm/TheRock/issues/1054",
        "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of "
        "15.24 GiB of which 15.09 GiB is free. Of the allocated memory 0 bytes is allocated by PyTorch",
        ("16.00 GiB", "15.24 GiB"),
    ),
    RecordedEnd(
        "host-out-of-memory",
        "github.com/nextflow-io/nextflow/issues/5932",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=11300781.0. Some of the step tasks have been OOM "
        "Killed.\nsrun: error: sdumont6156: task 0: Out Of Memory",
    ),
    RecordedEnd(
        "host-out-of-memory",
        "github.com/ArjunaCluster/ArjunaUsers/issues/52",
        "/var/spool/slurmd/job00191/slurm_script: line 28:  8156 Killed                  python3 main.py --prop hform "
        "--epochs 400\n"
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=191.batch cgroup. Some of your processes may have "
        "been killed by the cgroup out-of-memory handler.",
    ),
    RecordedEnd(
        "shared-memory-full",
        "github.com/pytorch/pytorch/issues/108861",
        "RuntimeError: DataLoader worker (pid 11011) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit",
    ),
    RecordedEnd(
        "stale-file",
        "github.com/nengo/nengo/issues/913",
        "OSError: [Errno 116] Stale file handle: "
        "'/home/jgosmann/.cache/nengo/decoders/00/19de1d82bc7f5fb5d28561bec9328558539f59.nco'\n"
        "--- SharcNET Job Epilogue ---",
        ("/home/jgosmann/.cache/nengo/decoders/00/19de1d82bc7f5fb5d28561bec9328558539f59.nco",),
    ),
    RecordedEnd(
        "gpu-fault",
        "github.com/jade-hpc-gpu/jade-hpc-gpu.github.io/issues/194",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously "
        "reported at some other API call, so the stacktrace below might be incorrect.",
        ("support",),
    ),
    RecordedEnd(
        "module-unknown",
        "Debian's lmod 8.6.19: lmod bash load pytorch/9.9",
        'Lmod has detected the following error: The following module(s) are unknown:\n"pytorch/9.9"\n\n'
        'Please check the spelling or version number. Also try "module spider ..."',
        ("pytorch/9.9", "module spider"),
    ),
    RecordedEnd(
        "module-unknown",
        "Debian's environment-modules 5.2.0: modulecmd.tcl bash load pytorch/9.9",
        "ERROR: Unable to locate a modulefile for 'pytorch/9.9'",
        ("pytorch/9.9",),
    ),
    RecordedEnd(
        "driver-too-old",
        "github.com/drboog/Shifted_Diffusion/issues/13; 11040 is CUDA 11.4",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
        "driver by downloading and installing a new version",
        ("CUDA 11.4",),
    ),
    RecordedEnd(
        "gpu-not-seen",
        "github.com/MisEty/RTG-SLAM/issues/32",
        "    torch._C._cuda_init()\nRuntimeError: No CUDA GPUs are available",
        ("CUDA_VISIBLE_DEVICES",),
    ),
    RecordedEnd(
        "no-kernel-for-gpu",
        "github.com/pytorch/pytorch/issues/52736",
        "./lib/python3.6/site-packages/torch/cuda/__init__.py:104: UserWarning:\nGeForce RTX 3070 with CUDA capability "
        "sm_86 is not compatible with the current PyTorch installation.\n"
        "The current PyTorch install supports CUDA capabilities sm_37 sm_50 sm_60 sm_70 sm_75.",
        ("GeForce RTX 3070, sm_86",),
    ),
    RecordedEnd(
        "no-kernel-for-gpu",
        "github.com/ROCm/legacy-rocm-build/issues/4208, an MI250X",
        "RuntimeError: HIP error: invalid device function\nHIP kernel errors might be asynchronously reported at some "
        "other API call, so the stacktrace below might be incorrect.",
    ),
    RecordedEnd(
        "no-bfloat16",
        "github.com/vllm-project/vllm/issues/946",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla "
        "V100-SXM2-32GB GPU has compute capability 7.0.",
        ("Tesla V100-SXM2-32GB", "7.0", "--dtype float16"),
    ),
    RecordedEnd(
        "no-kernel-for-gpu",
        "github.com/Turoad/CLRNet/issues/83",
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    ),
    RecordedEnd(
        "no-bfloat16",
        "github.com/databrickslabs/dolly/issues/11, transformers on a V100",
        "    raise ValueError(\nValueError: Your setup doesn't support bf16/gpu. You need torch>=1.10, using "
        "Ampere GPU with cuda>=11.0",
        ("--dtype float16",),
    ),
    RecordedEnd(
        "nccl-interface",
        "github.com/EasonXiao-888/MambaTree/issues/14",
        "RuntimeError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1201, internal error, NCCL "
        "version 2.14.3\nncclInternalError: Internal check failed.\nLast error:\nBootstrap : no socket interface found",
        ("network_interface",),
    ),
    RecordedEnd(
        "nccl-interface",
        "github.com/NVIDIA/nccl/issues/1837",
        "[trainer0|0]:ncclInternalError: Internal check failed.\n[trainer0|0]:Last error:\n[trainer0|0]:"
        "ncclSocketInit: connecting to address  with family 59936 is neither AF_INET(2) nor AF_INET6(10)",
    ),
    RecordedEnd(
        "gloo-interface",
        "torch 2.13 on a machine whose host name has no address",
        "[W1121 14:22:53.872333289 ProcessGroupGloo.cpp:524] Warning: Unable to resolve hostname to a (local) "
        "address. Using the loopback address as fallback. Manually set the network interface to bind to with "
        "GLOO_SOCKET_IFNAME.",
    ),
)
