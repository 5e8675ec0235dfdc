"""What notebook 10 shows of a transfer, to detection or to segmentation."""

import importlib

from mimlab import verdicts
from mimlab.detection import data, training
from mimlab.errors import Refused
from mimlab.figures import curves, tables
from mimlab.figures import detection as figures
from mimlab.run import Run
from mimlab.settings import place


def gallery(cfg, count=8):
    """The first training pictures with their objects."""
    train = data.open(cfg.data, "train", cfg.data_args)
    return figures.objects([train.item(k) for k in range(min(count, len(train)))], None, train.classes)


def losses(cfg):
    """The loss and its parts against the step."""
    rows = Run.at(cfg.folder()).metrics()
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss_")))
    return curves.grid({cfg.folder().name: rows}, ["loss", *(names if len(names) > 1 else [])], columns=3)


def compared(cfg):
    """{title: result} of this transfer and of all in `out` with the same data and schedule, which may start elsewhere."""
    cfg = cfg.resolved()
    free = (*cfg.FREE, *cfg.STARTS)
    wanted = {name: value for name, value in cfg.dict().items() if name not in free}
    own = training.result(cfg.folder(), cfg.task)
    if own is None:
        raise Refused(f"{cfg.folder()} has no result yet; train first")
    found = {_title(own): own}
    for path in sorted(place(cfg.out).glob(f"*/evals/{cfg.task}.json")):
        other = training.result(path.parent.parent, cfg.task)
        about = other.get("config") if other else None
        if not isinstance(about, dict) or path.parent.parent == cfg.folder():
            continue
        if {n: v for n, v in about.items() if n not in free} == wanted:
            title = _title(other)
            found[title if title not in found else f"{title} ({path.parent.parent.name})"] = other
    return found


def _title(result):
    return f"{result['init']}, seed {result['seed']}"


def numbers(cfg):
    """The numbers of this transfer beside those that are comparable."""
    found = compared(cfg)
    if cfg.task == "detect":
        return figures.precision_table(found)
    return tables.table([{"": title} | result["numbers"] for title, result in found.items()])


def answers(cfg):
    """For each pair of starts of `compared` whether the difference is more than noise; seeds of a start are together."""
    by, rows = {}, []
    for one in compared(cfg).values():
        by.setdefault(one["init"], []).append(one)
    for metric in next(iter(by.values()))[0]["intervals"]:
        told = {
            init: [{"values": [one["numbers"][metric]], "interval": one["intervals"][metric]} for one in some]
            for init, some in by.items()
        }
        rows += verdicts.between(metric.replace("_", " ").replace("ap", "AP").replace("miou", "mIoU"), told)
    return tables.table(rows or [{"verdict": "there is no other transfer with the same data and schedule in `out`"}])


def details(cfg):
    """Detection: precision against recall of the masks. Segmentation: intersection over union of each class."""
    if cfg.task == "detect":
        return figures.precision_recall(compared(cfg))
    return figures.class_bars(training.result(cfg.folder(), cfg.task))


def predictions(cfg, count=6, least=0.5):
    """The first test pictures: what is there, and what the trained model finds with scores from `least`."""
    model, test = training.opened(cfg)
    pictures = [test.item(k) for k in range(min(count, len(test)))]
    found = importlib.import_module(training.TASKS[cfg.task]).predict(model, [picture.image for picture in pictures])
    if cfg.task == "detect":
        return figures.objects(pictures, found, test.classes, least)
    return figures.segments(pictures, found, test.classes)
