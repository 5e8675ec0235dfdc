"""DALL-E's published encoder.pkl and decoder.pkl, or their state dicts, without running anything that they hold.

openai/DALL-E saves whole modules (torch.save of a `dall_e.encoder.Encoder`), so that `torch.load` would import the
classes and call what the pickle names. Here the pickle is read by an unpickler that looks no name up: every class of
`dall_e` and `torch.nn` becomes an inert record, tensors become notes of where their numbers lie in the file, a few
collections are allowed, and any other name is refused. The numbers are then read from the file's own bytes, in
torch's zip format (since 1.6) or the older one. A file with a plain state dict is read in the same way.

Names (dall_e/encoder.py, decoder.py): `blocks.group_1.block_1.res_path.conv_1.w`, as in `tokenizers.dalle`.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch

from mimlab.checkpoints import load, read_safetensors, unwrapped
from mimlab.checkpoints.bounds import bounded
from mimlab.errors import Refused, reason, shown

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch/serialization.py, of the older format
STORAGES = {f"{name}Storage": dtype for name, dtype in {
    "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}.items()}  # fmt: skip
PLAIN = {"collections": {"OrderedDict": OrderedDict}, "builtins": {"set": set, "frozenset": frozenset}}
PLAIN["__builtin__"] = PLAIN["builtins"]  # as Python 2 named it, and pickle's protocol 2 still does
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
)  # fmt: skip  what damaged bytes raise; RuntimeError includes too deep a nesting


class Record:
    """Stands for an object of a class that is not looked up; the pickle gives it its attributes, nothing runs."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        vars(self).update(state)


class Storage(NamedTuple):
    """Numbers in the file: their name there, their type and how many they are."""

    key: str
    dtype: torch.dtype
    count: int


class Stored(NamedTuple):
    """A tensor in the file: a view of a storage, as `torch.as_strided` takes it."""

    storage: Storage
    shape: tuple
    stride: tuple
    offset: int


class Inert(pickle.Unpickler):
    """Reads a pickle in which no name is looked up; raises `Refused` for a name that it does not know.

    `storages` are those that it named, key -> `Storage`.
    """

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}
        self.torch = {"torch": {"device": Record} | STORAGES}
        self.torch["torch._utils"] = {"_rebuild_tensor_v2": self.tensor, "_rebuild_parameter": self.parameter}

    def find_class(self, module, name):
        if module == "dall_e" or module.startswith(("dall_e.", "torch.nn.modules.")):
            return Record
        for known in (PLAIN, self.torch):
            if name in known.get(module, ()):
                return known[module][name]
        raise Refused(f"it asks for {module}.{name}, which no saved network needs; nothing of it was run")

    def persistent_load(self, pid):
        """torch's notes in the pickle: a storage, or in the older format a class with its source text."""
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of reference {shown(pid[0])}")
        storage = Storage(str(pid[2]), pid[1], int(pid[4]))
        if self.storages.setdefault(storage.key, storage) != storage or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError(f"numbers {storage.key} are told in two ways")
        return storage

    def tensor(self, storage, offset, shape, stride, *rest):
        if not isinstance(storage, Storage) or math.prod(shape) > storage.count:
            raise pickle.UnpicklingError(f"a tensor {tuple(shape)} is not of {storage}")
        return Stored(storage, tuple(shape), tuple(stride), int(offset))

    def parameter(self, tensor, *rest):
        return tensor


def read(path):
    """State dict of a file, by official names: safetensors, or torch.save of a module or of a state dict.

    `Refused` for a missing, damaged or foreign file, and for one that asks for any class or function but those above.
    """
    path = Path(str(path)).expanduser()
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _opened(path, _tensors)


def shapes(path):
    """Name -> shape of every tensor of a file, as `read` finds them; the numbers of torch's formats are not read."""
    path = Path(str(path)).expanduser()
    if path.suffix == ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read_safetensors(path).items()}
    return _opened(path, lambda notes, numbers: {name: note.shape for name, note in notes.items()})


def load_network(network, source, partial=False):
    """A path or state dict into a `tokenizers.dalle` Encoder or Decoder; returns (unused, missing) names."""
    state = source if isinstance(source, dict) else read(source)
    return load(network, state, "DALL-E checkpoint", partial)


def _opened(path, use):
    """`use`(name -> `Stored`, what reads storages) of a file of torch.save; whatever goes wrong is `Refused`."""
    if not path.is_file():
        raise Refused(f"no checkpoint at {path}")
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return use(*_zipped(archive))
            file.seek(0)
            return use(*_older(file))
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    except BROKEN as error:
        raise Refused(f"{path} is truncated or no file of torch.save ({reason(error)})") from None


def _zipped(archive):
    """torch's zip format: data.pkl, and an entry for each storage, all in one folder of any name."""
    folder = archive.namelist()[0].split("/")[0]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise pickle.UnpicklingError("compressed entries, which torch.save never writes")
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise pickle.UnpicklingError("written on a machine with another byte order")
    pickled = Inert(io.BytesIO(bounded(archive.read(f"{folder}/data.pkl"))))
    notes = _named(pickled.load())

    def numbers():
        for key, storage in pickled.storages.items():
            yield storage, archive.read(f"{folder}/data/{key}")

    return notes, numbers()


def _older(file):
    """The older format: three pickles of its own, the module, the names of all storages, each with its count."""
    bounded(file, 5)
    magic, version, machine = (Inert(file).load() for _ in range(3))
    if (magic, version) != (MAGIC, PROTOCOL) or not machine["little_endian"]:
        raise pickle.UnpicklingError("no file of torch.save, or of a machine with another byte order")
    pickled = Inert(file)
    notes = _named(pickled.load())

    def numbers():
        for key in Inert(file).load():
            storage = pickled.storages[key]
            file.read(8)  # its count once more
            yield storage, file.read(storage.count * storage.dtype.itemsize)

    return notes, numbers()


def _named(root):
    """Name -> `Stored` of a module's parameters and buffers, by the path of modules, or of a state dict."""
    found = unwrapped(root)
    if isinstance(root, Record):
        found, todo, known = {}, [("", root)], set()
        while todo:
            prefix, record = todo.pop()
            if id(record) in known:
                continue
            known.add(id(record))
            parts = vars(record)
            for name, tensor in {**parts["_parameters"], **parts["_buffers"]}.items():
                if tensor is not None:
                    found[prefix + name] = tensor
            todo += [(f"{prefix}{name}.", child) for name, child in parts["_modules"].items()]
    if not isinstance(found, dict) or not found:
        raise pickle.UnpicklingError("it holds neither a module nor a state dict")
    if not all(isinstance(name, str) and isinstance(tensor, Stored) for name, tensor in found.items()):
        raise pickle.UnpicklingError("it holds more than tensors by name")
    return found


def _tensors(notes, numbers):
    """Name -> tensor."""
    held = {}
    for storage, raw in numbers:
        if len(raw) != storage.count * storage.dtype.itemsize:
            raise EOFError(f"{len(raw)} bytes for {storage.count} numbers")
        held[storage.key] = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
    return {
        name: held[note.storage.key].as_strided(note.shape, note.stride, note.offset).clone()
        for name, note in notes.items()
    }
