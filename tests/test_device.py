"""What a machine can run is known before any work; the machine here is only said to be another."""

import shutil

import pytest
import torch
from timm.models import vision_transformer

from mimlab import blocks, evals, layers, parallel
from mimlab.config import Evaluate
from mimlab.config.device import best, check_compiler, check_device
from mimlab.errors import Refused


@pytest.fixture
def machine(monkeypatch):
    def of(gpus=0, apple=False, tools=()):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in tools else None)
        for name in ("CC", "CXX"):
            monkeypatch.delenv(name, raising=False)

    return of


@pytest.mark.parametrize(("about", "device"), [({}, "cpu"), ({"gpus": 2}, "cuda"), ({"apple": True}, "mps")])
def test_auto_is_the_same_device_for_training_and_evaluation(about, device, machine):
    machine(**about)
    assert best() == evals.device(Evaluate()) == device
    assert evals.device(Evaluate(device="cpu")) == "cpu"


@pytest.mark.parametrize(
    ("about", "given", "said"),
    [
        ({"gpus": 4}, ("cuda:1", "no"), r"CUDA_VISIBLE_DEVICES=1 .* use device = 'cuda'"),
        ({}, ("gpu", "no"), "there are: auto, cpu, cuda, mps"),
        ({}, (["cuda"], "no"), "there are: auto, cpu, cuda, mps"),
        ({"apple": True}, ("auto", "fp16"), "needs an NVIDIA GPU; use no .or bf16.$"),
        ({"apple": True}, ("mps", "fp16"), "needs an NVIDIA GPU"),
        ({}, ("auto", "fp16"), "needs an NVIDIA GPU; use no .or bf16, which most CPUs run slower"),
        ({"gpus": 2}, ("auto", "no", 3), "there are 2 GPUs"),
    ],
)
def test_devices_and_precisions_that_are_not_there_are_refused(about, given, said, machine):
    machine(**about)
    with pytest.raises(Refused, match=said):
        check_device(*given)


@pytest.mark.parametrize(
    ("about", "device", "said"),
    [
        ({"gpus": 1, "tools": ("g++",)}, "auto", "no C compiler"),
        ({"gpus": 1, "tools": ("g++",)}, "cuda", "no C compiler"),
        ({"gpus": 1, "tools": ("gcc",)}, "cpu", r"no C\+\+ compiler"),
        ({"apple": True, "tools": ("gcc", "g++")}, "auto", "Apple"),
        ({"apple": True, "tools": ("gcc", "g++")}, "mps", "Apple"),
        ({"gpus": 1, "tools": ("clang",)}, "auto", None),
        ({"gpus": 1, "tools": ("clang++",)}, "cpu", None),
    ],
)
def test_compiling_needs_the_compiler_of_the_device(about, device, said, machine):
    machine(**about)
    if said is None:
        return check_compiler(device)
    with pytest.raises(Refused, match=f"compile = True: .*{said}"):
        check_compiler(device)


def test_a_block_asks_no_more_of_timm_than_it_has_to(monkeypatch):
    """timm's blocks have taken `is_causal` since 1.0.26."""

    def older(self, x, attn_mask=None):
        return x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask)))

    monkeypatch.setattr(vision_transformer.Block, "forward", older)
    block = blocks.Block(24, 3)
    with torch.no_grad():
        assert block(torch.rand(2, 5, 24)).shape == (2, 5, 24)


def test_what_a_device_has_no_kernel_for_is_resampled_on_the_cpu(monkeypatch):
    images, usual = torch.rand(2, 3, 12, 16), torch.nn.functional.interpolate
    wanted = layers.resampled(images, (6, 8))

    class There(torch.Tensor):
        """A tensor of a device without the kernel."""

        device = torch.device("mps")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    def lacking(x, **given):
        if x.device.type == "mps":
            raise NotImplementedError("aten::_upsample_bicubic2d_aa.out is not implemented for MPS")
        return usual(x, **given)

    monkeypatch.setattr(torch.nn.functional, "interpolate", lacking)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert torch.equal(layers.resampled(images.as_subclass(There), (6, 8)), wanted)


def test_buffers_are_not_sent_at_each_step():
    assert parallel.unsynced().to_kwargs() in ({"forward_sync_buffers": False}, {"broadcast_buffers": False})
