"""The run folder: what a pre-training leaves behind, and how it is read.

config.json, metrics.jsonl, checkpoint/<step>/, weights/<step>.safetensors (if kept), film/<step>.npz, method.safetensors,
encoder.safetensors (its presence means "finished"), the executed notebooks, evals/. Files are written aside and renamed.
"""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from mimlab import remote, strict
from mimlab.config import Pretrain
from mimlab.errors import Refused
from mimlab.settings import place

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy")


def write(path, text):
    """Write a text file aside and rename it; a full disk leaves the old file as it was."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(text)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Refused(f"cannot write {path}: {error.strerror}; nothing already written was changed") from None


class Run:
    """One run folder. `path`, `config` (config.json), `settings` (its `Pretrain`)."""

    def __init__(self, path):
        self.path = Path(path)

    @classmethod
    def open(cls, path):
        """An existing run. Raises `Refused` where there is none, or config.json cannot be read."""
        path = Path(path)
        if not (path / "config.json").is_file():
            raise Refused(f"run = {str(path)!r} is no run folder (it has no config.json)")
        run = cls(path)
        run.config  # noqa: B018  a broken file is refused here
        return run

    @classmethod
    def find(cls, name, out="runs"):
        """The run called `name`: a path, a folder in `out`, "newest" finished one, or an address (a copy of it)."""
        if remote.away(name):
            return cls.open(remote.here(name))
        if name == "newest":
            found = sorted(place(out).glob("*/encoder.safetensors"), key=lambda p: p.stat().st_mtime)
            if not found:
                raise Refused(f"run = 'newest': no finished run in {out!r}; pre-train one with notebook 03 first")
            return cls.open(found[-1].parent)
        places = (Path(name), place(name), place(out) / name)
        return cls.open(next((path for path in places if path.is_dir()), name))

    @property
    def config(self):
        try:
            return json.loads((self.path / "config.json").read_text())
        except ValueError as error:
            raise Refused(
                f"{self.path / 'config.json'} is damaged ({error}); move the folder away to start anew"
            ) from None

    @property
    def settings(self):
        return Pretrain.read(self.config["settings"])

    @property
    def finished(self):
        return (self.path / "encoder.safetensors").is_file()

    def start(self, cfg, data, spec):
        """Write config.json for resolved settings, or compare them with those already there."""
        settings = cfg.dict()
        if (self.path / "config.json").exists():
            before = self.config
            names = [n for n in settings if n not in cfg.FREE and settings[n] != before["settings"].get(n)]
            if names:
                said = "; ".join(f"{n} = {before['settings'].get(n)!r} there, {settings[n]!r} now" for n in names)
                raise Refused(f"run folder {self.path} belongs to another configuration: {said}. Choose another `run`")
            if before["data_fingerprint"] != data.fingerprint:
                raise Refused(
                    f"run folder {self.path}: the images of data = {cfg.data!r} have changed since it was begun"
                )
            return
        about = {"settings": settings, "data_fingerprint": data.fingerprint, "images": len(data)}
        about |= {"classes": data.classes, "timm": spec}
        write(self.path / "config.json", strict.dumps(about | {"versions": versions(), "commit": commit()}, indent=1))

    @contextlib.contextmanager
    def lock(self):
        """Only one process tree writes a run; the lock goes with the process, however it ends.

        Makes the folder, and removes it again if nothing came of it.
        """
        self.make()
        with open(self.path / "lock", "w") as handle:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"run folder {self.path} is being written by another process") from None
            except ImportError:  # no such locks on Windows
                pass
            try:
                yield
            finally:
                if os.listdir(self.path) == ["lock"]:
                    shutil.rmtree(self.path)

    def make(self):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"out = '{self.path.parent}': cannot make {self.path} ({error.strerror})") from None

    # metrics

    def metrics(self):
        """Rows of metrics.jsonl, in order; a line cut short by a crash is left out."""
        path, rows = self.path / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def metrics_since(self, at):
        """Rows of metrics.jsonl from byte `at` on, whole lines only, and the byte where the next one will begin.

        A long run is followed at the cost of what is new.
        """
        try:
            with open(self.path / "metrics.jsonl", "rb") as file:
                file.seek(at)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return [], at
        rows = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows, at + len(whole) + bool(whole)

    def last(self):
        """The last value of each quantity of metrics.jsonl, in order of first appearance."""
        return {name: value for row in self.metrics() for name, value in row.items()}

    def append(self, row):
        with open(self.path / "metrics.jsonl", "a") as handle:
            handle.write(strict.dumps(row) + "\n")

    def forget_after(self, step):
        """Drop rows beyond the checkpoint that training goes on from."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        if (self.path / "metrics.jsonl").exists():
            write(self.path / "metrics.jsonl", "".join(strict.dumps(row) + "\n" for row in rows))

    # checkpoints

    def checkpoints(self):
        """Complete checkpoints, {step: folder}, oldest first."""
        found = [p for p in (self.path / "checkpoint").glob("*") if p.is_dir() and p.name.isdigit()]
        return {int(p.name): p for p in sorted(found)}

    def save(self, step, state, keep=False):
        """`state(folder)` writes the state; the folder gets its name when complete, then older ones go.

        With `keep` the method's weights stay, as weights/<step>.safetensors.
        """
        aside, done = self.path / "checkpoint" / f"{step:08d}.part", self.path / "checkpoint" / f"{step:08d}"
        if done.exists():
            return
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            state(aside)
            for file in aside.iterdir():  # on the disk before the name says so
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            aside.rename(done)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            last = next(reversed(self.checkpoints()), None)
            good = f"the last good checkpoint is step {last}" if last is not None else "there is no earlier one"
            raise Refused(f"cannot write the checkpoint of step {step} in {self.path}: {error}; {good}") from None
        if keep:
            (self.path / "weights").mkdir(exist_ok=True)
            kept = self.path / "weights" / f"{step:08d}.safetensors"
            aside = kept.with_suffix(".part")
            shutil.copy(done / "model.safetensors", aside)
            aside.replace(kept)
        for earlier, folder in self.checkpoints().items():
            if earlier < step:
                shutil.rmtree(folder)

    # weights

    def weights(self):
        """Files of the method's weights, {step: path}, oldest first: those kept, and the latest checkpoint's."""
        kept = {int(p.stem): p for p in sorted((self.path / "weights").glob("*.safetensors"))}
        return kept | {step: folder / "model.safetensors" for step, folder in self.checkpoints().items()}

    def write_weights(self, name, module):
        """`name`.safetensors with a module's state dict, written aside and renamed."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
        aside = self.path / f"{name}.safetensors.part"
        try:
            save_file(state, aside, metadata={"format": "pt"})
            aside.replace(self.path / f"{name}.safetensors")
        except Exception as error:  # safetensors has error types of its own
            aside.unlink(missing_ok=True)
            raise Refused(f"cannot write {name}.safetensors in {self.path}: {error}") from None

    def method(self, step=None):
        """The whole method in eval mode: finished weights, or those of the checkpoint at `step`."""
        from mimlab.checkpoints import read_safetensors

        if step is None and self.finished:
            path = self.path / "method.safetensors"
        else:
            saved = self.weights()
            if not saved or (step is not None and step not in saved):
                raise Refused(
                    f"run {self.path} has no checkpoint{f' of step {step}' if step is not None else ''} yet; saved: {list(saved) or 'none'}"
                )
            path = saved[step if step is not None else max(saved)]
        classes = self.config.get("classes")
        model = self.settings.build(classes=len(classes) if classes else None)
        model.load_state_dict(read_safetensors(path))
        return model.eval()

    def encoder(self, step=None):
        return self.method(step).deployed

    def data(self, split="train"):
        """The run's images, as they were for training; `test` is never a fraction."""
        from mimlab import data

        cfg = self.settings
        share = cfg.fraction if split == "train" else 1.0
        return data.open(cfg.data, split, size=cfg.cache_size, fraction=share, seed=cfg.seed, **cfg.data_args)

    def evaluations(self):
        """{name: content} of evals/*.json."""
        return {p.stem: json.loads(p.read_text()) for p in sorted((self.path / "evals").glob("*.json"))}

    def __repr__(self):
        rows = self.metrics()
        state = "finished" if self.finished else f"at step {rows[-1]['step'] if rows else 0}"
        return f"Run({str(self.path)!r}, {state})"


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


def commit():
    """The git commit of the code, with + where it was changed; "unknown" outside a repository."""
    try:
        where = Path(__file__).parent
        said = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=where, capture_output=True, text=True, timeout=5
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=where, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() + ("+" if dirty.stdout.strip() else "") if said.returncode == 0 else "unknown"
