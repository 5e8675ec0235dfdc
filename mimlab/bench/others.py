"""Cases that are not mimlab's: the plain version of a method, and peers that are installed, of the same sizes."""

import contextlib
import importlib.util

import torch

from mimlab import masks
from mimlab.bench import peers
from mimlab.bench.case import RATE, Case, Ours
from mimlab.bench.plain import Shape
from mimlab.bench.ready import CLASSES
from mimlab.errors import Refused, shown
from mimlab.find import closest, find, names
from mimlab.heap import kept


def known():
    """Whom `against` may name: plain, and the packages of `peers/`."""
    return ["plain", *peers.packages()]


def check(against):
    """Refuse names that are no one's."""
    for who in against:
        if who not in known():
            raise Refused(f"against = {shown(who)}{closest(who, known())}; there are: {', '.join(known())}, or none")


def shape(cfg, method):
    """`Shape` of settings and their method, or None where the encoder is not a transformer that others have too."""
    if not cfg.encoder.startswith(("vit", "beit")):
        return None
    n, heads = method.encoder.grid[0] * method.encoder.grid[1], method.encoder.heads
    hidden = 0 if cfg.mask == "none" else masks.count(n, masks.ratio(0.0, cfg.mask_ratio, **cfg.mask_schedule))
    sizes = (cfg.image_size, cfg.patch_size, method.encoder.dim, method.encoder.depth, heads)
    return Shape(*sizes, hidden, cfg.vocab, CLASSES, cfg.batch_size)


def missing(who, method, sizes):
    """Why there is no case of `who` for a method, in words, or None."""
    if sizes is None:
        return "only for encoders of the vit and beit families"
    if who == "plain":
        return None if method in names("bench.plain") else "not written"
    if importlib.util.find_spec(who) is None:
        return f"not installed (pip install 'mimlab[peers]', or {who})"
    return None if method in find("bench.peers", who).MODELS else f"{who} has no {method}"


def build(cfg, who, accelerator, fused=False):
    """(`Case`, `Shape` or None) of mimlab, plain or a package; mimlab's own model makes inputs and sizes for all.

    `fused`: AdamW in one kernel even where its own training does without.
    """
    ours = Ours(cfg, accelerator, real=False)
    sizes = shape(cfg, ours.model)
    return (ours if who == "mimlab" else case(who, cfg, sizes, ours.ready, accelerator, fused)), sizes


def memory(who):
    """As its own training treats freed memory: a context. mimlab's keeps it (`mimlab.heap`)."""
    return kept() if who == "mimlab" else contextlib.nullcontext()


def case(who, cfg, sizes, ready, accelerator, fused):
    """The `Case` of plain or of a package."""
    if who == "plain":
        kind, own, name = find("bench.plain", cfg.method).Plain, False, "plain timm"
    else:
        package = find("bench.peers", who)
        kind, own = package.MODELS[cfg.method], package.FUSED
        name = f"{who} {kind.name}"
    torch.manual_seed(cfg.seed)
    model = kind(sizes, cfg.method_args).to(accelerator.device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    one = fused or own
    optimiser = torch.optim.AdamW(
        trained, lr=RATE, betas=(0.9, cfg.beta2), weight_decay=cfg.weight_decay, **({"fused": True} if one else {})
    )
    return Case(
        name,
        model,
        lambda: model.loss(ready),
        optimiser,
        cfg.batch_size,
        accelerator.device,
        cfg.precision,
        after=getattr(model, "after", None),
        note="fused AdamW" if one else "torch's default AdamW",
    )


def blocks(model, sizes):
    """How many blocks of the encoder's width are trained."""
    wide = (sizes.dim, 4 * sizes.dim)
    return sum(tuple(p.shape) == wide for p in model.parameters() if p.requires_grad)


def differs(ours, other):
    """What sets another's model apart from ours in size, in words, or None; both as `works.steps` tells of them."""
    said = []
    if ours["blocks"] != other["blocks"]:
        said.append(f"{other['blocks']} blocks of width {ours['sizes'].dim}, not {ours['blocks']}")
    share = other["parameters"] / ours["parameters"]
    if not 0.95 < share < 1.05:
        said.append(f"{share:.2f} times the parameters")
    share = other["flops"] / ours["flops"]
    if not 0.75 < share < 1.75:
        said.append(f"{share:.2f} times the FLOPs")
    return "; ".join(said) or None
