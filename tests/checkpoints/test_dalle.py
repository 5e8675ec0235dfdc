"""Whole-module pickles read without running them; those that ask for anything else are refused unexecuted."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from oracle_cases import cases, load
from safetensors.torch import save_file

from mimlab.checkpoints import dalle
from mimlab.errors import Refused
from mimlab.tokenizers.dalle import Encoder

# Classes of the published files' names, as a package that exists only in the process that writes.
PACKAGE = {
    "__init__.py": "",
    "utils.py": """
import torch
class Conv2d(torch.nn.Module):
    def __init__(self, w, b):
        super().__init__()
        self.device, self.use_float16, self.kw = torch.device("cpu"), True, w.shape[2]
        self.w, self.b = torch.nn.Parameter(w, requires_grad=False), torch.nn.Parameter(b, requires_grad=False)
""",
    "encoder.py": """
import torch
from collections import OrderedDict
from dall_e.utils import Conv2d
class EncoderBlock(torch.nn.Module):
    pass
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.group_count, self.device = 4, torch.device("cpu")
def build(state):
    top = Encoder()
    for name in [name[:-2] for name in state if name.endswith(".w")]:
        place = top
        for part in name.split(".")[:-1]:
            kind = EncoderBlock if part.startswith("block_") else torch.nn.Sequential
            if part not in place._modules:
                place.add_module(part, kind())
            place = place._modules[part]
        place.add_module("relu", torch.nn.ReLU())
        place.add_module(name.split(".")[-1], Conv2d(state[name + ".w"], state[name + ".b"]))
    top.blocks.add_module("upsample", torch.nn.Upsample(scale_factor=2, mode="nearest"))
    return top
""",
}
WRITE = """
import sys, torch
from safetensors.torch import load_file
from dall_e.encoder import build
network = build(load_file(sys.argv[1]))
torch.save(network, sys.argv[2])
torch.save(network, sys.argv[3], _use_new_zipfile_serialization=False)
"""


def published(folder, state):
    """The files that OpenAI's code would write for a state dict: torch's zip format, and the older one."""
    (folder / "dall_e").mkdir()
    for name, text in PACKAGE.items():
        (folder / "dall_e" / name).write_text(text)
    save_file(state, folder / "state.safetensors")
    paths = [folder / "zipped.pkl", folder / "older.pkl"]
    command = [sys.executable, "-c", WRITE, folder / "state.safetensors", *paths]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, timeout=120)
    return paths


@pytest.fixture(scope="module")
def state():
    return load(cases("dalle_encoder")[0])[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory, state):
    return published(tmp_path_factory.mktemp("published"), state)


@pytest.mark.parametrize("which", [0, 1], ids=["zip", "older"])
def test_a_published_module_is_read_without_its_package(files, state, which):
    assert zipfile.is_zipfile(files[which]) == (which == 0)
    with pytest.raises(ModuleNotFoundError):
        import dall_e  # noqa: F401
    found = dalle.read(files[which])
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert dalle.shapes(files[which]) == {name: tuple(value.shape) for name, value in state.items()}
    with pytest.raises((pickle.UnpicklingError, ModuleNotFoundError)):
        torch.load(files[which], weights_only=True)  # what makes the reader necessary


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 1}}], ids=["bare", "in a dict"]
)
def test_plain_state_dicts(state, tmp_path, older, wrap):
    torch.save(wrap(OrderedDict(state)), tmp_path / "a.pth", _use_new_zipfile_serialization=not older)
    found = dalle.read(tmp_path / "a.pth")
    assert found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())
    save_file(state, tmp_path / "a.safetensors")
    assert torch.equal(dalle.read(tmp_path / "a.safetensors")["blocks.input.w"], state["blocks.input.w"])
    assert dalle.shapes(tmp_path / "a.safetensors") == dalle.shapes(tmp_path / "a.pth")


def test_views_half_precision_and_shared_storages(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    state = {"all": base, "turned": base.T, "part": base[1:3, ::2], "half": base.half(), "count": torch.tensor(7)}
    torch.save(state, tmp_path / "a.pt")
    found = dalle.read(tmp_path / "a.pt")
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())


def test_it_loads_and_reports_names(files, state):
    config = load(cases("dalle_encoder")[0])[2]["config"]
    network = Encoder(config["vocab_size"], config["n_hid"], config["n_blk_per_group"])
    assert dalle.load_network(network, files[1]) == ([], [])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    short = {name: value for name, value in state.items() if name != "blocks.input.b"}
    with pytest.raises(Refused, match=r"missing names \['blocks.input.b'\]"):
        dalle.load_network(network, short)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


def wicked(path, thing, older):
    torch.save({"blocks.input.w": torch.zeros(2), "x": thing}, path, _use_new_zipfile_serialization=not older)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda mark: (os.system, f"touch {mark}"), "posix.system|nt.system"),
        # protocol 2 has the names of Python 2
        (lambda mark: (eval, f"open({str(mark)!r}, 'w')"), "builtin__.eval"),
        (lambda mark: (Path.touch, mark), "getattr|pathlib"),
        (lambda mark: (torch.nn.Module.train, mark), "getattr|torch.nn"),
        (lambda mark: (torch.load, str(mark)), "torch.serialization.load"),
        (lambda mark: (__import__, "os"), "builtin__.__import__"),
        (lambda mark: (subprocess.check_call, ["touch", str(mark)]), "commands.check_call"),
    ],
    ids=["system", "eval", "touch", "method", "load", "import", "subprocess"],
)
def test_a_file_that_asks_for_a_function_is_refused_by_name_and_nothing_runs(tmp_path, call, named, older):
    mark = tmp_path / "was-run"
    wicked(tmp_path / "a.pkl", Calls(*call(mark)), older)
    with pytest.raises(Refused, match=f"asks for .*({named}).*nothing of it was run"):
        dalle.read(tmp_path / "a.pkl")
    with pytest.raises(Refused, match="asks for"):
        dalle.shapes(tmp_path / "a.pkl")
    assert not mark.exists()


def opcodes(path, *codes):
    """A zip with a hand-written data.pkl, as `torch.save` would never write it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"".join(codes))
        archive.writestr("a/data/0", b"\0" * 8)


SEQUENTIAL = b"ctorch.nn.modules.container\nSequential\n"


@pytest.mark.parametrize(
    "codes",
    [
        [SEQUENTIAL, b"N}X\x08\x00\x00\x00__init__c__builtin__\nset\ns\x86b."],  # a new __init__ for the class itself
        [SEQUENTIAL, b")\x81}X\x08\x00\x00\x00_modulesNsb."],  # no modules in it
        [b"ccollections\nOrderedDict\nN}X\x05\x00\x00\x00itemsNs\x86b."],
        [b"N."],
        [b"}X\x01\x00\x00\x00aK\x01s."],
        [b"\x80\x05\x8c\x06dall_e\x8c\x0autils.os.x\x93."],
        [b"(" * 50_000, b"t" * 50_000, b"."],
        [b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f."],
    ],
)
def test_pickles_written_by_hand_are_refused_and_change_nothing(tmp_path, files, state, codes):
    opcodes(tmp_path / "a.pkl", *codes)
    with pytest.raises(Refused):
        dalle.read(tmp_path / "a.pkl")
    assert dalle.read(files[0]).keys() == state.keys()


def stored(shape, stride, offset=0, count=2, kind="FloatStorage"):
    """A dict of one tensor, with any numbers in its note."""
    told = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", getattr(torch, kind), "0", "cpu", count) if thing is marker else None

        def reducer_override(self, thing):
            if thing is tensor:
                return torch._utils._rebuild_tensor_v2, (marker, offset, shape, stride, False, OrderedDict())
            return NotImplemented

    marker, tensor = object(), torch.zeros(1)
    Pickler(told, protocol=2).dump({"a": tensor})
    return told.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (1 << 40,), "stride": (0,)},  # would fill the memory
        {"shape": (2,), "stride": (5,)},
        {"shape": (2,), "stride": (1,), "offset": 1},
        {"shape": (1,), "stride": (1,), "offset": -1},
        {"shape": (2,), "stride": (1,), "count": 3},
        {"shape": (2,), "stride": (1,), "kind": "DoubleStorage"},
        {"shape": (-1,), "stride": (1,)},
    ],
)
def test_notes_of_tensors_that_do_not_fit_the_numbers_are_refused(tmp_path, given):
    opcodes(tmp_path / "a.pkl", stored((2,), (1,)))
    assert dalle.read(tmp_path / "a.pkl")["a"].tolist() == [0, 0]
    opcodes(tmp_path / "a.pkl", stored(**given))
    with pytest.raises(Refused, match="truncated or no file of torch.save"):
        dalle.read(tmp_path / "a.pkl")


def test_missing_truncated_and_foreign_files_are_refused(tmp_path, files):
    with pytest.raises(Refused, match="no checkpoint at"):
        dalle.read(tmp_path / "none.pkl")
    for which in files:
        whole = which.read_bytes()
        for share in (0, 0.1, 0.5, 0.9, 0.999):
            (tmp_path / "a.pkl").write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(Refused, match="truncated or no file of torch.save"):
                dalle.read(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_text("<!DOCTYPE html><title>404</title>")
    with pytest.raises(Refused, match="truncated or no file of torch.save"):
        dalle.read(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(Refused, match="truncated or no file of torch.save"):
        dalle.read(tmp_path / "a.pkl")
