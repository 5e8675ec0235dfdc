"""The same workers as SLURM jobs, through submitit: an array of jobs for a study.

A job that is preempted, or reaches its time limit, is asked to save (submitit's signal, 90 s ahead), put back into the
queue, and goes on from its checkpoint. Submitting a study twice does no harm: a worker whose job is done, or has
another worker, ends at once.
"""

import os
import subprocess
import time

from mimlab.errors import Failed, Refused, shown
from mimlab.find import closest
from mimlab.settings import coerce, whole, within
from mimlab.study.local import PATIENCE, command, environment
from mimlab.study.worker import ELSEWHERE

# what may be said -> submitit's name for it
OPTIONS = {
    "partition": "slurm_partition", "account": "slurm_account", "qos": "slurm_qos", "constraint": "slurm_constraint", "time": "timeout_min",
    "gpus_per_node": "gpus_per_node", "cpus_per_task": "cpus_per_task", "mem_gb": "mem_gb", "requeue": "requeue",
}  # fmt: skip
REQUEUE = 3  # times that a job may reach its time limit; preemptions are not counted


class Worker:
    """What submitit pickles: a job's worker, run as a child so that it can be asked to save."""

    def __init__(self, job, retry=False, threads=1):
        self.job, self.retry, self.threads, self.child = job, retry, threads, None

    def __call__(self):
        """Execute the job; an error is the worker's last lines, where `submitit` keeps it.

        submitit calls it on each node; the worker is on the first, and reaches the others by itself.
        """
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return 0
        self.job.path.mkdir(parents=True, exist_ok=True)
        log = self.job.path / "study.log"
        with open(log, "a") as out:
            self.child = subprocess.Popen(
                command(self.job, self.retry), stdout=out, stderr=subprocess.STDOUT, env=environment(self.threads)
            )
            while self.child.poll() is None:  # no blocking wait: `checkpoint` is called by a signal in the middle of it
                time.sleep(0.2)
            code = self.child.returncode
        if code not in (0, ELSEWHERE):
            raise Failed("\n".join([f"{self.job.name}: code {code}", *log.read_text().splitlines()[-20:]]))
        return code

    def checkpoint(self):
        """Called by submitit before the machine is taken away: the worker saves, and the same job is queued again."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return DelayedSubmission(Worker(self.job, self.retry, self.threads))


def check(given):
    """SLURM options as numbers and names, checked: {name: value}."""
    found = {}
    for name, value in given.items():
        if name == "nodes":
            raise Refused("slurm: nodes is a setting of the run, which may differ among them; use -p nodes, or base")
        if name not in OPTIONS:
            raise Refused(f"slurm: no option {shown(name)}{closest(name, OPTIONS)}; there are: {', '.join(OPTIONS)}")
        if name in ("time", "gpus_per_node", "cpus_per_task", "mem_gb", "requeue"):
            try:
                value = whole(value)
            except (ValueError, TypeError):
                minutes = " of minutes" * (name == "time")
                raise Refused(f"slurm: {name} = {shown(value)} is not a whole number{minutes}") from None
            within(f"slurm: {name}", value, 0, 10_000_000)
        else:
            value = coerce(f"slurm: {name}", value, str)
        found[name] = value
    return found


def executor(folder, given, at_once, cluster="slurm", nodes=1):
    """submitit's executor with the options of `check`; at most `at_once` jobs of an array run at a time.

    A job has `nodes` machines; its worker is on the first, and starts the processes of the others (`mimlab.launch`).
    """
    try:
        import submitit
    except ImportError:
        raise Refused("executor = slurm needs submitit; pip install mimlab[slurm]") from None
    given = {"cpus_per_task": 1, "time": 24 * 60, "requeue": REQUEUE} | check(given)
    requeue = given.pop("requeue")
    try:
        found = submitit.AutoExecutor(
            folder=folder / "slurm", cluster=cluster, **{f"{cluster}_max_num_timeout": requeue}
        )
    except RuntimeError as error:  # no sbatch on this machine
        raise Refused(f"executor = {cluster}: {error}") from None
    options = {OPTIONS[name]: value for name, value in given.items()}
    found.update_parameters(name="mimlab", tasks_per_node=1, nodes=nodes, **options)
    if cluster == "slurm":
        found.update_parameters(slurm_array_parallelism=at_once, slurm_additional_parameters={"requeue": True})
    return found


def submit(jobs, folder, given, at_once, retry=False, cluster="slurm"):
    """Hand the jobs to the cluster, one array for those with as many nodes; nothing waits for them.

    Returns submitit's jobs in the order of `jobs`.
    """
    threads, submitted = int(given.get("cpus_per_task", 1)), {}
    for nodes in sorted({job.settings.get("nodes", 1) for job in jobs}):
        found = executor(folder, given, at_once, cluster, nodes)
        with found.batch():
            alike = [job for job in jobs if job.settings.get("nodes", 1) == nodes]
            submitted |= {job.name: found.submit(Worker(job, retry, threads)) for job in alike}
    return [submitted[job.name] for job in jobs]
