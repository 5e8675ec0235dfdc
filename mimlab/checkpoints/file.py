"""One opened file: what it is, loading it into what there is, and building what it holds."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from mimlab import files, kinds
from mimlab.checkpoints import contents, dense, is_state, load, shorten, unwrapped
from mimlab.checkpoints.formats import FORMATS, is_dino, recognise
from mimlab.checkpoints.resize import RELATIVE, fitted
from mimlab.checkpoints.shapes import encoder_options, method_options
from mimlab.encoders import Encoder, create
from mimlab.errors import Refused
from mimlab.layers import PIXELS

TRUNK = ("blocks.", "cls_token", "dist_token", "reg_token", "patch_embed.", "pos_embed", "rel_pos_bias.", "norm")


class Report(NamedTuple):
    """What a load did: `format`; `unused` and `missing` names; `resized`, a sentence for each table."""

    format: str
    unused: list
    missing: list
    resized: list


class File:
    """A file of weights. `path`; `format`, a key of `FORMATS`; `state`: names -> tensors, of DINO's file all of it."""

    def __init__(self, path):
        self.path = Path(path)
        if self.path.is_dir():
            raise Refused(f"{path} is a folder; give a file in it, or open a run with mimlab.Run.open")
        content = contents(self.path)
        if isinstance(content, dict) and is_dino(content):
            self.state = content
            for network in ("student", "teacher"):
                if not is_state(content[network]) or not content[network]:
                    raise Refused(f"{path}: its {network} holds no state dict (name -> tensor)")
                dense(content[network], str(path))
        else:
            self.state, alone = unwrapped(content), parts(content)
            if not is_state(self.state) and len(alone) == 1:  # one network, whatever else was saved along
                self.state = next(iter(alone.values()))
            if not is_state(self.state) or not self.state:
                raise Refused(f"{path} holds no state dict (name -> tensor){networks(content)}")
            dense(self.state, str(path))
            self.state = bare(self.state)

    @property
    def format(self):
        return recognise(self.state, str(self.path))

    def load(self, target, partial=False):
        """Put the weights into an `Encoder` or a whole `Method`, and return the `Report`.

        Position tables are interpolated where sizes differ. Names that are unused or missing make it `Refused`
        unless `partial`; shapes that differ always do.
        """
        if isinstance(target, Encoder):
            return self.load_encoder(target, partial)
        name = self.format
        own = type(target).__module__.rpartition(".")[2]
        if name != "mimlab" and (FORMATS[name].method is None or FORMATS[name].adapter != own):
            raise Refused(
                f"{self.path} is {FORMATS[name].title}: it cannot fill a method {own}, but perhaps its encoder"
            )
        state, resized = self.state, []
        if name != "dino":
            state, resized = fitted(state, target.encoder.grid, target.encoder.prefix)
        if name == "mimlab":
            unused, missing = load(target, state, str(self.path), partial)
        else:
            unused, missing = self.adapter.load_method(target, state, partial)
        return Report(name, unused, missing, resized)

    def load_encoder(self, encoder, partial):
        own = encoder.trunk.state_dict()
        plain = not is_dino(self.state) and set(own) <= set(self.state)
        try:
            name = self.format
        except Refused:
            if not plain:
                raise
            name = "timm"
        state = self.trunk(name)
        shared, tables = (
            f"rel_pos_bias.{RELATIVE}",
            [n for n in own if n.startswith("blocks.") and n.endswith(RELATIVE)],
        )
        if shared in state and tables and shared not in own:  # BEiT's fine-tuning gives every block the shared table
            state |= dict.fromkeys(tables, state.pop(shared))
        state, resized = fitted(state, encoder.grid, encoder.prefix)
        unused, missing = load(encoder.trunk, state, str(self.path), partial)
        if len(missing) == len(own):
            raise Refused(f"{self.path} is {FORMATS[name].title}: it shares no name with {encoder.spec['model_name']}")
        return Report(name, unused, missing, resized)

    def trunk(self, name):
        """The state with timm's names for the encoder; of DINO the teacher's, which the paper evaluates."""
        form = FORMATS[name]
        state = self.state["teacher"] if name == "dino" else self.state
        if hasattr(self.adapter, "weights"):
            state = self.adapter.weights(state)
        prefixes = form.prefixes
        if name == "mimlab" and any(n.startswith("teacher.encoder.trunk.") for n in state):
            prefixes = ("teacher.encoder.trunk.",)
        for prefix in prefixes:
            state = {n.removeprefix(prefix): value for n, value in state.items()}
        return dict(state)

    @property
    def adapter(self):
        """The module with the official code's names, or None where they are timm's or ours."""
        try:
            found = FORMATS[self.format].adapter
        except Refused:
            return None
        return import_module(f"mimlab.checkpoints.{found}") if found else None

    def encoder(self, image_size=None, *, heads: kinds.Heads | None = None, normalise: kinds.Pixels | None = None):
        """See `checkpoints.encoder`."""
        name, beside, run = self.format, self.beside(), self.run
        if run:
            if (heads, normalise) != (None, None):
                raise Refused(f"{self.path} lies in a run folder, whose config.json tells heads and normalise")
            cfg = run.settings
            built = create(cfg.encoder, image_size or cfg.image_size, cfg.patch_size, **cfg.encoder_args)
        else:
            inner = recognise(self.trunk(name), str(self.path)) if name == "mimlab" else name
            family = FORMATS[inner].family
            if family is None:
                raise Refused(
                    f"{self.path} is {FORMATS[inner].title}: its shapes do not tell all; build it with encoders.create and "
                    "use checkpoints.open(path).load(encoder)"
                )
            told = beside.get("model_args")
            told = told.get("num_heads") if isinstance(told, dict) else None
            heads = heads or (told if type(told) is int and told > 0 else None)
            pixels = normalise or statistics(beside) or FORMATS[inner].normalise
            size, patch, options = encoder_options(self.trunk(name), family, image_size, heads, str(self.path))
            built = create(family, size, patch, **options, normalise=pixels)
        report = self.load_encoder(built, partial=True)
        pooled = "fc_norm.weight" in self.trunk(name)  # fine-tuned: the norm comes after pooling, ours starts fresh
        lost = [n for n in report.missing if not (pooled and n.startswith("norm."))]
        beyond = [n for n in report.unused if n.startswith(TRUNK)]
        if lost or beyond:
            raise Refused(
                f"{self.path} does not fit {built.spec['model_name']}: unused names {shorten(beyond)}, missing {shorten(lost)}"
            )
        built.loaded = report
        return built.eval()

    def method(self, tokenizer=None, image_size=None, *, heads=None, normalise=None, **options):
        """See `checkpoints.method`."""
        from mimlab.find import check_options

        name, run = self.format, self.run
        form = FORMATS[name]
        if name == "mimlab":
            if not run:
                raise Refused(f"{self.path}: the config.json of its run is needed; leave the file in its run folder")
            classes = run.config.get("classes")
            built = run.settings.build(classes=len(classes) if classes else None)
        elif form.method is None:
            raise Refused(f"{self.path} is {form.title}: it holds no whole method; use checkpoints.encoder")
        else:
            kind = getattr(import_module(f"mimlab.methods.{form.adapter}"), form.method)
            check_options("method", options, kind.__init__)
            found = method_options(name, self.state, options, tokenizer, str(self.path))
            encoder = self.encoder(image_size, heads=heads, normalise=normalise)
            built = kind(encoder, tokenizer, **found)
        built.loaded = self.load(built)
        return built.eval()

    @property
    def run(self):
        """The `Run` that wrote this file into its folder, or `weights` or `checkpoint` there; else None."""
        from mimlab.run import Run

        folder = self.path.parent
        if folder.name == "weights":
            folder = folder.parent
        elif folder.parent.name == "checkpoint":
            folder = folder.parent.parent
        wrote = self.path.suffix == ".safetensors" and isinstance(config(folder).get("settings"), dict)
        return Run(folder) if wrote else None

    def beside(self):
        """timm's config.json in the same folder, or {}."""
        return config(self.path.parent)

    def __repr__(self):
        return f"File({str(self.path)!r}, {self.format})"


WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.", "net.", "student.")  # of training code
DENSE = (
    "neck",
    "rpn",
    "roi",
    "fpn",
    "decode",
    "auxiliary",
    "bbox",
    "mask_head",
    "panoptic",
    "keypoint",
)  # of detectors


def bare(state):
    """A state without what stands before the names of a network: what all share, or all but a classifier beside it.

    Written by DistributedDataParallel (`module.`), torch.compile (`_orig_mod.`, also inside), Lightning, solo-learn and
    lightly (`backbone.`, `model.`, ...), in any nesting. A state whose names are known as they are stays as it is.
    """
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while state and not _known(state):
        networks = {
            name.partition(".")[0] for name in state if "patch_embed." in name and not name.startswith("patch_embed.")
        }
        if len(networks & {"student", "teacher", "target_encoder"}) and len(networks) > 1:
            raise Refused(
                f"the file holds several networks ({', '.join(sorted(networks))}); save the one that is meant alone"
            )
        starts = {name.partition(".")[0] + "." for name in state}
        first = next((one for one in WRAPPERS if one in starts), None) or next(iter(starts))
        inside = {name[len(first) :]: value for name, value in state.items() if name.startswith(first)}
        beside = starts - {first}
        if "" in inside or (beside and (first not in WRAPPERS or any(one.startswith(DENSE) for one in beside))):
            break
        if (beside or first not in WRAPPERS) and not _known(bare(inside) if inside else {}):
            break  # what stands before its names is not what hides a network
        state = inside
    return state


def _known(state):
    """Whether names are those of a format as they stand."""
    try:
        return bool(recognise(state))
    except (Refused, RuntimeError, IndexError, ValueError, AttributeError):
        return False


def networks(content):
    """In words, which parts of a file hold weights by themselves."""
    found = parts(content)
    return f"; its parts {', '.join(map(str, list(found)[:6]))} do: save the one that is meant alone" if found else ""


def parts(content):
    """{name: state dict} of what a file holds beside anything else."""
    content = content if isinstance(content, dict) else {}
    return {name: value for name, value in content.items() if is_state(value) and value}


def config(folder):
    """config.json of a folder, or {} where there is none."""
    try:
        return files.load(folder / "config.json")
    except (OSError, Refused):
        return {}


def statistics(about):
    """The key of `PIXELS` that timm's config.json names, or None."""
    found = about.get("pretrained_cfg")
    found = found if isinstance(found, dict) else {}
    given = tuple(tuple(one) if isinstance(one, list) else () for one in map(found.get, ("mean", "std")))
    return next((name for name, values in PIXELS.items() if values == given), None)
