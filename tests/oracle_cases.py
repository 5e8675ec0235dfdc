"""Reads a folder of oracle cases: numbers from the official implementations, one case a name.

The folder is $MIMLAB_ORACLE_DIR, or `oracle` beside this file. A case NAME is NAME.json (configuration, scalars,
tolerances) with NAME.npz (arrays) and often NAME.safetensors (a state dict with official names).
"""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.torch import load_file


def folder():
    """Where the cases are."""
    return Path(os.environ.get("MIMLAB_ORACLE_DIR") or Path(__file__).parent / "oracle")


def cases(prefix):
    """Names of all cases that start with `prefix`, sorted; an oracle without any case is a failure, not a skip."""
    names = sorted(path.stem for path in folder().glob(f"{prefix}*.json"))
    if not names:
        raise FileNotFoundError(f"no oracle case {prefix}*.json in {folder()}; set MIMLAB_ORACLE_DIR to the folder")
    return names


def load(name):
    """State dict (or None), arrays (empty if there are none) and configuration of a case."""
    path = folder() / name
    weights, arrays = path.with_name(f"{name}.safetensors"), path.with_name(f"{name}.npz")
    state = load_file(weights) if weights.exists() else None
    stored = {}
    if arrays.exists():
        with np.load(arrays, allow_pickle=False) as opened:
            stored = {key: opened[key] for key in opened.files}
    return state, stored, json.loads(path.with_name(f"{name}.json").read_text())


def assert_close(got, want, rtol, atol, what=""):
    """|got - want| <= atol + rtol * |want| everywhere; says the worst error in units of that tolerance."""
    got, want = (_array(x) for x in (got, want))
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    error, allowed = np.abs(got - want), atol + rtol * np.abs(want)
    units = np.where(error == 0, 0.0, error / np.maximum(allowed, np.finfo(np.float64).tiny))
    worst = float(units.max()) if units.size else 0.0
    message = f"{what}: worst error {worst:.3g} of the tolerance (rtol {rtol:g}, atol {atol:g})"
    print(message)
    assert worst <= 1, message  # also false for nan


def _array(x):
    """Any tensor, array or number as float64."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
