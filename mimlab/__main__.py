"""The `mimlab` command: thin. Heavy modules are imported by the sub-command that needs them."""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path

from mimlab import config, cores, strict
from mimlab.errors import Failed, Refused, one_line, shown
from mimlab.trusted import trust

WORKS = ("run", "demo", "pretrain", "evaluate", "detect", "study")  # commands that compute
DASHED = "\x1f"  # before a value that begins with a dash, so that argparse takes it for no flag


class Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line, and values that may begin with a dash, as in -p run -dash."""

    def error(self, message):
        said = f"{self.prog}: {message.replace(DASHED, '')}; {self.prog} --help tells what there is"
        self.exit(2, f"{one_line(said)}\n")

    def parse_known_args(self, args=None, namespace=None):
        rest, found = iter(sys.argv[1:] if args is None else args), []
        for one in rest:
            found.append(one)
            action = self._option_string_actions.get(one)
            wanted = 0 if action is None else 1 if action.nargs is None else action.nargs
            for value in itertools.islice(rest, wanted if isinstance(wanted, int) else 0):
                flag = value.partition("=")[0] in self._option_string_actions
                found.append(DASHED + value if value.startswith("-") and not flag else value)
        return super().parse_known_args(found, namespace)

    def _get_values(self, action, arg_strings):
        return super()._get_values(action, [text.removeprefix(DASHED) for text in arg_strings])


def parser():
    top = Parser(
        prog="mimlab", description="Masked image modelling: pre-train, look, evaluate; the same settings in notebooks."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="execute a notebook with parameters into its run folder")
    run.add_argument("notebook", help="such as notebooks/03_pretrain.ipynb")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument(
        "--static", action="store_true", help="every figure as a picture (for GitHub); needs mimlab[static]"
    )
    run.add_argument("-f", "--file", metavar="YAML", help="parameters as a file, a path or an address; -p goes over it")
    run.add_argument(
        "--output", help="where to put the executed notebook, a path or an address (default: the run folder)"
    )
    run.add_argument(
        "--upload", metavar="ADDRESS", help="copy the folder that it is in there when done, as s3://bucket/runs"
    )
    commands.add_parser("demo", help="the four notebooks on the embedded images, in minutes")
    for name, settings, help in (
        ("pretrain", config.Pretrain, "pre-train an encoder, without a notebook"),
        ("evaluate", config.Evaluate, "evaluate a run, beside the same encoder with fresh weights"),
        ("detect", config.Detect, "train an encoder to detect or segment objects, and evaluate it"),
    ):
        command = commands.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for field in dataclasses.fields(settings):
            default = getattr(settings(), field.name)
            command.add_argument(
                f"--{field.name}",
                default=argparse.SUPPRESS,
                metavar="",
                help=f"{field.metadata['help']} (default: {default})".replace("%", "%%"),
            )
        command.add_argument(
            "--settings", help=argparse.SUPPRESS, default=argparse.SUPPRESS
        )  # a json file, for child processes
    bench = commands.add_parser(
        "bench", help="speed, memory and FLOPs of methods, beside the same written plainly and beside what is installed"
    )
    bench.add_argument("methods", nargs="*", help="files in mimlab/methods, such as beit mae (default: all)")
    bench.add_argument("--at", default="32px", help="a configuration: 32px, ti224 or b224 (default: 32px)")
    bench.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a setting of pretrain put on the configuration, such as -p batch_size 16",
    )  # fmt: skip
    bench.add_argument(
        "--try", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="tried",
        help="one more case of mimlab's own, with this setting changed, or of another method, such as --try compile true",
    )  # fmt: skip
    bench.add_argument(
        "--against", nargs="*", metavar="WHO", help="of plain (timm), transformers and lightly, or none (default: all)"
    )
    bench.add_argument("--skip", nargs="*", default=[], metavar="WHAT", help="memory, loop (default: nothing)")
    bench.add_argument("--rounds", type=int, default=3, help="turns of each case after each start (default: 3)")
    bench.add_argument(
        "--starts", type=int, default=3, help="how often all begin anew, in other processes (default: 3)"
    )
    bench.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    bench.add_argument(
        "--clock",
        default="wall",
        help="wall, or cpu: own processor seconds, for one thread on a busy machine (default: wall)",
    )
    bench.add_argument(
        "--limit",
        type=float,
        default=0.15,
        help="share of a core that others may take in a turn that counts (default: 0.15)",
    )
    bench.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait for a quiet machine before each turn (default: 0)"
    )
    bench.add_argument(
        "--fused", action="store_true", help="AdamW in one kernel for the others too, whatever they train with"
    )
    bench.add_argument("--out", help="a JSON file to write (default: none)")
    away = commands.add_parser(
        "export", help="write a run's weights for other programs: MAE's or BEiT's files, or timm's"
    )
    away.add_argument("run", help="a run folder, its name in runs, or newest")
    away.add_argument("--format", required=True, help="mae, beit, or timm")
    away.add_argument("--out", required=True, help="the folder to make; nothing is overwritten")
    away.add_argument("--step", type=int, help="weights of a kept checkpoint (default: the run's end)")
    images = commands.add_parser(
        "data", help="what a data set is, before any run: splits, classes, what is left out, near-duplicates"
    )
    images.add_argument(
        "what", metavar="WHAT", help="a folder, a zip, an address, owner/name of a hub, or a source's name"
    )
    images.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="--size N --out FILE --OPTION VALUE",
        help="pixels of an image (64); a page or picture to write (.html, .png); the source's options, as in data_args",
    )  # fmt: skip
    page = commands.add_parser("report", help="one HTML page about runs, which opens without a network")
    page.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, its name in runs, newest, or a pattern")
    page.add_argument("--out", help="the file to write (default: report.html, of a single run in its folder)")
    grid = commands.add_parser("study", help="execute a grid of runs from a YAML file, or tell how far it is")
    grid.add_argument("what", nargs="+", metavar="[status] STUDY", help="such as notebooks/studies/data_size.yaml")
    grid.add_argument("--scale", help="one of the file's scales, such as cpu or paper (default: its first)")
    grid.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    grid.add_argument("--dry-run", action="store_true", help="print what would run, and how long it would take")
    grid.add_argument("--retry", action="store_true", help="do failed runs again")
    grid.add_argument("--jobs", type=int, default=1, help="runs at a time; the cores are shared (default: 1)")
    grid.add_argument("--executor", default="local", help="local, or slurm (needs mimlab[slurm])")
    grid.add_argument("--upload", metavar="ADDRESS", help="copy runs and results there at the end, as s3://bucket/size")
    grid.add_argument("--slurm", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="partition, ...")
    for name in ("run", "pretrain", "evaluate", "detect", "report", "export", "study", "bench"):
        commands.choices[name].add_argument(
            "--trust", action="append", default=argparse.SUPPRESS, metavar="MODULE",
            help="import this module of yours where only a run folder or a file from an address names it",
        )  # fmt: skip
    for name in ("run", "report", "bench"):
        commands.choices[name].add_argument(
            "--force", action="store_true", help="replace a file that mimlab did not write itself"
        )
    return top


def run(given):
    """`mimlab run`: where the executed notebook is."""
    from mimlab import remote
    from mimlab.notebook import execute, read_parameters

    if given["upload"]:
        if given["output"] and remote.away(given["output"]):
            raise Refused(
                f"--upload {given['upload']}: it sends the folder of the output, which is at {given['output']} already"
            )
        remote.check(given["upload"])
    parameters = (read_parameters(given["file"]) if given["file"] else {}) | dict(given["parameter"])
    done = execute(given["notebook"], parameters, output=given["output"], static=given["static"], force=given["force"])
    if given["upload"]:
        folder = Path(done).resolve().parent
        remote.send(folder, f"{given['upload'].rstrip('/')}/{folder.name}")
    return done


def study(given):
    """`mimlab study FILE` or `mimlab study status FILE`, or the results' folder; the exit code."""
    from mimlab.study import command

    *status, path = given.pop("what")
    if status not in ([], ["status"]):
        raise Refused(f"study: {shown(' '.join([*status, path]))} should be a file, or status and a file or its folder")
    if status:
        return command.status(path, scale=given["scale"], upload=given["upload"])
    return command.study(path, parameters=given.pop("parameter"), **given)


def read(settings, given):
    """Settings from flags, or from the json file of a parent process."""
    if "settings" in given:
        path = given.pop("settings")
        try:
            own = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refused(f"settings = {shown(path)} cannot be read ({error})") from None
        given = own | given if isinstance(own, dict) else own
    return settings.read(given)


def main(arguments=None):
    """0 when done, 2 for a refused setting (one line on stderr), 130 when interrupted."""
    given = vars(parser().parse_args(arguments))
    command = given.pop("command")
    if command in WORKS:
        cores.look()
    if command in WORKS:
        cores.look()
    try:
        trust(*given.pop("trust", ()))
        if command == "run":
            print(run(given))
        elif command == "demo":
            from mimlab.demo import demo

            print("\n".join(demo()))
        elif command == "pretrain":
            from mimlab.train import pretrain

            print(pretrain(read(config.Pretrain, given)).path)
        elif command == "bench":
            from mimlab.bench.command import bar, bench
            from mimlab.bench.table import text

            print(text(bench(**given, report=bar)))
        elif command == "export":
            from mimlab.export import export

            print(export(**given))
        elif command == "data":
            from mimlab.looking import dataset

            print(dataset.command(given["what"], given["options"]))
        elif command == "report":
            from mimlab.report import report

            print(report(**given))
        elif command == "study":
            return study(given)
        elif command == "detect":
            from mimlab.detection.training import train

            print(strict.dumps(train(read(config.Detect, given))["numbers"], indent=1))
        else:
            from mimlab.evals import evaluate

            print(strict.dumps(evaluate(read(config.Evaluate, given)), indent=1))
    except Refused as error:
        print(f"mimlab: {error}", file=sys.stderr)
        return 2
    except (Failed, FloatingPointError) as error:
        print(f"mimlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"mimlab: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
