"""Causes in the software of a node: modules, Python, wheels, drivers, containers, weights.

Words of bash, CPython, glibc, Lmod 8.6, environment-modules 5.2, torch 2.1 to 2.13, vLLM and safetensors.
"""

from __future__ import annotations

from clusterlm.runs.causes.cause import Cause

ENVIRONMENT = (
    Cause(
        key="module-unknown",
        signs=(
            "The following module(s) are unknown",
            "These module(s) or extension(s) exist but cannot be loaded",
            "Unable to locate a modulefile for",
        ),
        numbers=(r"(are unknown|as requested|modulefile for)[^\"']{0,5}[\"'](?P<module>[^\"']+)",),
        sentence="the site has no such module (any more)[: {module}]",
        fix="look for its new name with `module spider`, and mend software.modules in the cluster's profile",
        again="no",
    ),
    Cause(
        key="no-module-command",
        signs=("module: command not found", "module: not found"),
        sentence="the node has no `module` command, and the cluster's profile loads modules",
        fix='take software.modules out of the profile, or --sbatch "--export=ALL" from a shell that has the command',
        again="no",
    ),
    Cause(
        key="container-failed",
        signs=(
            "FATAL:   ",
            "could not open image",
            "pyxis: ",
            "singularity: command not found",
            "apptainer: command not found",
        ),
        numbers=(r"FATAL: +(?P<why>.+)", r"pyxis: (?P<why>.+)", r"(?P<why>\w+: command not found)"),
        sentence="the container cannot be started[: {why}]",
        fix="check --container: its file must be there and readable on the compute nodes",
        again="no",
    ),
    Cause(
        key="clusterlm-missing",
        signs=("No module named 'clusterlm'", "No module named clusterlm"),
        sentence="the Python on the node has no clusterlm",
        fix="install it where the nodes see it, in an environment on home, project or scratch, and submit from there",
        again="no",
    ),
    Cause(
        key="package-missing",
        signs=("ModuleNotFoundError: No module named", "PackageNotFoundError: No package metadata"),
        numbers=(r"No module named '(?P<package>[\w.]+)'", r"No package metadata was found for (?P<package>\S+)"),
        sentence="a Python package is missing on the node[: {package}]",
        fix="install it into the environment that the job uses: pip install[ {package}]",
        again="no",
        vague=True,
    ),
    Cause(
        key="python-missing",
        signs=(
            "python: No such file or directory",
            "python3: No such file or directory",
            "python: command not found",
            "python3: command not found",
            "execve(): … No such file or directory",
            "bad interpreter: No such file or directory",
            "error: … python … No such file or directory",
        ),
        numbers=(
            r"(?P<file>/\S*python[\d.]*): No such file",
            r"execve\(\): (?P<file>[^:]+): No such",
            r": (?P<file>[^\s:]+): bad interpreter",
        ),
        statuses=frozenset({127}),
        sentence="the program that was to be started is not on the node[: {file}]",
        fix="keep the environment where the nodes see it (home, project or scratch, not /tmp), and submit from it",
        again="no",
    ),
)

BUILD = (
    Cause(
        key="wrong-architecture",
        signs=(
            "Exec format error",
            "wrong ELF class",
            "cannot execute binary file",
            "Importing the numpy C-extensions failed",
            "No module named 'torch._C'",
        ),
        numbers=(r"(?P<file>[^\s:']+): cannot execute binary", r"Exec format error: '(?P<file>[^']+)'"),
        sentence="a program or library was built for another kind of processor[: {file}]",
        fix="install the environment on a node of this kind: GH200 nodes need aarch64 wheels, login nodes may differ",
        again="no",
    ),
    Cause(
        key="illegal-instruction",
        signs=("Illegal instruction", "Signal 4 (SIGILL)"),
        signals=frozenset({4}),
        sentence="a library was built for a newer processor than the node has",
        fix="install a build for this processor (the site's own module), or take another --partition",
        again="no",
    ),
    Cause(
        key="system-too-old",
        signs=("version `GLIBC_", "version `GLIBCXX_", "version `CXXABI_"),
        numbers=(r"version `(?P<version>[\w.]+)' not found",),
        sentence="a wheel wants a newer system than the node has[: {version}]",
        fix="use the site's own Python and torch module or a container, or wheels of an older release",
        again="no",
    ),
    Cause(
        key="library-missing",
        signs=("cannot open shared object file", "undefined symbol: "),
        numbers=(r"(?P<library>[^\s:]+\.so[.\d]*): cannot open", r"undefined symbol: (?P<library>\w+)"),
        sentence="a shared library is missing on the node, or is of another version[: {library}]",
        fix="load the module that brings it (software.modules in the profile), or install wheels that bring their own",
        again="no",
        vague=True,
    ),
)

GPU_SOFTWARE = (
    Cause(
        key="driver-too-old",
        signs=(
            "The NVIDIA driver on your system is too old",
            "CUDA driver version is insufficient for CUDA runtime version",
            "forward compatibility was attempted on non supported HW",
        ),
        numbers=(r"found version (?P<driver>\d+)",),
        sentence="the GPU's driver on the node is too old for this torch[ (it speaks CUDA {cuda})]",
        fix="install torch built for an older CUDA (`nvidia-smi` on the node says which), or use the site's module",
        again="no",
    ),
    Cause(
        key="torch-without-gpu",
        signs=("Torch not compiled with CUDA enabled", "not compiled with ROCm"),
        sentence="this torch was built without GPU support",
        fix="install torch for CUDA or ROCm into the job's environment, or use the site's module",
        again="no",
    ),
    Cause(
        key="gpu-not-seen",
        signs=(
            "No CUDA GPUs are available",
            "Found no NVIDIA driver on your system",
            "no CUDA-capable device is detected",
            "No HIP GPUs are available",
            "no ROCm-capable device is detected",
            "CUDA error: invalid device ordinal",
            "HIP error: invalid device ordinal",
        ),
        sentence="the job sees no GPU, or fewer than it uses[, on {node}]",
        fix="check that the job asks for them and that CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES is not set by hand",
        again="no",
    ),
    Cause(
        key="no-kernel-for-gpu",
        signs=(
            "no kernel image is available for execution on the device",
            "HIP error: invalid device function",
            "CUDA error: invalid device function",
            "is not compatible with the current PyTorch installation",
            "device kernel image is invalid",
            "rocBLAS error: Cannot read … TensileLibrary",
        ),
        numbers=(r"(?P<gpu>\S[^\n]*?) with CUDA capability (?P<capability>sm_\d+)",),
        sentence="this torch was not built for the node's GPU[: {gpu}, {capability}]",
        fix="install a torch built for it (older GPUs: an older release or CUDA), or take another --partition",
        again="no",
    ),
    Cause(
        key="no-bfloat16",
        signs=(
            "Bfloat16 is only supported on GPUs",
            "bf16/gpu … requires",
            "Your setup doesn't support bf16",
            "bf16 is not supported",
            "bfloat16 is not supported",
            "BFloat16 is not supported",
            "Current CUDA Device does not support bfloat16",
        ),
        numbers=(r"Your (?P<gpu>.+?) GPU has compute capability (?P<capability>[\d.]+)",),
        sentence="the GPU does not compute in bfloat16[: {gpu}, compute capability {capability}; 8.0 is needed]",
        fix="--dtype float16, or a --partition with newer GPUs (A100 and later)",
        again="no",
    ),
)

MODEL = (
    Cause(
        key="weights-damaged",
        signs=(
            "Error while deserializing header",
            "is truncated or damaged",
            "is no safetensors file, or damaged",
            "PytorchStreamReader failed",
            "invalid load key, 'v'",
        ),
        sentence="a file of the model's weights is truncated or damaged",
        fix="fetch the model again (hf download --force-download), with enough room on the disk",
        again="no",
    ),
)

SOFTWARE = (*ENVIRONMENT, *BUILD, *GPU_SOFTWARE, *MODEL)
