"""What a run says about itself once, before its first step."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from trimtab._version import __version__


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on: package name to version."""
    return {
        "trimtab": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class RunHeader:
    """The facts of a run that do not change from step to step.

    Attributes:
        run_id: Identity of the run: a resumed run has the same, a new one another.
        created: When the run started, UTC, in ISO 8601.
        versions: Package name to version.
        policies: Role ("clip", "detect", "remedy", ...) to the `repr` of the policy.
        layer_names: Dotted names of the optimizer's parameters, in its order.
        layer_shapes: Their shapes.
        layer_dtypes: Their dtypes, as torch writes them ("torch.float32").
        first_step: Number of the first step of the run.
        statistics: Names of the numbers kept per layer. The first one is a norm: its -1 means that
            the layer had no gradient in the step.
        notes: Whatever else the user wants to be remembered.

    Example:
        >>> header = RunHeader.create(policies={"clip": "NormClip(max_norm=1.0)"}, layer_names=("weight",))
        >>> RunHeader.from_json(header.to_json()) == header
        True
    """

    run_id: str
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    layer_names: tuple[str, ...] = ()
    layer_shapes: tuple[tuple[int, ...], ...] = ()
    layer_dtypes: tuple[str, ...] = ()
    first_step: int = 0
    statistics: tuple[str, ...] = ("grad_norm",)
    notes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        *,
        run_id: str | None = None,
        policies: Mapping[str, str] | None = None,
        layer_names: Sequence[str] = (),
        layer_shapes: Sequence[Sequence[int]] = (),
        layer_dtypes: Sequence[str] = (),
        first_step: int = 0,
        statistics: Sequence[str] = ("grad_norm",),
        notes: Mapping[str, str] | None = None,
    ) -> RunHeader:
        """Make the header of a run that starts now: fills in identity, time and versions.

        Args:
            run_id: Identity to continue; None makes a new one.
            policies: Role to `repr` of the policy.
            layer_names: Dotted names of the parameters, in the optimizer's order.
            layer_shapes: Their shapes.
            layer_dtypes: Their dtypes.
            first_step: Number of the first step.
            statistics: Names of the numbers kept per layer.
            notes: Free-form remarks.
        """
        return cls(
            run_id=uuid.uuid4().hex if run_id is None else run_id,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
            policies=dict(policies or {}),
            layer_names=tuple(layer_names),
            layer_shapes=tuple(tuple(int(n) for n in shape) for shape in layer_shapes),
            layer_dtypes=tuple(layer_dtypes),
            first_step=int(first_step),
            statistics=tuple(statistics),
            notes=dict(notes or {}),
        )

    def to_json(self) -> str:
        """The header as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunHeader:
        """The header that `to_json` wrote. Fields that a later version added are passed over."""
        given: dict[str, Any] = json.loads(text)
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        for name in ("layer_names", "layer_dtypes", "statistics"):
            known[name] = tuple(known.get(name, ()))
        known["layer_shapes"] = tuple(tuple(shape) for shape in known.get("layer_shapes", ()))
        return cls(**known)
