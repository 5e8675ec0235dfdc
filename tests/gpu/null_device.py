"""A CUDA device that computes nothing, built for the torch of this Python; see `nullcuda.c`.

It is loaded before torch's CUDA runtime and answers in its place. Memory is host memory (reserved, so 141 GB cost nothing until
they are touched), copies are made, and kernels, cuBLAS, cuDNN and NCCL calls are counted and left out. torch's own code runs as
it would on a GPU: device checks, allocator, autocast, GradScaler, streams, copies, waits, DistributedDataParallel and FSDP2 over "NCCL".
What is not there: numbers (what is read back is 0), Triton and inductor, cuDNN (switched off here), time.
"""

import collections
import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = ("libc10_cuda.so", "libtorch_cuda.so", "libtorch_python.so", "libcaffe2_nvrtc.so")
KINDS = [
    "sync_stream",
    "sync_device",
    "sync_event",
    "h2d_pageable",
    "h2d_pinned",
    "d2h_pageable",
    "d2h_pinned",
    "d2d",
    "memset",
    "malloc",
    "hostalloc",
    "launch",
    "blas",
    "dnn",
    "nccl",
    "query",
]
WAITS = ("sync_stream", "sync_device", "sync_event")
START = """import os
if "libnullcuda" in os.environ.get("LD_PRELOAD", ""):
    import torch

    torch.backends.cudnn.enabled = False  # convolutions and attention by torch's own kernels: cuDNN has too many answers to give
    torch.backends.cuda.enable_cudnn_sdp(False)
"""


def site():
    """The folder that torch is installed in, or None if it is no build for CUDA."""
    return next((Path(p) for p in sys.path if (Path(p) / "torch/lib/libtorch_cuda.so").exists()), None)


def header():
    """CUDA's header of types, from the packages that torch's build needs, or None."""
    found = [
        path for place in ("cu*", "cuda_runtime") for path in site().glob(f"nvidia/{place}/include/driver_types.h")
    ]
    return found[0] if found else None


def missing():
    """What this machine lacks for the null device, in words, or None."""
    if sys.platform != "linux":
        return f"the null device is for Linux, this is {sys.platform}"
    gone = [tool for tool in ("gcc", "nm") if not shutil.which(tool)]
    if gone:
        return f"no {' and no '.join(gone)} to build the null device with"
    if site() is None:
        return "this torch is no build for CUDA"
    return None if header() else "CUDA's header driver_types.h is in none of the packages nvidia-*"


def build(folder):
    """Compile `nullcuda.c`; the path of the library. What torch asks for and it does not define becomes `return 0`."""
    folder, wanted = Path(folder), set()
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        command = ["nm", "-D", site() / "torch/lib" / name]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wanted |= {line.split()[1].split("@")[0] for line in listed.splitlines() if line.split()[0] == "U"}
    wanted = {n for n in wanted if re.match(r"(cuda[A-Z]|cu[A-Z]|cublas|cudnn|nccl)", n) and not n.startswith("cuFile")}
    text = (HERE / "nullcuda.c").read_text()
    have = set(re.findall(r"\b((?:__cuda|cuda|cu|cublas|cudnn|nccl)[A-Z]\w*)\(", text))
    have |= set(re.findall(r"(?:GEMM|TALK|MADE)\((\w+)\)", text))
    counted, lines = {"cudnn": "DNN", "nccl": "NCCL"}, []
    for name in sorted(wanted - have):
        kind = next((kind for start, kind in counted.items() if name.startswith(start)), None)
        lines.append(f'R {name}(void) {{ {f"""note({kind}, 0, "{name}"); """ if kind else ""}return 0; }}')
    (folder / "stubs.inc").write_text("\n".join(lines) + "\n")
    (folder / "crt/host_defines.h").write_text("")
    names = ["__device_builtin__=", "__host__=", "__device__="]
    names += [f"{name}(n)=__attribute__((aligned(n)))" for name in ("__align__", "__builtin_align__")]
    command = ["gcc", "-O1", "-shared", "-fPIC", "-w", *(f"-D{name}" for name in names)]
    command += [f"-I{place}" for place in (folder / "crt", folder, header().parent)]
    command += ["-include", "stddef.h", "-include", "limits.h", HERE / "nullcuda.c", "-o", folder / "libnullcuda.so"]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    with contextlib.suppress(FileExistsError):
        (folder / "libcuda.so.1").symlink_to("libnullcuda.so")
    (folder / "start").mkdir(exist_ok=True)
    (folder / "start/sitecustomize.py").write_text(START)
    return folder / "libnullcuda.so"


def environment(library, root, gpus=1):
    """What a process needs to find the device and the clone at `root`.

    Several processes read what the others sent, so what is read back is not made 0 there: each tensor gets fresh memory, which is.
    """
    folder, alone = Path(library).parent, gpus == 1
    path = os.pathsep.join([str(folder / "start"), str(root)])
    given = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}
    given |= {"NULLCUDA_DEVICES": str(gpus), "NULLCUDA_ZEROS": str(1 << 50) if alone else "0", "OMP_NUM_THREADS": "1"}
    given |= {} if alone else {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return os.environ | given


def place():
    """file:line of mimlab that is at work in this thread, or the innermost lines outside."""
    stack = traceback.extract_stack()[:-2]
    for frame in reversed(stack):
        if f"{os.sep}mimlab{os.sep}" in frame.filename:
            return f"mimlab/{frame.filename.split(f'{os.sep}mimlab{os.sep}')[-1]}:{frame.lineno}  {frame.line}"
    return "outside mimlab: " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(stack[-3:]))


class Heard:
    """What the device heard: `counts` by kind; `waits`: place in mimlab -> how often the host waited there."""

    def __init__(self):
        self.counts, self.waits = {}, collections.Counter()


@contextlib.contextmanager
def listening():
    """`Heard` of the block."""
    heard, library = Heard(), ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint64, ctypes.c_char_p)
    callback = kind(lambda kind, size, name: heard.waits.update([place()]))
    library.nullcuda_count.restype = ctypes.c_uint64
    library.nullcuda_reset()
    library.nullcuda_listen(callback, ctypes.c_uint32(sum(1 << KINDS.index(k) for k in WAITS)))
    try:
        yield heard
    finally:
        library.nullcuda_listen(None, ctypes.c_uint32(0))
        heard.counts = {k: library.nullcuda_count(i) for i, k in enumerate(KINDS)}
