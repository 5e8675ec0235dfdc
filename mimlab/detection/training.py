"""`train(cfg)`: the loop of detection and segmentation, blind to which; data, model, optimiser, resume, steps, numbers.

One process is enough here, but nothing is drawn from a process's own state and rows are shared among processes.
"""

import contextlib
import importlib
import math
import time

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, Dataset

from mimlab import environment, files, strict
from mimlab.checkpoints import check_folder
from mimlab.cores import threads
from mimlab.detection import data, start
from mimlab.detection.recipes import DROPS
from mimlab.distributed import generator_for, mine, rank, world
from mimlab.errors import Refused, reason, shown
from mimlab.layers import lost
from mimlab.log import diverged
from mimlab.parallel import counted
from mimlab.progress import Bar, say
from mimlab.run import Run, versions, write
from mimlab.train import agreed, stopping

TASKS = {"detect": "mimlab.detection.task", "segment": "mimlab.segmentation.task"}
FLIP = 0.5  # share of training images that are mirrored
WARMUP = 0.001  # of the learning rate, in the first step


class Batches(Dataset):
    """Item `step`: images, float (3, H, W) in [0, 1] each, and their targets; a pure function of (seed, step)."""

    def __init__(self, pictures, target, cfg, augmented):
        self.pictures, self.target, self.cfg, self.augmented = pictures, target, cfg, augmented
        self.seed, self.batch_size = cfg.seed, cfg.batch_size
        self.each = math.ceil(len(pictures) / cfg.batch_size)  # the last batch of an epoch may be smaller
        self.place = rank(), world()  # asked here: a loader's worker belongs to no process group unless it was forked

    def __getitem__(self, step):
        epoch, place = divmod(step, self.each)
        order = torch.randperm(len(self.pictures), generator=generator_for(self.seed, epoch, "order"))
        rows = order[place * self.batch_size : (place + 1) * self.batch_size]
        mirrored = torch.rand(len(rows), generator=generator_for(self.seed, step, "flip")) < FLIP
        here = mine(len(rows), self.place)
        some = []
        for row, mirror in zip(rows[here].tolist(), mirrored[here].tolist(), strict=True):
            picture = self.pictures.item(row)
            picture = picture.flipped() if mirror else picture
            some.append(self.augmented(picture, self.cfg, generator_for(self.seed, step, f"cut {row}")))
        return [picture.image.float() / 255 for picture in some], [self.target(picture) for picture in some]


def learning_rate(step, steps, warmup, peak):
    """Learning rate at `step`: a linear rise over `warmup` steps, then `peak`, a tenth after 3/4, a hundredth after 11/12."""
    warm = WARMUP + (1 - WARMUP) * step / warmup if step < warmup else 1.0
    return peak * warm * 0.1 ** sum(step >= round(share * steps) for share in DROPS)


def groups(model, weight_decay, layer_decay, spared):
    """AdamW groups of the trainable parameters, with `scale`, the factor of the learning rate.

    Those for which `spared(name, parameter)`, the task's, is true are not decayed. The encoder's block i of L has scale layer_decay^(L - i), the embedding
    layer_decay^(L + 1), all else 1 (BEiT, semantic_segmentation, LayerDecayOptimizerConstructor).
    """
    depth, found = model.backbone.encoder.depth, {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        short = name.removeprefix("backbone.encoder.trunk.")
        below = 0
        if short != name:
            below = depth - int(short.split(".")[1]) if short.startswith("blocks.") else depth + 1
        key = (layer_decay**below, 0.0 if spared(name, parameter) else weight_decay)
        group = found.setdefault(key, {"scale": key[0], "weight_decay": key[1], "params": []})
        group["params"].append(parameter)
    return list(found.values())


def train(cfg, report=None):
    """Train as `cfg` (a `Detect`) says, evaluate, and return the result; goes on where its folder stopped.

    The result is also evals/<task>.json of the folder: numbers, curves, protocol, seed, counts, time. `report(row)` is called with each line
    of metrics.jsonl. Ctrl-C and SIGTERM save a checkpoint first. Raises `Refused`, or FloatingPointError for a loss
    that is not finite.
    """
    cfg = cfg.resolved()
    run = Run.at(cfg.folder())
    environment.child(1)
    with run.lock(), environment.settings_alone(1, say), threads(run.threads):
        return _train(cfg, run, report)


def result(folder, task):
    """The stored result in a folder, or None."""
    path = folder / "evals" / f"{task}.json"
    try:
        return files.load(path)
    except FileNotFoundError:
        return None
    except (OSError, Refused) as error:  # evaluated again from the checkpoint that is there
        say(f"left out: {error}")
        return None


def opened(cfg):
    """The trained model of `cfg`'s folder in eval mode, from its latest checkpoint, and the test pictures."""
    from mimlab.checkpoints import read_safetensors

    cfg = cfg.resolved()
    saved, task = Run.at(cfg.folder()).checkpoints(), importlib.import_module(TASKS[cfg.task])
    if not saved:
        raise Refused(f"{cfg.folder()} has no checkpoint; train first")
    test = data.open(cfg.data, "test", cfg.data_args)
    model = task.build(start.encoder(cfg)[0], test.classes, cfg)
    model.load_state_dict(read_safetensors(saved[max(saved)] / "model.safetensors"))
    return model.eval(), test


def _train(cfg, run, report):
    task, began = importlib.import_module(TASKS[cfg.task]), time.perf_counter()
    if world() == 1:  # in a notebook an earlier run may have had another precision or device
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cfg.device == "cpu", mixed_precision=cfg.precision)
    device = accelerator.device
    pictures, test = (data.open(cfg.data, split, cfg.data_args) for split in ("train", "test"))
    if not len(pictures) or not len(test):
        raise Refused(
            f"data = {shown(cfg.data)}: {len(pictures)} training and {len(test)} test images; there must be some of each"
        )
    shared = test.shared(pictures)
    if shared == len(test):
        raise Refused(f"data = {shown(cfg.data)}: all {shared} test images are also training images; test on others")
    if shared:
        say(f"note: {shared} of {len(test)} test images are also training images, byte for byte")
    torch.manual_seed(cfg.seed)
    encoder, said = start.encoder(cfg)
    plain = task.build(encoder, pictures.classes, cfg)
    if cfg.frozen:
        encoder.requires_grad_(False)
    run.start(cfg, pictures, encoder.spec)
    if (done := result(run.path, cfg.task)) is not None:
        return done

    batches = Batches(pictures, task.target, cfg, task.augmented)
    steps = cfg.epochs * batches.each
    warmup = min(cfg.warmup_steps, steps // 10)
    optimiser = torch.optim.AdamW(
        groups(plain, cfg.weight_decay, cfg.layer_decay, task.spared), lr=cfg.lr, fused=device.type in ("cpu", "cuda")
    )
    model, optimiser = accelerator.prepare(plain, optimiser)
    first, spent = 0, 0.0
    saved = run.checkpoints()
    if saved:
        first = max(saved)
        try:
            check_folder(saved[first])
            accelerator.load_state(str(saved[first]))
        except Exception as error:  # safetensors, zip and pickle each have their own
            raise Refused(
                f"checkpoint {saved[first]} is damaged ({reason(error)}); delete that folder to begin anew"
            ) from None
    run.forget_after(first)
    spent = max((row["seconds"] for row in run.metrics() if "seconds" in row), default=0.0)
    bar = Bar(steps, first, f"{cfg.task} {cfg.init}")
    for row in run.metrics() if report is not None else ():
        report(row)

    def tell(row):
        row = {"step": done, "steps": steps, "epoch": round(done / batches.each, 4)} | row
        run.append(row | {"seconds": round(spent + time.perf_counter() - began, 1)})
        bar.show(row)
        if report is not None:
            report(row)

    def learn():
        model.train()
        if cfg.frozen:
            encoder.eval()

    learn()
    done, pending, images_since, clock = first, [], 0, time.perf_counter()
    level, warned = next((row["loss"] for row in run.metrics() if "loss" in row), None), False
    loader = DataLoader(batches, batch_size=None, sampler=range(first, steps), num_workers=cfg.workers)
    with stopping() as stop, contextlib.closing(bar):
        for step, (images, targets) in enumerate(loader, first):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, warmup, cfg.lr) * group["scale"]
            torch.manual_seed(
                generator_for(cfg.seed, step, f"model {rank()}").initial_seed()
            )  # sampled anchors, stochastic depth
            images = [image.to(device) for image in images]
            targets = [{name: value.to(device) for name, value in one.items()} for one in targets]
            with accelerator.autocast():
                losses = model(images, targets)
            loss = sum(losses.values())
            optimiser.zero_grad()
            accelerator.backward(loss)
            if cfg.clip:
                accelerator.clip_grad_norm_(model.parameters(), cfg.clip)
            optimiser.step()
            done, images_since = step + 1, images_since + len(images)
            pending.append({"loss": loss.detach()} | {name: value.detach() for name, value in losses.items()})
            epoch_ends = done % batches.each == 0
            leave = agreed(stop, done, cfg.log_every, accelerator)
            if done % cfg.log_every == 0 or done == steps or leave:
                means = {name: float(torch.stack([row[name].float() for row in pending]).mean()) for name in pending[0]}
                if not math.isfinite(means["loss"]):
                    raise FloatingPointError(
                        f"loss = {means['loss']} before step {done}; a smaller lr than {cfg.lr}, or clip = 1, often helps"
                    )
                level = means["loss"] if level is None else level
                far = diverged(means["loss"], level, done, warned)
                warned = warned or bool(far)
                speed = images_since / (time.perf_counter() - clock)
                tell(
                    {n: round(v, 6) for n, v in means.items()}
                    | {"lr": learning_rate(step, steps, warmup, cfg.lr), "images_per_s": round(speed, 2)}
                    | far
                )
                pending, images_since, clock = [], 0, time.perf_counter()
            if epoch_ends and cfg.evaluate_every and (done // batches.each) % cfg.evaluate_every == 0 and done < steps:
                tell(task.evaluate(plain, test)[0])
                learn()
                clock = time.perf_counter()
            if (
                leave
                or done == steps
                or (epoch_ends and cfg.checkpoint_every and (done // batches.each) % cfg.checkpoint_every == 0)
            ):
                if bad := counted(accelerator, model.state_dict(), optimiser.state_dict()):
                    last = max(run.checkpoints(), default=None)
                    raise FloatingPointError(
                        f"the update of step {done} left {bad:,} numbers of weights and optimiser that are not finite; last good "
                        f"checkpoint: {'none yet' if last is None else f'step {last}'}; a smaller lr, or clip = 1, often helps"
                    )
                run.save(done, lambda folder: accelerator.save_state(str(folder)))
            if leave and done < steps:
                raise KeyboardInterrupt(f"stopped at step {done} of {steps}; start the same again to go on")

    trained = spent + time.perf_counter() - began
    if lost(*plain.parameters()):
        raise FloatingPointError(
            f"training ended with weights that are not finite; a smaller lr than {cfg.lr} often helps"
        )
    numbers, curves, intervals = task.evaluate(plain, test)
    tell(numbers)
    found = {
        "results": {
            "from scratch" if cfg.init == "scratch" else "after pre-training": {
                "metric": task.METRIC,
                "value": numbers[task.METRIC],
                "values": [numbers[task.METRIC]],
                "interval": intervals[task.METRIC],
                "interval_over": "test images",
                "protocol": f"{cfg.task} {cfg.recipe}, {cfg.epochs} epochs of {cfg.data}, settings {cfg.schedule}",
            }
        },
        "numbers": numbers,
        "intervals": intervals,
        "protocol": task.PROTOCOL,
        "init": said,
        "seed": cfg.seed,
        "seeds": [cfg.seed],
        "train_images": len(pictures),
        "test_images": len(test),
        "test_images_in_train": shared,
        "test_objects": sum(len(test.item(i).labels) for i in range(len(test))),
        "classes": list(test.classes),
        "steps": steps,
        "train_seconds": round(trained, 1),
        "seconds": round(spent + time.perf_counter() - began, 1),
        "curves": {
            kind: {name: [round(float(v), 4) for v in line] for name, line in lines.items()}
            for kind, lines in curves.items()
        },
        "config": cfg.dict(),
        "versions": versions(),
    }
    (run.path / "evals").mkdir(exist_ok=True)
    write(run.path / "evals" / f"{cfg.task}.json", strict.dumps(found, indent=1))
    return found
