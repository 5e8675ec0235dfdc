"""Run folders for tests, without training."""


def finish(path):
    """Make a run folder a finished one: whole files of weights that hold no tensor."""
    for name in ("encoder", "method"):
        (path / f"{name}.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
