"""Why runs end badly: what really happens is recognised, with its numbers; recorded where it cannot happen here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterlm.runs.diagnosis import Evidence
from tests.hub import running_hub
from tests.unit.diagnosed import told

PYTHON = sys.executable
NEEDS_MOUNT = "needs a mount namespace (root, or user namespaces that are allowed)"


def ended(*command: str | Path, within: str | None = None, seconds: float = 120, **settings: str) -> Evidence:
    """What a job would leave that is this command; `within`: bash lines that come before it, such as limits."""
    line = [str(part) for part in command]
    if within is not None:
        line = ["bash", "-c", f'{within}\n"$@"', "job", *line]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | settings
    done = subprocess.run(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    assert status != 0, done.stdout
    return Evidence(state="FAILED", exit_status=status, log_tail=done.stdout)


def python(code: str, *arguments: str | Path, within: str | None = None, **settings: str) -> Evidence:
    return ended(PYTHON, "-c", code, *arguments, within=within, **settings)


def on_a_small_disk(tmp_path: Path, code: str, options: str = "size=64k", at: Path | None = None) -> Evidence:
    """Python code with its working folder, or `at`, on a file system of its own."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip(f"optional: {NEEDS_MOUNT}")
    lines = 'mount -t tmpfs -o "$1" tmpfs "$2" && cd "$3" && exec "$4" -c "$5"'
    return ended(*unshare, "bash", "-c", lines, "job", options, at or tmp_path, tmp_path, PYTHON, code)


@contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """The port of a server on this machine that gives this answer to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_that_torch_does_not_get_is_told_with_its_amount() -> None:
    found = told(python("import torch; torch.empty(4 << 30)", within="ulimit -v 8000000"))
    assert found.cause == "host-out-of-memory"
    assert "16.0 GiB more was asked for" in found.sentence  # 4 Gi numbers of 4 bytes
    assert "--mem" in found.fix


@pytest.mark.parametrize("code", ["bytearray(1 << 50)", "import numpy; numpy.ones(1 << 47)"])
def test_memory_that_python_or_numpy_does_not_get_is_the_hosts(code: str) -> None:
    assert told(python(code)).cause == "host-out-of-memory"


def test_a_killed_process_is_told_as_killed_and_is_worth_another_try() -> None:
    found = told(python("import os; os.kill(os.getpid(), 9)", within=""))
    assert (found.cause, found.worth_another_try) == ("killed", True)
    assert told(Evidence(state="FAILED", signal=9, exit_status=0)).cause == "killed"


def test_full_shared_memory_is_told_whether_it_ends_in_an_error_or_in_a_signal(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    refused = on_a_small_disk(tmp_path, "import torch; torch.ones(1 << 20).share_memory_()", at=shared)
    assert told(refused).cause == "shared-memory-full"
    code = "import mmap, os; f = os.open('/dev/shm/a', os.O_RDWR | os.O_CREAT); os.ftruncate(f, 1 << 20)"
    signalled = on_a_small_disk(tmp_path, f"{code}; mmap.mmap(f, 1 << 20).write(bytes(1 << 20))", at=shared)
    assert signalled.exit_status == 128 + 7
    assert told(signalled).cause == "shared-memory-full"


# ----------------------------------------------------------------------------------------------------------------- disk


def test_a_full_disk_is_told_and_not_tried_again(tmp_path: Path) -> None:
    found = told(on_a_small_disk(tmp_path, "open('answers', 'wb').write(bytes(1 << 20))"))
    assert (found.cause, found.worth_another_try) == ("disk-full", False)
    assert "scratch" in found.fix


def test_a_read_only_folder_is_told_with_the_file(tmp_path: Path) -> None:
    found = told(on_a_small_disk(tmp_path, f"open('{tmp_path}/answers', 'w')", options="ro"))
    assert found.cause == "read-only"
    assert f"{tmp_path}/answers" in found.sentence


@pytest.mark.parametrize(("error", "cause"), [("EDQUOT", "disk-full"), ("ESTALE", "stale-file"), ("EIO", "stale-file")])
def test_what_the_system_says_of_a_file_is_told_with_the_file(error: str, cause: str) -> None:
    code = f"import errno, os; raise OSError(errno.{error}, os.strerror(errno.{error}), '/home/anna/cache/model')"
    found = told(python(code))
    assert found.cause == cause
    assert "/home/anna/cache/model" in found.sentence


def test_a_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    found = told(python(f"open('{tmp_path}/a', 'wb').write(bytes(1 << 20))", within="ulimit -f 8"))
    assert found.cause == "file-too-large"


def test_too_many_open_files_are_told_with_the_limit_to_raise() -> None:
    found = told(python("files = [open('/dev/null') for _ in range(99)]", within="ulimit -n 20"))
    assert found.cause == "too-many-open-files"
    assert "ulimit -n" in found.fix


def test_a_file_that_may_not_be_read_is_told_with_its_name() -> None:
    found = told(python("import os; os.getuid() or os.setuid(65534); open('/etc/shadow')"))
    assert found.cause == "permission-denied"
    assert "/etc/shadow" in found.sentence


def test_too_many_threads_are_told() -> None:
    code = """
import os, resource, threading, time
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.getuid() or os.setuid(65534)
for _ in range(9):
    threading.Thread(target=time.sleep, args=(1,)).start()
"""
    assert told(python(code)).cause == "too-many-processes"


# ------------------------------------------------------------------------------------------------------------- software


def test_a_crash_in_compiled_code_is_told() -> None:
    code = "import ctypes; ctypes.string_at(0)"
    assert told(python(code)).cause == "crashed"
    assert told(python(f"import faulthandler; faulthandler.enable(); {code}")).cause == "crashed"


def test_an_exception_goes_before_a_crash_at_the_end_of_its_process() -> None:
    found = told(python("import atexit, os; atexit.register(os.abort); raise KeyError('the true cause')"))
    assert found.cause == "unknown"
    assert "KeyError: 'the true cause'" in found.sentence


def test_an_instruction_that_the_processor_lacks_is_told() -> None:
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\x0f\\x0b" + bytes(62))  # ud2 of x86; zeros are `udf` of Arm
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    assert told(python(code, within="")).cause == "illegal-instruction"


def test_a_node_without_the_module_command_is_told() -> None:
    found = told(ended("true", within="set -e; module load pytorch"))
    assert found.cause == "no-module-command"
    assert "profile" in found.fix


def test_a_container_runtime_that_is_missing_is_told() -> None:
    found = told(ended("true", within="set -e; PATH=/nowhere; apptainer exec image.sif true"))
    assert found.cause == "container-failed"


def test_a_python_that_the_node_does_not_have_is_told_with_its_path() -> None:
    found = told(ended("/no/such/venv/bin/python", "-m", "clusterlm.worker", within=""))
    assert found.cause == "python-missing"
    assert "/no/such/venv/bin/python" in found.sentence


def test_a_python_without_clusterlm_is_told(tmp_path: Path) -> None:
    found = told(ended(PYTHON, "-S", "-m", "clusterlm.worker", within=f"cd {tmp_path}"))
    assert found.cause == "clusterlm-missing"


def test_a_missing_package_is_told_by_its_name(tmp_path: Path) -> None:
    found = told(ended(PYTHON, "-S", "-c", "import bitsandbytes", within=f"cd {tmp_path}"))
    assert found.cause == "package-missing"
    assert "bitsandbytes" in found.sentence
    assert found.fix.endswith("pip install bitsandbytes")


def test_a_program_for_another_processor_is_told(tmp_path: Path) -> None:
    program = tmp_path / "python"
    # An ELF header of 64 bits whose e_machine is 0x15, 64-bit PowerPC.
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x15\x00" + bytes(44))
    program.chmod(0o755)
    assert told(ended(program, within="")).cause == "wrong-architecture"
    code = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    assert told(python(code, program)).cause == "wrong-architecture"


def test_wheels_for_another_processor_are_told(tmp_path: Path) -> None:
    """Their extensions are named ...-aarch64-linux-gnu.so, which Python does not see on x86_64."""
    import numpy

    def link(source: str, target: str) -> str:
        if not source.endswith(".so"):
            Path(target).symlink_to(source)
        return target

    shutil.copytree(Path(numpy.__file__).parent, tmp_path / "numpy", copy_function=link)
    assert told(python(f"import sys; sys.path.insert(0, '{tmp_path}'); import numpy")).cause == "wrong-architecture"


def test_a_shared_library_that_is_missing_is_told_by_its_name() -> None:
    found = told(python("import ctypes; ctypes.CDLL('libcudart.so.99')"))
    assert found.cause == "library-missing"
    assert "libcudart.so.99" in found.sentence


def test_a_wheel_for_a_newer_system_is_told_with_the_version_that_it_wants(tmp_path: Path) -> None:
    import numpy

    built = next(file for file in sorted(Path(numpy.__file__).parent.rglob("*.so")) if b"GLIBC_2." in file.read_bytes())
    newer = tmp_path / "newer.so"
    newer.write_bytes(built.read_bytes().replace(b"GLIBC_2.", b"GLIBC_9."))
    found = told(python("import ctypes, sys; ctypes.CDLL(sys.argv[1])", newer))
    assert found.cause == "system-too-old"
    assert "GLIBC_9." in found.sentence


def test_a_torch_without_gpu_support_is_told() -> None:
    import torch

    if torch.version.cuda or torch.version.hip:
        pytest.skip("optional: needs a torch that was built for CPUs only")
    assert told(python("import torch; torch.ones(1).cuda()")).cause == "torch-without-gpu"


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_truncated_weights_are_told(tmp_path: Path, kept: int) -> None:
    import numpy
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    save_file({"weight": numpy.ones(500)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    found = told(python("import sys; from safetensors.numpy import load_file; load_file(sys.argv[1])", file))
    assert (found.cause, found.worth_another_try) == ("weights-damaged", False)


# ------------------------------------------------------------------------------------------------------------ the hub

ASK = "import sys; from huggingface_hub import hf_hub_download; hf_hub_download(sys.argv[1], 'config.json')"
LOAD = "import sys; from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[1])"
LOOK = "import sys; from huggingface_hub import HfApi; HfApi().model_info(sys.argv[1])"


@pytest.mark.parametrize(("status", "code"), [(401, ASK), (403, ASK), (403, LOAD)], ids=["401", "403", "load"])
def test_a_gated_model_is_told_with_the_page_to_ask_at(status: int, code: str) -> None:
    with running_hub({}, {"meta-llama/Llama-3.1-8B": (status, "GatedRepo")}) as hub:
        found = told(python(code, "meta-llama/Llama-3.1-8B", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0"))
    assert (found.cause, found.worth_another_try) == ("gated-model", False)
    assert found.fix.startswith("ask for access at https://huggingface.co/meta-llama/Llama-3.1-8B, ")


def test_a_model_that_the_hub_does_not_have_is_told_by_its_name() -> None:
    with running_hub({}, {}) as hub:
        found = told(python(ASK, "anna/modell", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0"))
    assert found.cause == "no-such-model"
    assert "anna/modell" in found.sentence


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_told_and_worth_another_try(status: int) -> None:
    with running_hub({}, {"api/models/anna/model": (status, "")}) as hub:
        found = told(python(LOOK, "anna/model", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0"))
    assert (found.cause, found.worth_another_try) == ("hub-busy", True)


@pytest.mark.parametrize("code", [ASK, LOAD, LOOK], ids=["ask", "load", "look"])
def test_a_model_that_is_not_in_the_cache_of_an_offline_job_is_told(code: str) -> None:
    found = told(python(code, "anna/model", HF_HUB_OFFLINE="1"))
    assert found.cause == "not-in-cache"
    assert "hf download" in found.fix


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "http://127.0.0.1:9"])
def test_a_node_without_internet_is_told(url: str) -> None:
    found = told(python(LOOK, "anna/model", HF_ENDPOINT=url, HF_HUB_OFFLINE="0"))
    assert (found.cause, found.worth_another_try) == ("no-network", False)


def test_a_proxy_that_refuses_is_told() -> None:
    with listening(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as port:
        proxy = f"http://127.0.0.1:{port}"
        found = told(python(LOOK, "anna/model", https_proxy=proxy, HTTPS_PROXY=proxy, HF_HUB_OFFLINE="0"))
    assert found.cause == "proxy-refused"


# -------------------------------------------------------------------------------------------------- among the processes

ALONE = {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1"}
GLOO = "import torch.distributed; torch.distributed.init_process_group('gloo')"
STORE = """
import datetime, sys
from torch.distributed import TCPStore
TCPStore("127.0.0.1", int(sys.argv[1]), 2, sys.argv[2] == "first", timeout=datetime.timedelta(seconds=1))
"""
TWO_RANKS = """
import os, signal, sys, torch, torch.distributed as ranks
ranks.init_process_group("gloo")
ranks.all_reduce(torch.ones(1))
if ranks.get_rank() == 1:
    exec(sys.argv[1])
ranks.all_reduce(torch.ones(1))
"""


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def two_ranks(tmp_path: Path, of_the_second: str) -> Evidence:
    """Two processes under torchrun, of which the second does this after their first step."""
    script = tmp_path / "ranks.py"
    script.write_text(TWO_RANKS)
    launch = [PYTHON, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={unused_port()}"]
    return ended(*launch, script, of_the_second)


def test_a_network_interface_that_gloo_does_not_find_is_told_by_its_name() -> None:
    found = told(python(GLOO, GLOO_SOCKET_IFNAME="hsn0", MASTER_PORT=str(unused_port()), **ALONE))
    assert (found.cause, found.worth_another_try) == ("gloo-interface", False)
    assert "hsn0" in found.sentence
    assert "network_interface" in found.fix


def test_a_port_in_use_is_told_with_its_number_and_worth_another_try() -> None:
    with listening() as port:
        found = told(python(STORE, str(port), "first"))
    assert (found.cause, found.worth_another_try) == ("port-in-use", True)
    assert str(port) in found.sentence


def test_processes_that_do_not_find_each_other_are_told_with_the_address() -> None:
    port = unused_port()
    found = told(python(STORE, str(port), "second"))
    assert (found.cause, found.worth_another_try) == ("rendezvous-failed", True)
    assert f"127.0.0.1, {port}" in found.sentence


@pytest.mark.slow
def test_the_rank_that_failed_goes_before_those_that_lost_it(tmp_path: Path) -> None:
    evidence = two_ranks(tmp_path, "raise KeyError('the true cause')")
    assert "ChildFailedError" in evidence.log_tail
    found = told(evidence)
    assert found.cause == "unknown"
    assert "KeyError: 'the true cause'" in found.sentence


@pytest.mark.slow
def test_a_known_cause_of_one_rank_goes_before_those_that_lost_it(tmp_path: Path) -> None:
    assert told(two_ranks(tmp_path, "bytearray(1 << 50)")).cause == "host-out-of-memory"


@pytest.mark.slow
def test_a_rank_that_was_killed_goes_before_those_that_lost_it(tmp_path: Path) -> None:
    assert told(two_ranks(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")).cause == "killed"


@pytest.mark.slow
def test_a_rank_that_ends_without_a_word_leaves_only_those_that_lost_it(tmp_path: Path) -> None:
    found = told(two_ranks(tmp_path, "os._exit(1)"))
    assert (found.cause, found.worth_another_try) == ("partner-lost", True)
