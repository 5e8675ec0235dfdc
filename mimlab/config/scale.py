"""How cost grows."""

from dataclasses import dataclass
from pathlib import Path

from mimlab.errors import Refused, shown
from mimlab.find import closest, names
from mimlab.settings import Settings, check_seed, number, place, setting, whole, within


@dataclass(frozen=True)
class Scale(Settings):
    """How the cost of training grows, measured here, and what many GPUs would do, on paper."""

    methods: str = setting("mae, beit, splitmask", "files in mimlab/methods, separated by commas", many=True)
    encoder_args: dict = setting({"dim": 96, "depth": 2, "heads": 3}, "dim, depth, heads of the encoder measured here")
    image_size: int = setting(32, "pixels, where the number of tokens is not what varies")
    patch_size: int = setting(4, "pixels of a patch")
    batch_size: int = setting(16, "images a step, where the batch is not what varies")
    sizes: str = setting("16, 32, 64", "sides in pixels: the number of tokens is the square of size / patch", many=True)
    ratios: str = setting("0.25, 0.5, 0.75, 0.9", "mask ratios", many=True)
    batches: str = setting("4, 8, 16, 32, 64", "batch sizes", many=True)
    images: str = setting("10000, 100000, 1000000", "numbers of (blank) images in a data set", many=True)
    processes: str = setting("1, 2", "numbers of processes that share a batch; empty: none is started", many=True)
    rounds: int = setting(2, "steps of which the least processor time counts")
    gpus: str = setting("1, 8, 64", "on paper: numbers of GPUs", many=True)
    gpu_batch: int = setting(64, "on paper: images on each GPU, of a ViT-B/16 at 224 pixels")
    tflops: float = setting(100.0, "assumption: 10^12 operations a second that training reaches on one GPU")
    node: int = setting(8, "assumption: GPUs in a node")
    inside: float = setting(200.0, "assumption: GB/s of a GPU to the others of its node")
    between: float = setting(25.0, "assumption: GB/s of a node to the other nodes")
    gradient_bytes: int = setting(4, "bytes of a gradient number when it is sent: 4, or 2 for half precision")
    seed: int = setting(0, "of weights and noise")
    out: str = setting("runs", "the executed notebook goes into `out`/scale")

    def resolved(self):
        """Every name, list and number checked; nothing is measured."""
        from mimlab import masks

        check_seed(self.seed)
        for name in self.chosen():
            if name not in names("methods"):
                raise Refused(
                    f"methods: there is no {shown(name)}{closest(name, names('methods'))}; there are: {', '.join(names('methods'))}"
                )
        for name, low, high in (
            ("rounds", 1, 100), ("gpu_batch", 1, 100_000), ("tflops", 1e-3, 1e6), ("node", 1, 1024), ("inside", 1e-3, 1e6),
            ("between", 1e-3, 1e6),
        ):  # fmt: skip
            within(name, getattr(self, name), low, high)
        if self.gradient_bytes not in (2, 4):
            raise Refused(f"gradient_bytes = {self.gradient_bytes} is neither 4 nor 2")
        for name, low, high, least in (
            ("sizes", 1, 4096, 2), ("batches", 1, 100_000, 2), ("images", 1000, 100_000_000, 2), ("processes", 1, 1024, 0),
            ("gpus", 1, 100_000, 1),
        ):  # fmt: skip
            self.numbers(name, low, high, least)
        self.numbers("ratios", 0.01, 0.99, 2, exact=False)
        for name in self.chosen():
            for size in {self.image_size, *self.numbers("sizes")}:
                run = self.run(name, image_size=size)
                if size == self.image_size and run.mask != "none":
                    for ratio in self.numbers("ratios", exact=False):
                        masks.check(run.mask, (size // self.patch_size,) * 2, ratio, run.mask_args)
        return self

    def chosen(self):
        """The methods, in order."""
        found = list(dict.fromkeys(name.strip() for name in self.methods.split(",") if name.strip()))
        if not found:
            raise Refused("methods = '' names none; give names such as 'mae, beit'")
        return found

    def numbers(self, name, low=None, high=None, least=0, exact=True):
        """A list of numbers in a text, ascending; `Refused` for what is none, outside the bounds, or fewer than `least`."""
        text = getattr(self, name)
        try:
            found = sorted({(whole if exact else number)(part) for part in text.split(",") if part.strip()})
        except ValueError:
            what = "whole numbers" if exact else "numbers"
            raise Refused(f"{name} = {shown(text)} should be {what} separated by commas") from None
        for value in found:
            if low is not None:
                within(name, value, low, high)
        if len(found) < least:
            raise Refused(f"{name} = {shown(text)}: {least} or more different numbers are needed")
        return found

    def run(self, method, **changes):
        """The resolved `Pretrain` that is measured for a method."""
        from mimlab.config.pretrain import Pretrain

        given = {
            "method": method,
            "encoder_args": self.encoder_args,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "device": "cpu",
        }
        if method == "mae":  # in proportion to the encoder; the paper's is for ViT-B
            given["method_args"] = {"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}
        if method == "dino":
            given["method_args"] = {"out_dim": 1024, "head_dim": 256, "bottleneck_dim": 64}
        if method == "cim":
            given["method_args"] = {"generator_dim": 48, "generator_heads": 3}
        return Pretrain.read(given | changes).resolved()

    def masked(self, method):
        """Whether a method hides patches, so that there is a ratio to vary."""
        return self.run(method).mask != "none"

    def folder(self):
        return Path(place(self.resolved().out)) / "scale"
