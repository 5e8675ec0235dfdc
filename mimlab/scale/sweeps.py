"""What notebook 12 shows: each method measures one growth when asked, and returns what `figures.scale` takes."""

import tempfile
from functools import cache, cached_property

import torch

from mimlab.bench.ready import CLASSES
from mimlab.config import Pretrain
from mimlab.errors import Refused, shown
from mimlab.layers import weightless
from mimlab.scale import cluster, growth
from mimlab.scale.step import cost, flops

VIT_B = {"encoder": "vit_base", "encoder_args": {}, "image_size": 224, "patch_size": 16, "vocab": 8192}
STEPS = 6  # of a run with several processes; the first is left out


class Sweeps:
    """A `mimlab.Scale` at work. Rows are dicts with "method" and what varies."""

    def __init__(self, cfg):
        self.cfg = cfg.resolved()
        self.cost = cache(lambda name, *changes: cost(self.cfg.run(name, **dict(changes)), self.cfg.rounds))

    def _rows(self, name, values, field, methods=None):
        return [
            {"method": method, name: value, **self.cost(method, (field, value))}
            for method in methods or self.cfg.chosen()
            for value in values
        ]

    def tokens(self):
        """Per image, against the number of patches."""
        rows = self._rows("size", self.cfg.numbers("sizes"), "image_size")
        for row in rows:
            row["tokens"] = (row.pop("size") // self.cfg.patch_size) ** 2
        return self._per_image(rows) | {"x": "tokens", "title": "tokens"}

    def ratios(self):
        """Per image, against the share of patches that are seen."""
        masked = [name for name in self.cfg.chosen() if self.cfg.masked(name)]
        if not masked:
            raise Refused(
                f"methods = {shown(self.cfg.methods)}: none of them hides patches, so there is no ratio to vary"
            )
        rows = self._rows("mask ratio", self.cfg.numbers("ratios", exact=False), "mask_ratio", masked)
        return self._per_image(rows) | {"x": "mask ratio", "title": "mask ratio", "logarithmic": False}

    def batches(self):
        """Of a whole step, against the batch."""
        rows = self._rows("batch", self.cfg.numbers("batches"), "batch_size")
        return {
            "rows": rows,
            "x": "batch",
            "units": {"ms": "ms a step", "mb": "MB kept for backward"},
            "title": "batch",
        }

    def _per_image(self, rows):
        batch = self.cfg.batch_size
        rows = [row | {"ms": row["ms"] / batch, "mb": row["mb"] / batch} for row in rows]
        return {"rows": rows, "units": {"ms": "ms an image", "mb": "MB an image, kept for backward"}}

    @cached_property
    def counted(self):
        return [{"images": count, **growth.costs(count)} for count in self.cfg.numbers("images")]

    def images(self):
        """A data set's parts against its number of images, in processor time."""
        parts = [name for name in self.counted[0] if name != "images"]
        rows = [
            {"method": name, "images": row["images"], "ms": 1e3 * row[name]} for name in parts for row in self.counted
        ]
        return {"rows": rows, "x": "images", "units": {"ms": "ms"}, "title": "images in the data set"}

    def processes(self):
        """Images a second of the first method against the number of processes, each with one thread."""
        counts = self.cfg.numbers("processes")
        if len(counts) < 2:
            raise Refused(f"processes = {shown(self.cfg.processes)}: two or more numbers show how it grows")
        method, rows = self.cfg.chosen()[0], []
        for count in counts:
            rows.append({"method": method, "processes": count, "images/s": self._speed(method, count)})
        return {"rows": rows, "x": "processes", "units": {"images/s": "images/s"}, "title": "processes", "ideal": True}

    def _speed(self, method, count):
        """The median line of a short run on fashion_mnist."""
        from mimlab.train import pretrain

        batch = self.cfg.batch_size * max(self.cfg.numbers("processes"))
        threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as out:
            small = {"data": "fashion_mnist", "fraction": max(0.02, 2 * batch / 12_000), "knn_every": 0, "film": 0}
            small |= {"updates": str(STEPS), "checkpoint_every": 0, "log_every": 1, "out": out, "run": "r"}
            cfg = self.cfg.run(method, **small, batch_size=batch, processes=count)
            torch.set_num_threads(1)  # as the children have it where there are as many as cores
            try:
                rows = [row["images_per_s"] for row in pretrain(cfg).metrics() if "images_per_s" in row][1:]
            finally:
                torch.set_num_threads(threads)
        return sorted(rows)[len(rows) // 2]

    @cached_property
    def machine(self):
        cfg = self.cfg
        return cluster.Machine(cfg.tflops, cfg.node, cfg.inside, cfg.between, cfg.gradient_bytes)

    @cached_property
    def paper(self):
        """A ViT-B/16 at 224 pixels on many GPUs, on paper: FLOPs counted here, all rates assumed. Rows."""
        rows = []
        for name in self.cfg.chosen():
            own = {"method": name, "batch_size": 1, "device": "cpu"} | VIT_B
            if name == "beit":
                own["encoder"] = "beit_base"
            cfg = Pretrain.read(own).resolved()
            with weightless():
                method = cfg.build(classes=CLASSES)
            work, numbers = flops(cfg), sum(p.numel() for p in method.parameters() if p.requires_grad)
            extra, returned = cluster.shared(cfg, method, self.cfg.gpu_batch)
            for n in self.cfg.numbers("gpus"):
                step = cluster.step(work, numbers, self.cfg.gpu_batch, n, self.machine, extra, returned)
                rows.append({"method": name, "GFLOP an image": work / 1e9, "M parameters": numbers / 1e6} | step)
        return rows

    def efficiency(self):
        units = {"efficiency": "share of the ideal speed"}
        return {"rows": self.paper, "x": "gpus", "units": units, "title": "GPUs, on paper"}
