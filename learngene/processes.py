"""What a process computes on, its memory and its precision, and what several processes of one run agree on."""
import multiprocessing
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast

# Needed by `deterministic`; PyTorch reads it once, at a process's first matrix product on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def use_cpu() -> bool:
    "Whether to force accelerate onto the CPU."
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu:
        return gpu.type == "mps"  # Apple's GPU has no double precision, which `evaluate` sums in
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def broadcast_flag(
    flag: bool,  # of this process
) -> bool:
    "Broadcast rank 0's flag."
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return flag
    return bool(broadcast(torch.tensor([int(flag)], device=PartialState(cpu=use_cpu()).device)).item())


def device_name(
    device,  # a torch.device
) -> str:
    "Return the name by which records know a device: the GPU's model, or `cpu`."
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(
    device,  # torch.device of the process
) -> float:
    "Return this process's peak memory in MiB; on a GPU, that of the GPU."
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    _, on_linux, peak = (status.read_text() if status.is_file() else "").partition("VmHWM:")
    if on_linux:  # where `getrusage` includes the parent's peak
        return int(peak.split()[0]) / 2**10
    import resource  # Unix alone has it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def matmul_precision(
    device,  # torch.device of the process
    deterministic=False,  # allow deterministic algorithms only; RuntimeError for an operation that has none
):
    "Use TF32 on a GPU, and deterministic algorithms if wanted; restore settings after."
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    precision = torch.get_float32_matmul_precision()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if deterministic:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        memory.fill_uninitialized_memory = False  # one kernel for each new tensor, all of which are written here
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = flags
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warn_only)


def check_main_guard(
    workers: int,  # processes that load images
):
    """Raise RuntimeError when loading processes would run the caller's script unguarded.

    Started by "spawn" or "forkserver", they import the script; a notebook and the command line need no guard.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not workers or method == "fork":
        return
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    source = script.read_text(encoding="utf-8", errors="replace") if script.is_file() else "__name__"
    is_being_imported = getattr(multiprocessing.current_process(), "_inheriting", False)
    if is_being_imported or "__name__" not in source:
        raise RuntimeError(f"with workers={workers}, each process that loads images runs {script.name} again; put its "
                           "calls under `if __name__ == \"__main__\":`, or use workers=0.")
