"""What the environment may say about a run: nothing that its settings say.

Accelerate reads some forty variables, and several of them win over what its caller asks for: with
ACCELERATE_GRADIENT_ACCUMULATION_STEPS=8 a run of four steps trained nothing. Launchers leave others, from which it
takes how many processes there are. While a run trains, only what its own launcher said is there.
"""

import contextlib
import os

from mimlab.errors import Refused, shown

QUIET = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL", "ACCELERATE_ENABLE_RICH")  # change no number
PLUGINS = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "SAGEMAKER_")
# who a process is among many, as torchrun tells it, and as Accelerate would also take it from MPI
OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MPI = (
    *(f"{system}_{name}" for system in ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD") for name in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")),
    "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
)  # fmt: skip
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun's, and that of `accelerate launch`, which calls it


def child(world):
    """Whether this process is one of `world` that a launcher has started. Refuses what says otherwise than the settings.

    Raises `Refused`, naming the variable: a process that believes in others that are not there waits for them for ever.
    """
    told = {name: os.environ[name] for name in OURS[:3] if os.environ.get(name)}
    if (
        os.environ.get(LAUNCHED)
        and {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= set(told)
        and _number(told["WORLD_SIZE"]) == world
    ):
        return world > 1
    alone = {"RANK": (0,), "LOCAL_RANK": (0, -1), "WORLD_SIZE": (1,)}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if name in told and _number(told[name]) not in alone[name]:
            raise Refused(
                f"{name} = {shown(told[name])} stands in the environment, but processes x nodes = {world}: unset it; "
                "mimlab starts its processes by itself"
            )
    return False


def first():
    """Whether this process is the one that writes: alone, or the launcher's number 0. For after `child`."""
    return _number(os.environ.get("RANK", "0")) in (0, None)


@contextlib.contextmanager
def settings_alone(world, tell=None):
    """While this lasts, no variable decides what a setting says; `tell(line)` names those that were put aside.

    One of many processes keeps what its launcher has told it about the others.
    """
    given = [
        name for name in os.environ
        if (name.startswith(PLUGINS) and name not in QUIET) or name in MPI or (world == 1 and name in OURS)
    ]  # fmt: skip
    aside = {name: os.environ.pop(name) for name in given}
    decisive = sorted(name for name in aside if name.startswith(PLUGINS[:3]) or name in MPI)
    if decisive and tell is not None:
        names = ", ".join(decisive[:3]) + (f" and {len(decisive) - 3} more" if len(decisive) > 3 else "")
        tell(f"note: {names} of the environment {'is' if len(decisive) == 1 else 'are'} not used; the settings count")
    try:
        yield
    finally:
        os.environ.update(aside)


def without():
    """The environment without all of these, for processes that are yet to be started."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in QUIET or not (name.startswith(PLUGINS) or name in (*OURS, *MPI) or name.startswith("TORCHELASTIC_"))
    }


def _number(text):
    try:
        return int(text)
    except ValueError:
        return None
