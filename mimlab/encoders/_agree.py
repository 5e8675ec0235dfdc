"""Whether an adapter's own forward is timm's: both are run on one small image, once a name.

The adapters write timm's forward anew, to leave patches out and to compute less. What a name of timm's does besides (a norm
before the blocks, another pooling, a stem of convolutions) would be left out without a word, so each name is built once
more, small and with random weights, beside timm's own model with the same weights. Nothing that the caller has is
touched: neither the random state, nor the default device and precision.
"""

import contextlib
from functools import partial

import torch
from torch import nn

from mimlab.errors import Refused, shown
from mimlab.find import options as known_options

TOLERANCE = 1e-4  # of the largest value
SMALL = {"dim": 32, "depth": 2, "heads": 2}
FREE = ("dim", "depth", "heads", "drop_path", "normalise")  # options that leave the forward as it is
POOLS = {"token": "cls", "avg": "mean"}  # timm's names for what `Encoder.features` has
_found = {}  # what differs, in words, or "", by name, timm's version and options


def agreed(module, name, patch, options, sizes=SMALL):
    """Refuse the encoder `name` of a file's `module` with `options` if its features would not be timm's.

    True where they are; False where no copy of these `sizes` can be built, so that nothing is known.
    """
    import timm

    forms = {key: value for key, value in options.items() if key not in FREE}
    key = (module.__name__, timm.__version__, name, patch, repr(sorted(forms.items())))
    if key not in _found:
        with undisturbed():
            made = copy_of(module, name, patch, forms, sizes)
            if made is None:
                return False
            _found[key] = difference(made)
    if _found[key]:
        there = ", ".join(getattr(module, "KNOWN", None) or ("resnet18", "resnet34", "resnet50"))
        raise Refused(
            f"encoder = {shown(name)}: timm's forward does what ours does not ({_found[key]}); use one of: {there}"
        )
    return True


@contextlib.contextmanager
def undisturbed():
    """Real tensors on the CPU in float32, whatever the caller's context says, and the random state as it was."""
    from torch.utils._python_dispatch import _disable_current_modes

    dtype = torch.get_default_dtype()
    with (
        _disable_current_modes(),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.random.fork_rng(devices=[]),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def copy_of(module, name, patch, forms, sizes):
    """The encoder for images of 2 x 3 patches, with `sizes` where its file takes them, or None if it cannot be."""
    if sizes and hasattr(module, "small"):
        sizes, make = {}, module.small
    else:
        make = module.create
    taken = known_options(module.create)
    given = forms | {key: value for key, value in sizes.items() if key in taken}
    try:
        return make(name, (2 * patch, 3 * patch), patch, **given)
    except Refused:  # by the file's own rules, which the caller will hear from the encoder itself
        return None


def difference(made):
    """What differs between the encoder `made` and timm's model, in words; "" where nothing does."""
    try:
        return compare(made, made.patch)
    except Exception as error:  # an adapter that does not know the model's parts fails in any way
        return f"{type(error).__name__}: {error}"[:160]


def compare(made, patch):
    import timm

    rate = 0.25
    theirs = timm.create_model(**made.spec, drop_path_rate=rate)
    made.set_drop_path(rate)
    wanted, own = dropped(theirs), dropped(made.trunk)
    if own != wanted:
        return f"stochastic depth in {len(own)} places, timm's in {len(wanted)}"
    made.set_drop_path(0.0)
    for part in theirs.modules():
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0
    generator = torch.Generator("cpu").manual_seed(0)
    shake(made.trunk, generator)
    state = made.trunk.state_dict()
    theirs.load_state_dict(state)
    images = torch.rand(2, 3, 2 * patch, 3 * patch, generator=generator)
    pairs = {}
    with torch.no_grad():
        given = made.normalise(images)
        made.eval(), theirs.eval()
        wanted = theirs.forward_features(given)
        pairs |= tokens(made, images, wanted, "")
        kind = getattr(theirs.global_pool, "pool_type", theirs.global_pool)
        if kind and kind not in POOLS:
            return f"it pools by {shown(kind)}, and there are: {', '.join(POOLS.values())}"
        if kind:
            pooled = theirs.forward_head(wanted, pre_logits=True)
            pairs["pooled features"] = made.features(images, POOLS[kind]), pooled
        layers = list(range(made.depth))
        maps = theirs.forward_intermediates(given, intermediates_only=True)
        pairs |= {
            f"map {i}": pair for i, pair in enumerate(zip(made.maps(images, layers), maps[-made.depth :], strict=True))
        }
        pairs |= attentions(made, theirs, images, given, layers)
    made.train(), theirs.train()  # the blocks have kernels of their own for it
    pairs |= tokens(made, images, theirs.forward_features(given), " in training")
    for what, (got, want) in pairs.items():
        if got.shape != want.shape:
            return f"{what}: {tuple(got.shape)} values, timm's {tuple(want.shape)}"
        apart = float((got - want).detach().abs().max() / want.detach().abs().max().clamp(min=1))
        if not apart <= TOLERANCE:
            return f"{what}: {apart:.2g} apart"
    return ""


def tokens(made, images, wanted, when):
    """The adapter's features beside timm's `wanted`, (B, prefix + N, D), or the last map of a convolutional network."""
    if wanted.ndim == 4:
        return {f"features{when}": (made.tokens(images), wanted.flatten(2).transpose(1, 2))}
    cls, patches = made(images)
    pairs = {f"patches{when}": (patches, wanted[:, made.prefix :])}
    if cls is not None:
        pairs[f"class token{when}"] = cls, wanted[:, 0]
    rows = torch.tensor([[1, 4], [5, 0]])
    some = wanted[:, made.prefix :].gather(1, rows[..., None].expand(-1, -1, wanted.shape[2]))
    return pairs | {f"some patches{when}": (made(images, rows=rows)[1], some)}


def attentions(made, theirs, images, given, layers):
    """The adapter's attention beside what timm's layers give to their dropout of attention."""
    try:
        own = {("blocks", i): weights for i, weights in made.attention(images, layers).items()}
    except Refused:  # an encoder that has none says so
        if not hasattr(made, "class_attention"):
            return {}
        own = {("cls_attn_blocks", i): weights for i, weights in made.class_attention(images).items()}
        own |= {("blocks", i): weights for i, weights in made.cross_covariance(images, layers).items()}
    seen, hooks = {}, []
    for where, index in own:
        for part in getattr(theirs, where)[index].modules():
            if hasattr(part, "attn_drop"):
                part.fused_attn = False
                keep = partial(_keep, seen, (where, index))
                hooks.append(part.attn_drop.register_forward_pre_hook(keep))
    theirs.forward_features(given)
    for hook in hooks:
        hook.remove()
    return {f"attention of {where}.{i}": (weights, seen[where, i]) for (where, i), weights in own.items()}


def _keep(seen, where, module, args):
    seen[where] = args[0]


def dropped(model):
    """Where there is stochastic depth, and its rate."""
    return {name: round(p, 6) for name, part in model.named_modules() if (p := getattr(part, "drop_prob", None))}


@torch.no_grad()
def shake(model, generator):
    """Move every weight and running statistic from where it starts, so that a forgotten one shows."""
    for value in model.parameters():
        spread = min(0.2, 0.5 / max(1, value[0].numel() if value.ndim else 1) ** 0.5)
        value.add_(torch.randn(value.shape, generator=generator), alpha=spread)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.add_(torch.randn(part.running_mean.shape, generator=generator), alpha=0.1)
            part.running_var.mul_(1 + 0.5 * torch.rand(part.running_var.shape, generator=generator))
