"""Which failed check explains which: several checks that fail for one reason are one problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trimtab.prepare.checks import Check, CheckVerdict

# From the data to the loop: what stands above is looked at first, and explains what stands below
_EXPLAINS: dict[str, tuple[str, ...]] = {
    "finite data": (
        *("initial loss", "forward gain", "backward gain", "conditioning", "parameters used"),
        *("one-batch overfit", "learning rate"),
    ),
    "input scale": ("initial loss", "forward gain", "backward gain", "one-batch overfit", "learning rate"),
    "targets": ("initial loss", "one-batch overfit"),
    "shapes of the loss": ("initial loss", "one-batch overfit", "shuffled-label control"),
    "loss and activation": ("initial loss", "backward gain", "one-batch overfit", "learning rate"),
    "stable forms": ("initial loss", "one-batch overfit"),
    "forward gain": (
        *("initial loss", "backward gain", "one-batch overfit", "zeroed-input control", "learning rate"),
    ),
    "backward gain": ("one-batch overfit", "learning rate"),
    "symmetry": ("one-batch overfit",),
    "parameters used": ("one-batch overfit", "zeroed-input control", "shuffled-label control"),
    "zeroed-input control": ("one-batch overfit",),
    "reduction": ("learning rate",),
    "optimizer wiring": ("learning rate",),
}


def with_roots(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The same checks; those whose failure another failed check explains say which one.

    Args:
        checks: One for each point.

    Example:
        >>> from trimtab.prepare.checks import problem
        >>> one = problem("input scale", "it is 1e6", advice="Divide.")
        >>> two = problem("initial loss", "it is 1e5", advice="Initialize smaller.")
        >>> [check.explained_by for check in with_roots([one, two])]
        ['', 'input scale']
    """
    failed = {check.name for check in checks if check.verdict is CheckVerdict.PROBLEM}
    roots: dict[str, str] = {}
    for root, explained in _EXPLAINS.items():
        if root in failed:
            for name in explained:
                roots.setdefault(name, roots.get(root, root))
    return tuple(
        replace(check, explained_by=roots[check.name]) if check.name in failed & roots.keys() else check
        for check in checks
    )
