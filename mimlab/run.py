"""The run folder: what a pre-training leaves behind, and how it is read.

config.json, metrics.jsonl, checkpoint/<step>/, weights/<step>.safetensors (if kept), film/<step>.npz, method.safetensors,
encoder.safetensors (both whole means "finished"), the executed notebooks, evals/. Files are written aside and renamed.
A folder may have come from somebody else: whatever is read may be damaged or missing, and nothing is written through links.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

from mimlab import files, remote, strict, trusted
from mimlab.config import Detect, Pretrain
from mimlab.errors import Refused, reason, shown
from mimlab.files import write
from mimlab.find import find
from mimlab.progress import say
from mimlab.settings import place

__all__ = ["Run", "commit", "versions", "write"]

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy")
MOST_ROWS = 2_000_000  # of metrics.jsonl that are held in memory, some 1 kB each
FORMAT = 2  # of config.json; 1 had no number, and six digits of a hash in the folder's name
# what config.json holds beside the settings: name -> (type, what stands for one that is missing)
KEPT = {
    "data_fingerprint": (str, None),
    "images": (int, None),
    "classes": (list, None),
    "about": (dict, {}),  # what the data set took and left out
    "timm": (dict, None),
    "versions": (dict, {}),
    "commit": (str, "unknown"),
}


class Run:
    """One run folder. `path`, `config` (config.json), `settings` (its `Pretrain`). Raises `Refused` where there is none.

    A name that is no path, such as "newest", is looked up by `Run.find`.
    """

    def __init__(self, path):
        if not is_run(path):
            raise Refused(
                f"run = {shown(str(path))} is no run folder (it has no config.json); Run.find looks for a name, or 'newest'"
            )
        self._of(path)

    def _of(self, path):
        self.path = Path(path)
        self._read = None, None

    @classmethod
    def at(cls, path):
        """The run of a folder that may not have begun, such as `cfg.folder()`."""
        run = cls.__new__(cls)
        run._of(path)
        return run

    @classmethod
    def open(cls, path):
        """An existing run. Raises `Refused` where there is none, or config.json cannot be read."""
        run = cls(path)
        run.config  # noqa: B018  a broken file is refused here
        return run

    @classmethod
    def find(cls, name, out="runs"):
        """The run called `name`: a path, a folder in `out`, "newest" finished one, or an address (a copy of it)."""
        if remote.away(name):
            try:
                return cls.open(remote.here(name))
            except Refused as error:
                raise Refused(f"run = {shown(str(name))}: {error}") from None
        if name == "newest":
            found = finished(out)
            if not found:
                raise Refused(f"run = 'newest': no finished run in {shown(out)}; pre-train one with notebook 03 first")
            return found[-1]
        there = runs_called(name, out)
        if len(there) > 1:
            raise Refused(
                f"run = {shown(str(name))} could be {' or '.join(map(str, there))}; give the one that is meant"
            )
        return cls.open(there[0] if there else name)

    @property
    def config(self):
        """What config.json holds, with whatever may be missing filled in. Raises `Refused` where it is damaged."""
        path = self.path / "config.json"
        try:
            about = os.stat(path)
            state = about.st_mtime_ns, about.st_size, about.st_ino
            if self._read[0] != state:
                self._read = state, checked(files.load(path), path)
        except FileNotFoundError:
            raise Refused(f"run = {shown(str(self.path))} is no run folder (it has no config.json)") from None
        except OSError as error:
            raise Refused(f"{path} cannot be read ({reason(error)})") from None
        except files.Damaged as error:
            raise Refused(f"{error}; move the folder away to start anew") from None
        return self._read[1]

    @property
    def settings(self):
        """The run's `Pretrain`. Raises `Refused` where it names a module that only it names (`trusted`)."""
        with trusted.foreign(self.path / "config.json"):
            found = Pretrain.read(self.config["settings"])
        if found.preset is not None:  # else it would be read later, as if it were the user's
            raise Refused(
                f"{self.path / 'config.json'}: preset = {shown(found.preset)} has no place in the settings of a run"
            )
        return found

    @property
    def threads(self):
        """The threads that the run was begun with, which keep its numbers the same to the last bit; None of a new one."""
        found = self.config.get("threads") if (self.path / "config.json").exists() else None
        return found if type(found) is int and 0 < found <= 1024 else None

    @property
    def finished(self):
        """Whether its weights are there, each file as long as its header says."""
        return all(files.whole(self.path / f"{name}.safetensors") for name in ("encoder", "method"))

    def start(self, cfg, data, spec):
        """Write config.json for resolved settings, or compare them with those already there."""
        settings = cfg.dict()
        if os.path.lexists(self.path / "config.json"):
            before = self.config
            names = differing(cfg, before["settings"])
            if names:
                said = "; ".join(
                    f"{n} = {shown(before['settings'].get(n))} there, {shown(settings[n])} now" for n in names
                )
                raise Refused(f"run folder {self.path} belongs to another configuration: {said}. Choose another `run`")
            same = before["data_fingerprint"] == data.fingerprint
            if not same and before["format"] < FORMAT:  # made of the times of files then
                same = (before["images"], before["classes"]) == (len(data), data.classes)
            if not same:
                raise Refused(
                    f"run folder {self.path}: the images of data = {shown(cfg.data)} have changed since it was begun"
                )
            if settings["data_args"] != before["settings"]["data_args"]:  # the images lie elsewhere now
                about = before | {"settings": before["settings"] | {"data_args": settings["data_args"]}}
                write(self.path / "config.json", strict.dumps(about, indent=1))
            return
        import torch

        about = {"format": FORMAT, "settings": settings, "data_fingerprint": data.fingerprint, "images": len(data)}
        about |= {"classes": data.classes, "about": getattr(data, "about", {}), "timm": spec}
        about |= {"threads": torch.get_num_threads()}
        write(self.path / "config.json", strict.dumps(about | {"versions": versions(), "commit": commit()}, indent=1))

    @contextlib.contextmanager
    def lock(self):
        """Only one process tree writes a run; the lock goes with the process, however it ends.

        Makes the folder, and removes it again if nothing came of it. What processes that died left aside goes. A folder
        that cannot be written to needs no lock where the run is finished. Raises `Refused` for links inside it.
        """
        self.make()
        files.unlinked(self.path)
        with contextlib.ExitStack() as held:
            try:
                alone = held.enter_context(files.locked(self.path / "lock"))
            except OSError as error:
                if not self.finished:
                    raise Refused(f"cannot write {self.path / 'lock'}: {reason(error)}") from None
                yield
                return
            if not alone:
                raise Refused(f"run folder {self.path} is being written by another process")
            self.sweep()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # the folder may have gone
                    if os.listdir(self.path) == ["lock"]:
                        shutil.rmtree(self.path)

    def sweep(self):
        """Remove what was left aside where only the holder of the lock writes."""
        for folder in ("checkpoint", "weights", "film"):
            files.sweep(self.path / folder)
        for name in ("config.json", "metrics.jsonl", "encoder.safetensors", "method.safetensors"):
            for pattern in (f"{name}{files.PART}", f".{name}.*{files.PART}"):
                for left in self.path.glob(pattern):
                    files.remove(left)

    def make(self):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"out = '{self.path.parent}': cannot make {self.path} ({reason(error)})") from None

    # metrics

    def rows(self):
        """Rows of metrics.jsonl, in order, one after another: numbers by name, with a step. Damaged ones are left out."""
        at, before = 0, -1
        with contextlib.suppress(OSError):
            while at > before:
                before = at
                whole, at = files.lines(self.path / "metrics.jsonl", before)
                yield from logged(whole)

    def metrics(self):
        """The `rows` as a list, at most `MOST_ROWS`; what lies beyond is said."""
        rows = self.rows()
        found = list(itertools.islice(rows, MOST_ROWS))
        if next(rows, None) is not None:
            say(f"left out: what {self.path / 'metrics.jsonl'} has beyond {MOST_ROWS:,} lines")
        return found

    def metrics_since(self, at):
        """Rows of metrics.jsonl from byte `at` on, whole lines only, and the byte where the next one will begin.

        A long run is followed at the cost of what is new.
        """
        try:
            whole, end = files.lines(self.path / "metrics.jsonl", at)
        except OSError:
            return [], at
        return logged(whole), end

    def last(self):
        """The last value of each quantity of metrics.jsonl, in order of first appearance."""
        return {name: value for row in self.metrics() for name, value in row.items()}

    def append(self, row):
        try:
            files.append(self.path / "metrics.jsonl", strict.dumps(row) + "\n")
        except Refused as error:
            raise Refused(f"{error}; {self.good()}") from None

    def forget_after(self, step):
        """Drop rows beyond the checkpoint that training goes on from."""
        for kept, path in self.kept().items():
            if kept > step:
                files.remove(path)
        if (self.path / "metrics.jsonl").exists():
            with files.aside(self.path / "metrics.jsonl") as fresh, fresh.open("w") as file:
                file.writelines(strict.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)

    # checkpoints

    def checkpoints(self):
        """Complete checkpoints, {step: folder}, oldest first."""
        return {int(p.name): p for p in _numbered(self.path / "checkpoint", "") if p.is_dir()}

    def good(self):
        """In words, what training can go on from."""
        last = next(reversed(self.checkpoints()), None)
        return f"the last good checkpoint is step {last}" if last is not None else "there is no earlier checkpoint"

    def save(self, step, state, keep=False):
        """`state(folder)` writes the state; the folder gets its name when complete, then older ones go.

        With `keep` the method's weights stay, as weights/<step>.safetensors, which is there before the checkpoint is.
        """
        aside, done = self.path / "checkpoint" / f"{step:08d}{files.PART}", self.path / "checkpoint" / f"{step:08d}"
        if done.exists():
            return
        try:
            files.remove(aside)
            aside.mkdir(parents=True)
            state(aside)
            for file in aside.iterdir():  # on the disk before the name says so
                files.sync(file)
            if keep:
                self.keep(step, aside / "model.safetensors")
            files.sync(aside)
            aside.rename(done)
            files.sync(done.parent)
        except Exception as error:  # safetensors, torch and the disk each have their own
            raise Refused(
                f"cannot write the checkpoint of step {step} in {self.path}: {reason(error)}; {self.good()}"
            ) from None
        finally:
            files.remove(aside)
        for earlier, folder in self.checkpoints().items():
            if earlier < step:
                shutil.rmtree(folder, ignore_errors=True)

    def keep(self, step, weights):
        """Copy a checkpoint's weights to where they stay."""
        (self.path / "weights").mkdir(exist_ok=True)
        with files.aside(self.path / "weights" / f"{step:08d}.safetensors", synced=True) as fresh:
            shutil.copyfile(weights, fresh)

    def repair(self, keep):
        """Kept weights that a killed process or a full disk left out are copied from the checkpoint that is there."""
        for step, folder in self.checkpoints().items() if keep else ():
            if files.whole(folder / "model.safetensors") and not files.whole(
                self.path / "weights" / f"{step:08d}.safetensors"
            ):
                self.keep(step, folder / "model.safetensors")

    # weights

    def kept(self):
        """Files of weights/, {step: path}, oldest first."""
        return {int(p.stem): p for p in _numbered(self.path / "weights", ".safetensors") if p.is_file()}

    def weights(self):
        """Files of the method's weights, {step: path}, oldest first: those kept, and the latest checkpoint's."""
        return self.kept() | {step: folder / "model.safetensors" for step, folder in self.checkpoints().items()}

    def write_weights(self, name, module):
        """`name`.safetensors with a module's state dict, written aside and renamed."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
        try:
            with files.aside(self.path / f"{name}.safetensors", synced=True) as fresh:
                save_file(state, fresh, metadata={"format": "pt"})
        except Refused as error:
            raise Refused(f"{error}; {self.good()}") from None
        except Exception as error:  # safetensors has error types of its own
            raise Refused(f"cannot write {name}.safetensors in {self.path}: {reason(error)}; {self.good()}") from None

    def method(self, step=None):
        """The whole method in eval mode: finished weights, or those of the checkpoint at `step`."""
        from mimlab.checkpoints import load, read_safetensors

        saved, whole = self.weights(), self.path / "method.safetensors"
        if step is None and (self.finished or (whole.is_file() and not saved)):
            path = whole
        else:
            if not saved or (step is not None and step not in saved):
                raise Refused(
                    f"run {self.path} has no checkpoint{f' of step {step}' if step is not None else ''} yet; saved: {list(saved) or 'none'}"
                )
            path = saved[step if step is not None else max(saved)]
        classes = self.config.get("classes")
        model = self.settings.build(classes=len(classes) if classes else None)
        load(model, read_safetensors(path), str(path))
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
        """{name: content} of evals/*.json, each with `results` as `evaluation` checks them; what is damaged is said and left out."""
        found = {}
        for path in sorted((self.path / "evals").glob("*.json")):
            try:
                found[path.stem] = evaluation(files.load(path), path)
            except (OSError, Refused) as error:
                say(f"left out: {error}")
        return found

    def __repr__(self):
        rows = self.metrics()
        state = "finished" if self.finished else f"at step {rows[-1]['step'] if rows else 0}"
        return f"Run({str(self.path)!r}, {state})"


def is_run(path):
    """Whether a folder holds a config.json, whatever is in it."""
    try:
        return (Path(path) / "config.json").is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def runs_called(name, out="runs"):
    """The run folders that a name may mean: a path, one under MIMLAB_ROOT, one in `out`; each once."""
    found = {}
    for path in (Path(name), place(name), place(out) / name):
        if is_run(path):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def finished(out):
    """The finished runs in a folder, the newest last; those with a damaged config.json are left out."""
    found = []
    for path in place(out).glob("*/encoder.safetensors"):
        run = Run(path.parent)
        with contextlib.suppress(OSError, Refused):
            if run.finished and run.config:
                found.append((path.stat().st_mtime, str(path), run))
    return [run for _, _, run in sorted(found, key=lambda one: one[:2])]


def opened(folders):
    """Runs of several folders; one that is damaged is said and left out."""
    found = []
    for folder in folders:
        try:
            found.append(Run.open(folder))
        except Refused as error:
            say(f"left out: {error}")
    return found


def checked(content, path):
    """What a config.json holds, complete and of the right types, or `files.Damaged`."""
    number = content.get("format", 1)
    if type(number) is not int or number < 1:
        raise files.Damaged(f"{path} is damaged (format = {shown(number)})")
    if number > FORMAT:
        raise Refused(
            f"{path} has format {number}, of a newer mimlab; this one reads up to {FORMAT}. Use the newer one for it"
        )
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise files.Damaged(f"{path} is damaged (it has no settings)")
    found = {"format": number}
    for name, (kind, missing) in KEPT.items():
        value = content.get(name, missing)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise files.Damaged(f"{path} is damaged ({name} = {shown(value)})")
        found[name] = value
    if any(not isinstance(one, str) for one in found["classes"] or ()):
        raise files.Damaged(f"{path} is damaged (classes = {shown(found['classes'])})")
    return content | found | {"settings": completed(settings, path)}


def completed(settings, path):
    """Settings of a config.json with each value as its field's type and every field there; others stay as they are."""
    kind = Detect if "task" in settings else Pretrain
    default = kind.defaults()
    known = {name: value for name, value in settings.items() if name in default}
    try:
        with trusted.quiet():
            told = kind.read(known).dict()
    except Refused as error:
        raise files.Damaged(f"{path} is damaged ({error})") from None
    return told | {name: value for name, value in settings.items() if name not in known or value == ""}


def differing(cfg, before):
    """Names of settings of `cfg` that change the result and have another value in `before`, a config.json's.

    Where the images lie changes nothing (`data.location`); whether they are the same ones is another question.
    """
    now = cfg.dict()
    names = [name for name in now if name not in cfg.FREE and now[name] != before.get(name)]
    if "data_args" in names and isinstance(before.get("data_args"), dict) and before.get("data") == now["data"]:
        module = find("detection.data" if isinstance(cfg, Detect) else "data", now["data"])
        where = getattr(module, "location", lambda given: ())
        one, other = (
            {key: value for key, value in args.items() if key not in where(args)}
            for args in (now["data_args"], before["data_args"])
        )
        names = [name for name in names if name != "data_args" or one != other]
    return names


def moved(cfg, earlier):
    """Whether the runs in the folder `earlier` have the settings of `cfg`, a resolved `Pretrain`, and its images, elsewhere."""
    from mimlab import data

    try:
        about = Run(earlier).config
        if differing(cfg, about["settings"]) or about["settings"]["data"] != cfg.data:
            return False
        found = data.open(cfg.data, "train", size=cfg.cache_size, fraction=cfg.fraction, seed=cfg.seed, **cfg.data_args)
    except (Refused, KeyError):  # a damaged one, or no images there
        return False
    return found.fingerprint == about["data_fingerprint"]


def logged(raw):
    """Rows of the lines of a metrics.jsonl (bytes): {name: number}, each with a step; anything else is left out."""
    rows = []
    for line in raw.splitlines():
        try:
            row = files.loads(line.decode()) if len(line) < files.LINE else None
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**63:
            rows.append({name: value for name, value in row.items() if files.number(value)})
    return rows


def evaluation(content, path):
    """The content of an evals/*.json in which every part that is compared or drawn has its type, or `files.Damaged`."""

    number = files.number

    def numbers(value):
        return isinstance(value, list) and all(map(number, value))

    tests = {
        "values": numbers,
        "interval": lambda value: numbers(value) and len(value) == 2,
        "chance": number,
        "metric": lambda value: isinstance(value, str),
        "protocol": lambda value: isinstance(value, str),
    }
    results = content.get("results", {})
    if not isinstance(results, dict) or not isinstance(content.get("config", {}), dict):
        raise files.Damaged(f"{path} is damaged (results = {shown(results)})")
    for start, result in results.items():
        if not isinstance(result, dict):
            raise files.Damaged(f"{path} is damaged ({shown(start)} = {shown(result)})")
        for name, test in tests.items():
            if result.get(name) is not None and not test(result[name]):
                raise files.Damaged(f"{path} is damaged ({shown(start)}: {name} = {shown(result[name])})")
        main = result.get(result.get("metric", "top1"))
        if main is not None and not number(main):
            raise files.Damaged(f"{path} is damaged ({shown(start)} = {shown(main)})")
    return content | {"results": results}


def not_finite(*states):
    """How many numbers of state dicts, nested as they are, are not finite: a tensor, so that nothing waits for it here."""
    import torch

    todo, count = list(states), 0
    while todo:
        one = todo.pop()
        if torch.is_tensor(one):
            if one.is_floating_point() or one.is_complex():
                count = count + (~torch.isfinite(one.detach())).sum().to(torch.float32)
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, (list, tuple)):
            todo += one
    return count if torch.is_tensor(count) else torch.zeros(())


def _numbered(folder, suffix):
    """Entries of a folder whose names are a step, oldest first."""
    found = [p for p in folder.glob("*") if re.fullmatch(f"[0-9]{{1,15}}{re.escape(suffix)}", p.name)]
    return sorted(found, key=lambda path: int(path.name.removesuffix(suffix)))


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
