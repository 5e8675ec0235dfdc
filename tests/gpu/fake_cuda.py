"""mimlab on a CUDA GPU that is not there: what would fail, wait or copy on a real one, found without any.

    python fake_cuda.py --repo PATH_OF_A_CLONE                 # everything, some fifteen minutes on one core
    python fake_cuda.py --repo PATH --only train --methods mae splitmask --precisions bf16
    python fake_cuda.py --repo PATH --only quick               # every method once, a precision each: what the default suite runs
    python fake_cuda.py --repo PATH --only fake                # torch's FakeTensorMode alone: no compiler, no CUDA build of torch

Two ways, which agree: the null device (`null_device.py`), on which everything runs but the kernels, and FakeTensorMode with
`device="cuda"`: forward passes without memory, in which mixed devices raise, and so do values that the host would wait for. (In a
CUDA build without a GPU its backward pass does not run.) Methods, tokenizers, masks and evaluations are those of their folders.

A check fails with an error, with a float64 tensor on the device (Apple's have none), and with more waits for the device in a
training step than `WAITS`, or than `--most`. Exit code: how many failed.
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import null_device
from null_device import listening, place

# waits of a training step for the device, as they are: for images, labels, mask and noise
WAITS = {"dino": 11, "supervised": 2}  # ten views of an image; neither mask nor noise
MOST = 4  # of the other methods
TINY = {
    "data": "emoji", "image_size": 32, "patch_size": 8, "encoder_args": {"dim": 48, "depth": 3, "heads": 3}, "vocab": 32, "batch_size": 32,
    "knn_every": 0, "checkpoint_every": 0, "log_every": 100, "fraction": 0.5, "device": "cuda",
}  # fmt: skip
PARTS = {
    "cae": {"regressor_depth": 1, "decoder_depth": 1}, "cim": {"generator_dim": 48, "generator_depth": 3, "generator_heads": 3},
    "dino": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16, "head_bn": True}, "mae": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
}  # fmt: skip
FURTHER = {  # settings that take another way through the code
    "mae of tokens": {"method": "mae", "method_args": PARTS["mae"] | {"target": "tokens"}, "tokenizer": "kmeans"},
    "mae of components": {"method": "mae", "method_args": PARTS["mae"] | {"target": "pca"}},
    "mae of a schedule": {"method": "mae", "mask_schedule": {"end": 0.5}},
    "mae in parts": {"method": "mae", "accumulate": 2, "clip": 1.0},
    "mae computed again": {"method": "mae", "recompute": True},
    "mae by a worker": {"method": "mae", "workers": 1},
    "splitmask of three quarters": {"method": "splitmask", "recipe": "small"},
    "splitmask without a split": {"method": "splitmask", "method_args": {"split": False, "match": False}},
    "beit with its bias": {"method": "beit", "encoder": "beit"},
    "beit of xcit": {"method": "beit", "encoder": "xcit"},
    "supervised resnet": {"method": "supervised", "encoder": "resnet18", "encoder_args": {}, "patch_size": 32},
}  # fmt: skip


def names(folder):
    """What a folder of mimlab holds."""
    from mimlab import find

    return find.names(folder)


def told(error):
    """An error in one line, with the innermost place in mimlab."""
    places = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}mimlab{os.sep}" in f.filename]
    where = (
        f" at mimlab/{places[-1].filename.split(f'{os.sep}mimlab{os.sep}')[-1]}:{places[-1].lineno}" if places else ""
    )
    return f"{type(error).__name__}: {str(error)[-400:]}{where}"


def tried(work):
    """The error of `work()` in one line, or None; also one for a float64 tensor that it makes on the device."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    found = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            some = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.device.type == "cuda"]
            if any(x.dtype == torch.float64 for x in some):
                scaler = any("grad_scaler" in frame.filename for frame in traceback.extract_stack())  # torch's own
                found.extend([] if scaler else [f"float64 on the device: {place()}"])
            return result

    try:
        with Watched():
            work()
    except Exception as error:
        return told(error)
    return found[0] if found else None


def pretrained(out, **given):
    import mimlab

    args = {"method_args": PARTS.get(given["method"], {}), "out": str(out)} | given
    return mimlab.pretrain(mimlab.Pretrain(**(TINY | args)))


# checks: each yields (what, error or None, notes)


def train(out, given):
    """`pretrain` as it is, with every method and precision: waits of two steady steps."""
    for method in given.methods or names("methods"):
        for precision in given.precisions:
            yield steps(out, f"{method} {precision}", given.most, method=method, precision=precision)


def quick(out, given):
    """Every method once, the precisions in turn, then what viewers and a mask that looks ask of it."""
    for at, method in enumerate(given.methods or names("methods")):
        what = f"{method} {given.precisions[at % len(given.precisions)]}"
        few = {"augment": {"local_crops": 2}} if method == "dino" else {}
        few |= {"method": method, "precision": what.split()[1], "fraction": 0.25, "film": 1}
        few |= {"encoder_args": TINY["encoder_args"] | {"depth": 1}}
        yield steps(out, what, given.most, 4, **few)
        yield f"asked {method}", tried(lambda what=what: asked(out / what.replace(" ", "-"))), []


def asked(folder):
    """What a trained method answers on the device."""
    import torch

    from mimlab import masks
    from mimlab.run import Run

    run = Run.open(str(folder))
    cfg, method = run.settings, run.method().to("cuda").eval()
    images = torch.zeros(2, 3, cfg.image_size, cfg.image_size, device="cuda")
    with torch.no_grad():
        method.encoder.attention(images, [0])
        method.deployed(images)
        if cfg.mask != "none":
            mask = masks.sample(cfg.mask, 2, method.encoder.grid, cfg.mask_ratio, torch.Generator(), **cfg.mask_args)
            method.judge(images, mask.to("cuda"))
            method.reconstruct(images, mask.to("cuda"))


def steps(out, what, most=None, updates=8, **settings):
    """A short run, and what the host waited for in its steady steps: the two, of four updates the one, before the last two."""
    from mimlab import batches

    plain, state, count = batches.Batches.__getitem__, {"asked": 0}, 2 if updates > 4 else 1

    def counted(self, step):
        state["asked"] += 1
        if state["asked"] == updates - 1 - count:
            state["block"] = listening()
            state["heard"] = state["block"].__enter__()
        elif state["asked"] == updates - 1:
            state.pop("block").__exit__(None, None, None)
        return plain(self, step)

    batches.Batches.__getitem__ = counted
    settings = {"updates": str(updates), "film": 2, "run": what.replace(" ", "-")} | settings
    try:
        error = tried(lambda: pretrained(out, **settings))
    finally:
        batches.Batches.__getitem__ = plain
        if "block" in state:
            state.pop("block").__exit__(None, None, None)
    if error or "heard" not in state:
        return f"train {what}", error, []
    heard, most = state["heard"], WAITS.get(settings["method"], MOST) if most is None else most
    waits = sum(heard.counts[k] for k in null_device.WAITS) / count
    notes = [f"{waits:g} waits, {(heard.counts['launch'] + heard.counts['blas']) / count:g} launches a step"]
    notes += [f"{n / count:g} x {where[:130]}" for where, n in heard.waits.most_common()]
    return f"train {what}", f"{waits:g} waits a step, at most {most} are wanted" if waits > most else None, notes


def further(out, given):
    """Every tokenizer, every mask that looks at the images, and settings that take another way."""
    from mimlab import masks

    found = {name: settings for name, settings in FURTHER.items()}
    found |= {f"beit of {name}": {"method": "beit", **tokenizer(name, out)} for name in names("tokenizers")}
    looking = [name for name in names("masks") if masks.looks(name)]
    found |= {f"mae by {name}": {"method": "mae", "mask": name, "mask_args": {}} for name in looking}
    for what, settings in found.items():
        for precision in given.precisions[:2]:
            run = f"{what} {precision}".replace(" ", "-")
            settings = settings | {"precision": precision, "updates": "2", "film": 1, "run": run}
            yield f"{what} {precision}", tried(lambda settings=settings: pretrained(out, **settings)), []


def tokenizer(name, out):
    """Settings of a tokenizer: small, with files of its own where it reads some."""
    from mimlab.find import find

    kind = find("tokenizers", name).Tokenizer
    if kind.wants != "files":
        few = {"steps": 4} if "steps" in kind.__init__.__kwdefaults__ else {}
        return {"tokenizer": name, "tokenizer_args": few}
    from safetensors.torch import save_file

    sizes, paths = {"width": 8, "blocks": 1, "first": 8}, {}
    module = find("tokenizers", name)
    for part in ("encoder", "decoder"):
        network = module.Encoder(32, 8, 1) if part == "encoder" else module.Decoder(32, 8, 1, 8)
        paths[part] = str(Path(out) / f"{part}.safetensors")
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, paths[part])
    return {"tokenizer": name, "tokenizer_args": paths | sizes}


def evaluate(out, given):
    """Every evaluation, by every protocol and recipe that it names."""
    import mimlab
    from mimlab.config.evaluate import VARIANTS
    from mimlab.find import find, options, ranges

    run = pretrained(out, method="mae", updates="1", film=0, run="evaluated", fraction=1.0)
    for name in names("evals"):
        function = find("evals", name).evaluate
        few = {"epochs": 1} if "epochs" in options(function) else {}
        variants = [
            {option: choice}
            for option in VARIANTS
            for choice in getattr(ranges(function).get(option), "choices", None) or ()
        ]
        for args in variants or [{}]:
            one = {"run": str(run.path), "evaluation": name, "evaluation_args": few | args}
            cfg = mimlab.Evaluate(**one, device="cuda", seeds=1, baseline=False)
            yield f"evaluate {name} {few | args or ''}", tried(lambda cfg=cfg: mimlab.evaluate(cfg)), []


def detect(out, given):
    """Every task of detection in each precision."""
    import mimlab
    from mimlab.detection import training

    for task in training.TASKS:
        for precision in given.precisions:
            sizes = {"data_args": {"train": 16, "test": 4}, "epochs": 1, "batch_size": 4, "clip": 1.0}
            sizes |= {
                "encoder_args": TINY["encoder_args"] | {"depth": 4},
                "out": str(out),
                "run": f"{task}-{precision}",
            }
            cfg = mimlab.Detect(task=task, device="cuda", precision=precision, **sizes)
            yield f"{task} {precision}", tried(lambda cfg=cfg: training.train(cfg)), []


def processes(out, given):
    """Two processes on two GPUs, by the command that `processes = 2` runs: copies and parts, with and without loader workers."""
    fp16 = {"precision": "fp16", "clip": 1.0}
    for kind, more in (
        ("ddp", {}),
        ("fsdp", {}),
        ("ddp", {"workers": 1}),
        ("ddp", fp16),
        ("ddp", {"mask": "attention"}),
    ):
        settings = {"method": "mae", "updates": "2", "film": 1, "log_every": 1, "processes": 2, "parallel": kind} | more
        run = f"two-{kind}-{'-'.join(more) or 'plain'}"
        yield (
            f"2 GPUs {kind} {more or ''}",
            tried(lambda settings=settings, run=run: pretrained(out, run=run, **settings)),
            [],
        )


def notebooks(out, given):
    """Every notebook that computes, through papermill, those that look at a run on one of tokens and of branches."""
    import mimlab

    folder, given = Path(given.repo).resolve() / "notebooks", {"out": str(out)}
    run = pretrained(out, method="splitmask", updates="4", film=2, run="looked", batch_size=16)
    few = {"images": 2, "run": str(run.path)}
    told = {
        "01_masks": given,
        "02_tokenizers": given
        | {"image_size": 32, "vocab": 16, "samples": 50, "images": 2, "tokenizers": "kmeans, random_patches"},
        "03_pretrain": given | TINY | {"method": "mae", "method_args": PARTS["mae"], "knn_every": 1, "updates": "4"},
        "04_reconstructions": few,
        "05_attention": few,
        "06_evaluate": {"run": few["run"], "evaluation": "linear", "evaluation_args": {"epochs": 1}, "seeds": 1},
        "07_compare": {"runs": few["run"], "images": 2},
        "10_detection": given
        | {"init": few["run"], "data_args": {"train": 16, "test": 4}, "epochs": 1, "batch_size": 4},
        "11_features": few | {"samples": 50},
    }
    for name, settings in told.items():
        path = folder / f"{name}.ipynb"
        yield name, tried(lambda path=path, settings=settings: mimlab.execute(path, settings)), []


def demo(out, given):
    """The notebooks of `make demo` to their last cells, with few images."""
    from mimlab import demo as whole

    whole.RUN |= {"fraction": 0.02, "epochs": 2, "encoder_args": {"dim": 24, "depth": 2, "heads": 2}}
    whole.LABELS |= {"seeds": 1, "evaluation_args": {"epochs": 1}}
    folder = Path(given.repo).resolve() / "notebooks"

    def run():  # in kernels of its own, so nothing is watched here
        whole.demo(folder, str(out))

    yield "demo", tried(run), []


def fake(out, given):
    """Forward passes in FakeTensorMode: mixed devices, and values that the host would wait for."""
    for name in given.methods or names("methods"):
        mode, asked = faked(name)
        for what, ask in asked.items():
            try:
                with mode:
                    ask()
                error = None
            except Exception as raised:
                error = told(raised)
            waits = what == "judge" and error is not None and error.startswith("DataDependent")
            yield f"fake {name} {what}", None if waits else error, [f"the host waits here: {error}"] if waits else []


def faked(name):
    """A method whose tensors claim to be on a GPU: its FakeTensorMode, and what to ask it, name -> function."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    import mimlab
    from mimlab import masks
    from mimlab.methods import Batch, Progress

    cfg = mimlab.Pretrain(**(TINY | {"method": name, "method_args": PARTS.get(name, {}), "device": "cpu"})).resolved()
    method, mode, n = cfg.build(classes=5).train(), FakeTensorMode(), (TINY["image_size"] // TINY["patch_size"]) ** 2
    mask, seen = None, {}
    if cfg.mask != "none":
        random = torch.Generator().manual_seed(0)
        mask = masks.sample(cfg.mask, 8, method.encoder.grid, cfg.mask_ratio, random, **cfg.mask_args)
    visible = None if mask is None else int((~mask[0]).sum())

    def there(x):
        if x is not None and id(x) not in seen:
            made = mode.from_tensor(x.detach())
            with mode:
                made = made.to("cuda")
                if isinstance(x, torch.nn.Parameter):
                    made = torch.nn.Parameter(made, requires_grad=x.requires_grad)
            seen[id(x)] = x, made
        return None if x is None else seen[id(x)][1]

    for part in method.modules():
        for held in (part._parameters, part._buffers):
            held.update({key: there(value) for key, value in held.items()})
    mask = there(mask)
    made = method.views(cfg.image_size, **cfg.augment)(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.Generator())
    images, *crops = map(there, made if isinstance(made, tuple) else (made,))
    batch = Batch(images, there(torch.rand(8, n)), visible, tuple(crops), there(torch.zeros(8, dtype=torch.long)))
    asked = {"forward": lambda: method(batch, mask, Progress(1, 10))}
    asked["after_step"] = lambda: method.after_step(Progress(2, 10))
    asked["attention"] = lambda: method.encoder.attention(images, [0])
    if mask is not None:  # what mask = "loss" asks at each step
        asked["judge"] = lambda: method.judge(images, mask)
    if method.tokenizer is not None:
        asked["tokens"] = lambda: method.tokenizer(images, method.encoder.grid)
    return mode, asked


CHECKS = {f.__name__: f for f in (fake, quick, train, further, evaluate, detect, processes, notebooks, demo)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", default=".", help="a clone of mimlab")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--methods", nargs="+", help="of those in the folder; all")
    parser.add_argument("--precisions", nargs="+", default=["no", "bf16", "fp16"])
    parser.add_argument("--most", type=int, help="waits for the device that a training step may have")
    parser.add_argument("--inside", choices=CHECKS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        return inside(given)
    root, failed = Path(given.repo).resolve(), collections.Counter()
    with tempfile.TemporaryDirectory() as room:
        library = null_device.build(room) if set(given.only) - {"fake"} else None
        for name in given.only:  # a process each: what one leaves behind touches no other
            env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
            if name != "fake":
                env = null_device.environment(library, root, 2 if name == "processes" else 1)
            words = ["--repo", str(root), "--inside", name, "--precisions", *given.precisions]
            words += ["--methods", *given.methods] if given.methods else []
            words += ["--most", str(given.most)] if given.most is not None else []
            done = subprocess.run([sys.executable, __file__, *words], env=env, stderr=subprocess.PIPE, text=True)
            failed[name] = done.returncode if 0 <= done.returncode <= 100 else 1
            if failed[name] != done.returncode or (done.returncode and "Traceback" in done.stderr):
                print(f"FAIL {name}: the process ended with {done.returncode}\n{done.stderr[-2000:]}")
    print(f"{failed.total()} failed")
    return min(failed.total(), 100)


def inside(given):
    """The checks of one kind, in the process that has the device."""
    sys.path.insert(0, str(Path(given.repo).resolve()))
    failed = 0
    with tempfile.TemporaryDirectory() as out:
        for what, error, notes in CHECKS[given.inside](Path(out), given):
            failed += error is not None
            told = f"{'FAIL' if error else 'ok  '} {what}{': ' + error if error else ''}"
            print(told, *(f"       {note}" for note in notes), sep="\n", flush=True)
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
