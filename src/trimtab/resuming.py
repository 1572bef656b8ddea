"""What a guard's later decisions depend on: taken out for a checkpoint or a snapshot, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trimtab.decide import pack, unpack

if TYPE_CHECKING:
    from trimtab.guard import Guard

_VERSION = 1


def guard_state(guard: Guard) -> dict[str, Any]:
    """All of it, in plain containers."""
    return {
        "version": _VERSION,
        "step": guard._step,
        "policies": guard._policies(),
        "remedy": pack(guard._states.remedy),
        **progress(guard),
    }


def load_guard_state_(guard: Guard, state: Mapping[str, Any]) -> None:
    """Put back what `guard_state` took out.

    Raises:
        RuntimeError: The run log of this guard is open already.
        ValueError: The state is of another version, or of other policies than this guard's.
    """
    if guard._recording is not None and guard._recording.is_open:
        raise RuntimeError("load_state_dict came after the first recorded step. Load the state before it.")
    if state.get("version") != _VERSION:
        raise ValueError(
            f"guard state of version {state.get('version')!r}: this release reads version {_VERSION}"
        )
    if state["policies"] != guard._policies():
        raise ValueError(
            f"the state was saved by a guard with {state['policies']}, this one has {guard._policies()}. "
            "Build the guard with the saved policies, or do not load the state, to start afresh."
        )
    remedy = unpack(state["remedy"], guard._states.remedy)
    take_over_(guard, state)
    guard._states = guard._states._replace(remedy=remedy)
    guard._step = int(state["step"])


def progress(guard: Guard) -> dict[str, Any]:
    """What a rewind takes back of the guard itself: all but the remedy's budget."""
    return {
        "num_faulty": guard._num_faulty,
        "run_id": guard._run_id,
        "learned_by": [repr(guard.clip), repr(guard.detectors), type(guard._scaling).__name__],
        "clip": pack(guard._states.clip),
        "detect": [pack(state) for state in guard._states.detect],
        "cooling": guard._states.cooling,
        "scaler": None if guard._scaling is None else guard._scaling.state_dict(),
    }


def take_over_(guard: Guard, saved: Mapping[str, Any]) -> None:
    """Go on with the run of another guard, in its log too."""
    restore_progress_(guard, saved)  # refuses what does not fit, before anything is changed
    guard._num_faulty, guard._run_id = int(saved["num_faulty"]), str(saved["run_id"])


def restore_progress_(guard: Guard, saved: Mapping[str, Any]) -> None:
    """Put back what `progress` took out."""
    own = zip(saved["detect"], guard._states.detect, strict=True)
    guard._states = guard._states._replace(
        clip=unpack(saved["clip"], guard._states.clip),
        detect=tuple(unpack(state, like) for state, like in own),
        cooling=int(saved["cooling"]),
    )
    if guard._scaling is not None and saved["scaler"] is not None:
        guard._scaling.load_state_dict(saved["scaler"])
