"""A failed step run again from its fault folder, on another day or machine."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from trimtab import evidence
from trimtab.act import rng
from trimtab.errors import EvidenceError, told
from trimtab.evidence import Evidence
from trimtab.trace import trace
from trimtab.tracing import first_of
from trimtab.types import Origin

# Builds the model as it was for the run; may return a function (model, batch) -> loss with it
Factory: TypeAlias = Callable[[], Any]
_Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]


def retrace(path: str | os.PathLike[str], factory: Factory) -> Origin | None:
    """Run the step of a fault folder again under the tracer.

    Args:
        path: The folder, `runs/exp1/faults/step-000812`.
        factory: Returns the model, or the model and a function `loss_fn(model, batch)`. The function is
            called if the folder holds the batch, that is if `guard.step` was given one. The state of the
            model is then brought to what it was before the step.

    Returns:
        The origin, or None if everything is finite this time.

    Raises:
        EvidenceError: The folder cannot be read, lacks what is needed, or is of another model.
        TypeError: The factory returned something else.

    Example:
        >>> import tempfile
        >>> model = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     guard = Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), record=folder)
        ...     loss = model(torch.tensor([[1.0, float("inf")]])).sum()
        ...     loss.backward()
        ...     outcome = guard.step(loss)
        ...     guard.close()
        ...     retrace(outcome.evidence, lambda: torch.nn.Linear(2, 1)).cause.value
        'bad_input'
    """
    found = evidence.read(path)
    with rng.kept():
        model, loss_fn = _made(factory())
        evidence.load_model_(model, found)
        if loss_fn is not None and found.batch is not None:
            if found.calls:
                rng.restore_(found.calls[0].rng)
            return trace(model, _closure(model, loss_fn, found.batch))
        if not found.calls:
            raise EvidenceError(_nothing_to_run(found), path=found.path)
        return first_of([(c, c.replayed(model, is_lost=found.is_lost)) for c in found.calls])


def load_factory(name: str) -> Factory:
    """The function that `pkg.module:factory` names, looked for in the current folder too.

    Returns:
        The function; what it raises is told as a `ValueError` with the line of it.

    Raises:
        ValueError: The name is not of this form, there is no such thing to call, it needs arguments, or its
            module cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{name!r}: expected MODULE:FUNCTION, such as mypackage.models:build.")
    with _importing_from_here():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            is_itself = f"{module_name}.".startswith(f"{error.name}.")
            why = "" if is_itself else f", which its module imports: {told(error)}"
            raise ValueError(
                f"{name!r}: no module {error.name!r} here or among the installed ones{why}."
            ) from error
        except Exception as error:
            raise ValueError(f"{name!r}: its module cannot be imported: {told(error)}.") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ValueError(f"{name!r}: {module_name} has no function {attribute!r}.")
    needed = _needed_by(factory)
    if needed:
        raise ValueError(
            f"{name!r} is called without arguments, and needs {', '.join(needed)}: give them defaults, or "
            "name a function that calls it."
        )

    def called() -> Any:
        with _importing_from_here():
            try:
                return factory()
            except Exception as error:
                raise ValueError(f"{name!r} raised {told(error)}.") from error

    return called


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Look for modules in the current folder first, as python does and an installed command does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:  # the user's code may have changed it
            sys.path.remove(here)


def _needed_by(factory: Callable[..., Any]) -> list[str]:
    """Names of arguments without a default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # as of some functions that are not written in Python
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _made(made: Any) -> tuple[nn.Module, _Loss | None]:
    model, loss_fn = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not (loss_fn is None or callable(loss_fn)):
        raise TypeError(
            f"the factory returned {type(made).__name__}: expected a torch.nn.Module, or a module and a "
            "function loss_fn(model, batch)."
        )
    return model, loss_fn


def _closure(model: nn.Module, loss_fn: _Loss, batch: Any) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return closure


def _nothing_to_run(found: Evidence) -> str:
    why = found.left_out.get("batch", "the model was not called with autograd in that step")
    return f"{found.path} holds no batch to run the model on: {why}."
