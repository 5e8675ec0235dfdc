"""Features of an encoder, layer by layer.

A layer is the number of a block, from 0, whose output is taken without a norm, or `OUTPUT`: what the encoder gives after
its final norm, which is what evaluations use. A ResNet has stages in place of blocks, each with a width and a grid of its
own, and its `OUTPUT` is the last one on the grid of the patches. XCiT's blocks hold no class token; its class-attention
layers are part of `OUTPUT`. Letters: B images, h * w cells, D width.
"""

from contextlib import contextmanager

import torch

from mimlab.errors import Refused, shown

OUTPUT = "output"
BATCH = 32  # images that go through an encoder together


def names(encoder):
    """The layers of an encoder: its blocks from 0, and `OUTPUT`."""
    return [*range(encoder.depth), OUTPUT]


def check(encoder, layer=OUTPUT, pool="mean"):
    """Refuse a layer that there is not, and class tokens where there are none."""
    if layer not in names(encoder):
        raise Refused(
            f"layer = {shown(layer)}: this encoder has layers 0 to {encoder.depth - 1}, and None for its output"
        )
    if pool == "cls" and not encoder.has_cls:
        raise Refused("pool = 'cls': this encoder has no class token; use pool = 'mean'")


@contextmanager
def still(encoder):
    """Eval mode without gradients; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in encoder.modules()}
    try:
        with torch.no_grad():
            yield encoder.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def walk(encoder, images, wanted, cls=False, batch=BATCH):
    """Batch by batch {layer: (class token (b, D) or None, map (b, D, h, w))}, float32 on the CPU.

    `images` (B, 3, H, W), float in [0, 1] or uint8; `batch` of them at a time are held in all layers. Class tokens only
    with `cls`. Refuses layers that there are not, and `cls` where a layer has none.
    """
    for layer in wanted:
        check(encoder, layer, "cls" if cls else "mean")
    blocks = [layer for layer in wanted if layer != OUTPUT]
    device = next(encoder.parameters()).device
    for part in images.split(batch):
        pixels = part.to(device)
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        with still(encoder):
            found = _blocks(encoder, pixels, blocks, cls) if blocks else {}
            if OUTPUT in wanted:
                first, last = encoder(pixels)
                found[OUTPUT] = first if cls else None, last.transpose(1, 2).unflatten(2, encoder.cells(pixels))
        yield {layer: tuple(x if x is None else x.float().cpu() for x in found[layer]) for layer in wanted}


def _blocks(encoder, images, blocks, cls):
    """{block: (class token or None, map)}."""
    if not cls:
        return {layer: (None, found) for layer, found in zip(blocks, encoder.maps(images, blocks), strict=True)}
    x, shared, found = encoder.embed(images), encoder.shared_bias(), {}
    grid = encoder.cells(images)
    if x.shape[1] == grid[0] * grid[1]:
        raise Refused("pool = 'cls': the class token of this encoder comes after its blocks; use pool = 'mean'")
    for index in range(max(blocks) + 1):
        x = encoder.run_block(index, x, shared)
        if index in blocks:
            found[index] = x[:, 0], x[:, encoder.prefix :].transpose(1, 2).unflatten(2, grid)
    return found


def layers(encoder, images, wanted=None, pool="mean", batch=BATCH):
    """One vector an image and layer, {layer: (B, D)}: the mean of the patches, or the class token (`pool`).

    `wanted` None: all layers. A dict and no tensor, since the stages of a ResNet differ in width.
    """
    wanted, cls = names(encoder) if wanted is None else wanted, pool == "cls"
    parts = [
        {layer: first if cls else cells.mean(dim=(2, 3)) for layer, (first, cells) in found.items()}
        for found in walk(encoder, images, wanted, cls, batch)
    ]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in wanted}


def patches(encoder, images, layer=OUTPUT, batch=BATCH):
    """Features of all patches at a layer, (B, h, w, D)."""
    parts = [found[layer][1] for found in walk(encoder, images, [layer], batch=batch)]
    return torch.cat(parts).permute(0, 2, 3, 1)


def sampled(encoder, images, each, generator, wanted=None, batch=BATCH):
    """At most `each` random patches of every image and layer, {layer: (B * each, D)}."""
    wanted = names(encoder) if wanted is None else wanted
    kept = {layer: [] for layer in wanted}
    for found in walk(encoder, images, wanted, batch=batch):
        for layer, (_, cells) in found.items():
            rows = cells.flatten(2).transpose(1, 2)  # (b, N, D)
            order = torch.rand(rows.shape[:2], generator=generator).argsort(dim=1)[:, :each]
            kept[layer].append(rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2])).flatten(0, 1))
    return {layer: torch.cat(parts) for layer, parts in kept.items()}
