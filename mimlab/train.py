"""`pretrain(cfg)`: the one loop, blind to methods. Data, model, optimiser, resume, steps, finish."""

import contextlib
import signal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from mimlab import data, environment, masks, tokenizers
from mimlab.batches import Batches
from mimlab.checkpoints import check_folder
from mimlab.cores import threads
from mimlab.distributed import generator_for, mine, rank, world
from mimlab.errors import Refused, reason
from mimlab.find import options
from mimlab.heap import kept
from mimlab.layers import decay_groups, schedule
from mimlab.log import Log
from mimlab.looking import film
from mimlab.methods import Batch, Progress
from mimlab.parallel import Copies, Shards, unsynced
from mimlab.progress import say
from mimlab.run import Run

PROBE = 1000, 5000  # images that a k-NN probe in training looks at, at least and at most, where there are so many


def pretrain(cfg, report=None):
    """Pre-train as `cfg` (a `Pretrain`) says and return the `Run`; goes on where its folder stopped.

    `report(row)` is called with each line of metrics.jsonl. With `processes` or `nodes` > 1 the work is done
    by child processes and followed here. Ctrl-C and SIGTERM save a checkpoint first. Raises `Refused`.
    """
    cfg = cfg.resolved()
    launched = environment.child(cfg.world)
    run = Run.at(cfg.resolved_folder())
    if cfg.world > 1 and not launched:
        from mimlab.launch import launch

        return launch(cfg, run, report)
    lock = run.lock() if not launched or environment.first() else contextlib.nullcontext()
    before = run.threads if cfg.world == 1 else None
    with lock, environment.settings_alone(cfg.world, None if launched else say), threads(before):
        return _train(cfg, run, report)


@kept()
def _train(cfg, run, report):
    # -- data ---------------------------------------------------------------------------------------
    if world() == 1:  # in a notebook an earlier run may have had another precision or device
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=cfg.device == "cpu" or (cfg.world > 1 and not torch.cuda.is_available()),
        mixed_precision=cfg.precision,
        gradient_accumulation_steps=cfg.accumulate,
    )
    accelerator.ddp_handler = unsynced()
    device, first = accelerator.device, accelerator.is_main_process
    with accelerator.main_process_first():  # one process decodes and fits, the others read
        images = open_data(cfg, "train")
        test = probed(cfg, images)
        filmed = film.source(cfg, images) if cfg.film and first else None
        steps, each = cfg.steps(len(images))
        grid = (cfg.image_size // cfg.patch_size,) * 2
        torch.manual_seed(cfg.seed)
        tokenizer = None
        if cfg.tokenizer != "none":
            tokenizer = tokenizers.fitted(
                cfg.tokenizer, images, grid, cfg.image_size, cfg.vocab, cfg.token_patch, cfg.seed, **cfg.tokenizer_args
            )

    # -- model --------------------------------------------------------------------------------------
    torch.manual_seed(cfg.seed)
    classes = len(images.classes) if images.classes else None
    plain = cfg.build_to_train(tokenizer, classes)
    if "classes" in options(type(plain).__init__):  # refused before the folder is begun
        images.require_labels()
    if first:
        run.start(cfg, images, plain.encoder.spec)
        run.repair(cfg.keep_weights)
    accelerator.wait_for_everyone()
    if run.finished:
        return run
    saved = run.checkpoints()
    if not saved:  # else they have it
        plain.learn(images, generator_for(cfg.seed, 0, "learn"))

    # -- optimiser ----------------------------------------------------------------------------------
    peak, floor = (rate * cfg.batch_size / 256 for rate in (cfg.lr, cfg.min_lr))
    parallel = (Shards if cfg.parallel == "fsdp" else Copies)(
        accelerator, plain, lambda method: adamw(cfg, method, peak, device)
    )
    method, optimiser = parallel.method, parallel.optimiser
    warmup = round(steps * cfg.warmup_epochs / cfg.epochs)

    # -- resume -------------------------------------------------------------------------------------
    start = max(saved, default=0)
    if saved:
        try:
            check_folder(saved[start])
            parallel.load(saved[start])
        except Exception as error:  # safetensors, zip and pickle each have their own
            raise Refused(
                f"checkpoint {saved[start]} is truncated or damaged ({reason(error)}); delete that folder to begin anew"
            ) from None
        parallel.gather()
        if bad := parallel.not_finite():
            raise Refused(
                f"checkpoint {saved[start]} holds {bad:,} numbers that are not finite; delete that folder to begin anew"
            )
    if first:
        run.forget_after(start)
        film.forget_after(run, start)
    camera = film.Camera(cfg, run, filmed, parallel.shown) if filmed is not None else None
    if camera and not camera.has(start):
        camera.take(start)
    log = Log(cfg, run, accelerator, steps, each, start, report, test)
    if first and start == 0 and tokenizer is not None:
        log.tokens(tokenizer, images, grid)

    # -- steps --------------------------------------------------------------------------------------
    views = plain.views(cfg.image_size, **cfg.augment)
    if tokenizer is not None and tokenizer.costly and views.variants:
        tokenizer.remember(views.variants * len(images))
    batches = Batches(images, views, cfg, each)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, steps), num_workers=cfg.workers)
    method.train()
    last_good = start if saved else None

    def save(step):
        accelerator.wait_for_everyone()
        parallel.gather()
        if bad := parallel.not_finite():
            good = f"step {last_good}, in {run.path / 'checkpoint'}" if last_good is not None else "none yet"
            raise FloatingPointError(
                f"the update of step {step} left {bad:,} numbers of weights and optimiser that are not finite (nan or inf); "
                f"last good checkpoint: {good}. A smaller lr, clip = 1, or precision = 'no' often helps"
            )
        if first:
            if camera:  # before the checkpoint, from which training would go on without it
                camera.take(step)
            run.save(step, parallel.save, cfg.keep_weights)
        accelerator.wait_for_everyone()

    with stopping() as stop, contextlib.closing(log):
        for step, (views, labels, rows) in enumerate(loader, start):
            progress = Progress(step, steps)
            rate = schedule(step, steps, warmup, peak, end=floor, shape=cfg.schedule)
            decay = schedule(step, steps, 0, cfg.weight_decay, end=cfg.weight_decay_end)
            for group in optimiser.param_groups:
                group["lr"] = rate
                if group["decays"]:
                    group["weight_decay"] = decay
            views = [view.to(device) for view in views]
            labels = None if labels is None else labels.to(device)
            mask, noise, visible = None, None, None
            if cfg.mask != "none":
                mask, noise, visible = draw(cfg, progress, grid, views[0], plain, accelerator)
            parts = zip(*(split(x, cfg.accumulate) for x in (mask, noise, labels, *views)), strict=True)
            torch.manual_seed(int(generator_for(cfg.seed, step, f"model {rank()}").initial_seed()))  # stochastic depth
            for mask, noise, labels, pixels, *crops in parts:
                with accelerator.accumulate(method):
                    batch = Batch(pixels, noise, visible, tuple(crops), labels)
                    output = method(batch, mask, progress)  # autocast is in the prepared method
                    accelerator.backward(output.loss)
                    norm = None
                    if accelerator.sync_gradients:
                        if cfg.clip:
                            norm = parallel.clip(cfg.clip)
                        else:
                            accelerator.unscale_gradients()
                        plain.before_step(progress)
                    optimiser.step()
                    optimiser.zero_grad()
                log.add(step, rows, output, norm)
            plain.after_step(Progress(step + 1, steps))

            done = step + 1
            epoch_ends = done % each == 0 or done == steps
            save_now = done == steps or (
                epoch_ends and cfg.checkpoint_every and (done // each) % cfg.checkpoint_every == 0
            )
            leave = agreed(stop, done, cfg.log_every, accelerator)
            if done % cfg.log_every == 0 or save_now or leave:
                log.write(done, rate, last_good)
            if epoch_ends and cfg.knn_every and ((done // each) % cfg.knn_every == 0 or done == steps):
                parallel.gather()
                log.probe(done, parallel.shown)
            if save_now or leave:
                save(done)
                last_good = done
            if leave and done < steps:
                raise KeyboardInterrupt(f"stopped at step {done} of {steps}; start the same run again to go on")

    # -- finish -------------------------------------------------------------------------------------
    parallel.gather()
    if first:
        run.write_weights("method", parallel.shown)
        run.write_weights("encoder", parallel.shown.deployed.trunk)
    accelerator.wait_for_everyone()
    return run


def adamw(cfg, method, rate, device):
    """The optimiser of a run on a torch `device`: AdamW, in one kernel where there is one, decay as `decay_groups` says."""
    groups = decay_groups(method, cfg.weight_decay, cfg.spared())
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, cfg.beta2), fused=device.type in ("cpu", "cuda"))


def draw(cfg, progress, grid, images, method, accelerator):
    """This process's masks and noise of one step, and how many patches stay visible."""
    n = grid[0] * grid[1]
    ratio = masks.ratio(progress.fraction, cfg.mask_ratio, **cfg.mask_schedule)
    scores = None
    if masks.looks(cfg.mask):  # each process looks at its own images; the scores of the whole batch are ranked
        with accelerator.autocast():
            scores = masks.score(cfg.mask, images, grid, method, **cfg.mask_args)
        scores = accelerator.gather(scores.float().to(accelerator.device)).cpu()  # a strategy may look on the CPU
    generator = generator_for(cfg.seed, progress.step, "mask")
    mask = masks.sample(cfg.mask, cfg.batch_size, grid, ratio, generator, scores, **cfg.mask_args)
    noise = torch.rand(mask.shape, generator=generator)
    here = mine(cfg.batch_size)
    return mask[here].to(images.device), noise[here].to(images.device), n - masks.count(n, ratio)


def split(x, parts):
    """A tensor in `parts` along the batch, or None as often."""
    return (None,) * parts if x is None else x.chunk(parts)


def probed(cfg, images):
    """(bank, test) of the k-NN probe, or None without labels; class-balanced shares, about `probe_size` images of each."""
    if images.labels is None or not cfg.knn_every:
        return None
    most = probe_size(cfg.knn_every, len(images))
    try:
        test = open_data(cfg, "test")
        shares = {"train": cfg.fraction * min(1.0, most / len(images)), "test": min(1.0, most / len(test))}
        return tuple(
            data.open(cfg.data, split, size=cfg.cache_size, fraction=share, seed=cfg.seed, **cfg.data_args)
            for split, share in shares.items()
        )
    except Refused as error:
        raise Refused(f"{error}; knn_every = 0 trains without probes") from None


def probe_size(every, images):
    """Images of bank and of test that a probe looks at: a sixtieth of those trained on since the last, within `PROBE`.

    A pass over the encoder costs up to two thirds of MAE's step, so probes stay below 3 % of a run.
    """
    return min(PROBE[1], max(PROBE[0], every * images // 60))


def open_data(cfg, split):
    share = cfg.fraction if split == "train" else 1.0
    return data.open(cfg.data, split, size=cfg.cache_size, fraction=share, seed=cfg.seed, **cfg.data_args)


@contextlib.contextmanager
def stopping():
    """A list that becomes non-empty on Ctrl-C or SIGTERM, so that the step at hand ends and is saved.

    A second Ctrl-C interrupts at once (a second SIGTERM does not: launchers repeat it). Signals can be
    watched in the main thread only.
    """
    stop, before = [], {}

    def ask(number, frame):
        if signal.SIGINT in stop:
            raise KeyboardInterrupt
        stop.append(number)

    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(stop, done, every, accelerator):
    """Whether to stop after this step; many processes decide together, at the steps that are logged."""
    if world() == 1:
        return bool(stop)
    if done % every:
        return False
    return bool(accelerator.reduce(torch.tensor(float(bool(stop)), device=accelerator.device)) > 0)
