"""How long a job will take, from what was measured of others like it; None where nothing like it has run."""

import statistics

from mimlab import files, strict
from mimlab.config import Pretrain
from mimlab.errors import Refused
from mimlab.run import Run
from mimlab.settings import place
from mimlab.study.state import RESULT, last, task_state

ALIKE = ("method", "encoder", "encoder_args", "image_size", "patch_size", "precision", "processes")  # the same images/s


class Measured:
    """What the finished runs in `out` tell: images/s and images of a data set, and seconds of evaluations and notebooks."""

    def __init__(self, out):
        self.speeds, self.images, self.seconds = {}, {}, {}
        for path in place(out).glob("*/config.json"):
            try:
                about = Run(path.parent).config
            except Refused:
                continue
            settings, images = about["settings"], about["images"]
            if not images or not settings.get("fraction"):
                continue
            self.images[_data(settings)] = images / settings["fraction"]
            speed = (last(path.parent / "metrics.jsonl") or {}).get("images_per_s")
            if type(speed) in (int, float) and speed > 0:
                self.speeds.setdefault(_key(settings, ALIKE), []).append(speed)
            for result in path.parent.glob("evals/*.json"):
                self._time(result, (result.stem, _key(settings, ALIKE[1:5])))
        for result in place(out).glob(f"*/{RESULT}"):
            self._time(result, result.parent.name.rpartition("-")[0])

    def _time(self, result, key):
        try:
            seconds = files.load(result).get("seconds")
        except (OSError, Refused):
            return
        if type(seconds) in (int, float):
            self.seconds.setdefault(key, []).append(seconds)

    def task(self, job, task):
        """Seconds that one task takes from its beginning."""
        if task.kind == "evaluate":
            return _median(self.seconds.get((task.name, _key(job.settings, ALIKE[1:5]))))
        if task.kind == "notebook":
            return _median(self.seconds.get(job.name.rpartition("-")[0]))
        speed, cfg = _median(self.speeds.get(_key(job.settings, ALIKE))), Pretrain.read(job.settings)
        if speed is None:
            return None
        images = self.images.get(_data(job.settings))
        try:
            steps = int(cfg.updates) if cfg.updates.isdigit() else cfg.steps(int(images * cfg.fraction))[0]
        except (TypeError, Refused):  # a data set of unknown size
            return None
        row = last(task.path / "metrics.jsonl") or {}
        return max(0, steps - row.get("step", 0)) * cfg.batch_size / speed

    def job(self, job):
        """(seconds of what is left of it, as far as known; how many of its tasks nothing is known of)."""
        left = [self.task(job, task) for task in job.tasks if task_state(task) != "done"]
        return sum(one for one in left if one is not None), left.count(None)


def _key(settings, names):
    return strict.dumps([settings.get(name) for name in names], sort_keys=True)


def _data(settings):
    return _key(settings, ("data", "data_args"))


def _median(values):
    return statistics.median(values) if values else None
