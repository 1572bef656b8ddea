"""Fault operators of the ninth suite."""

from __future__ import annotations

from faults import Fault

FAULTS: tuple[Fault, ...] = ()
