"""Devices and precisions that a machine can run."""

from mimlab.errors import Refused, shown


def check_device(device, precision, processes=1):
    import torch

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise Refused(f"device = {shown(device)}; there are: auto, cpu, cuda, mps")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("device = 'cuda': this machine has no usable NVIDIA GPU; use device = 'cpu' or 'auto'")
    if device == "mps" and not torch.backends.mps.is_available():
        raise Refused("device = 'mps': this machine has no usable Apple GPU; use device = 'cpu' or 'auto'")
    if precision not in ("no", "bf16", "fp16"):
        raise Refused(f"precision = {shown(precision)}; there are: no, bf16, fp16")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if precision == "fp16" and not gpus:
        raise Refused("precision = 'fp16' needs a GPU; use no (or bf16, which most CPUs run slower)")
    if gpus and processes > gpus:
        raise Refused(f"processes = {processes}: there are {gpus} GPUs; use at most {gpus}, or device = 'cpu'")


def check_compiler(device):
    """Refuse torch.compile where nothing can compile for the device."""
    import shutil

    import torch

    if device == "mps" or (not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "clang++", "cl")))):
        raise Refused("compile = True: no C++ compiler (g++ or clang++) was found; install one, or use compile = False")
