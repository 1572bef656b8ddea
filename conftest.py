"""Names that the doctests of the package use without importing them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # two busy cores make two threads slower than one


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    import trimtab
    from trimtab import numerics, types

    doctest_namespace["torch"] = torch
    doctest_namespace["numerics"] = numerics
    for module in (types, trimtab):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        doctest_namespace.update({name: getattr(module, name) for name in names})
