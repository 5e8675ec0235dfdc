"""Devices and precisions that a machine can run."""

import re

from mimlab.errors import Refused, shown

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("no", "bf16", "fp16")


def best():
    """The device that "auto" is, as Accelerate takes it: cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device, precision, processes=1):
    """Refuse a device or precision that there is not, or that this machine has not."""
    import torch

    if device not in DEVICES:
        known = f"there are: {', '.join(DEVICES)}"
        one = re.fullmatch(r"cuda:(\d{1,4})", device) if isinstance(device, str) else None
        if one:
            known = f"CUDA_VISIBLE_DEVICES={one[1]} in the environment chooses that GPU; then use device = 'cuda'"
        raise Refused(f"device = {shown(device)}; {known}")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("device = 'cuda': this machine has no usable NVIDIA GPU; use device = 'cpu' or 'auto'")
    if device == "mps" and not torch.backends.mps.is_available():
        raise Refused("device = 'mps': this machine has no usable Apple GPU; use device = 'cpu' or 'auto'")
    if precision not in PRECISIONS:
        raise Refused(f"precision = {shown(precision)}; there are: {', '.join(PRECISIONS)}")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if precision == "fp16" and not gpus:
        slower = "" if "mps" in (device, best()) else ", which most CPUs run slower"
        raise Refused(f"precision = 'fp16' needs an NVIDIA GPU; use no (or bf16{slower})")
    if gpus and processes > gpus:
        raise Refused(f"processes = {processes}: there are {gpus} GPUs; use at most {gpus}, or device = 'cpu'")


def check_compiler(device):
    """Refuse torch.compile where nothing can compile for the device: Triton needs a C compiler, a CPU's code a C++ one."""
    import os
    import shutil

    device = best() if device == "auto" else device
    if device == "mps":
        raise Refused("compile = True: blocks are not compiled for Apple GPUs; use compile = False, or device = 'cpu'")
    what, given, known = {
        "cuda": ("C", "CC", ("gcc", "clang", "cl")),
        "cpu": ("C++", "CXX", ("g++", "clang++", "cl")),
    }[device]
    if not any(map(shutil.which, (os.environ.get(given) or known[0], *known))):
        raise Refused(
            f"compile = True: no {what} compiler ({known[0]} or {known[1]}) was found; install one, or use compile = False"
        )
