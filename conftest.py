"""Names that the doctests of the package use without importing them."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    doctest_namespace["np"] = np
    doctest_namespace["numerics"] = numerics
    for module in (types, trimtab):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        # pytest binds the package `trimtab.diagnose` over the function when it collects its files
        public = {name: getattr(module, name) for name in names}
        doctest_namespace.update({n: v for n, v in public.items() if n != "diagnose"})
