"""The model of an optimizer, found among all modules that are alive."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

# Attributes by which data-parallel and compiling wrappers hold the only module they have
_WRAPPED = ({"module"}, {"_orig_mod"})


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def find_model(optimizer: Optimizer, strangers: set[Tensor]) -> nn.Module:
    """The module whose parameters an optimizer trains.

    It is the outermost one that holds them all, since a bad step also leaves traces in buffers of parts
    that are not trained. One that holds parameters of other optimizers too, such as both networks of a
    GAN, is passed over for a part of it, if there is one that holds them all. Wrappers such as DDP,
    DataParallel and what `torch.compile` returns are looked through, so that names are the user's.

    Args:
        optimizer: The optimizer.
        strangers: Parameters of other optimizers.

    Returns:
        The module; if there is no single one, or parameters are in none, a new module of all parts, which
        are named after their classes.

    Cost:
        One look at every object that Python's collector knows, some 50 ms.

    Example:
        >>> from trimtab.running.finding import find_model
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> find_model(torch.optim.SGD(model[1].parameters(), lr=0.1), set()) is model
        True
    """
    alive = _Alive()
    remaining = dict.fromkeys(parameters_of(optimizer))
    strangers = strangers - remaining.keys()
    parts: list[nn.Module | Tensor] = []
    while remaining:
        first = next(iter(remaining))
        part = _best(alive.holders(first), remaining.keys(), strangers)
        parts.append(first if part is None else part)
        covered = {first} if part is None else set(part.parameters())
        remaining = {p: None for p in remaining if p not in covered}
    if len(parts) == 1 and isinstance(parts[0], nn.Module):
        return parts[0]
    return Assembled(parts)


class Assembled(nn.Module):
    """Several modules, and parameters that are in none, which one optimizer trains together.

    Args:
        parts: They all. Never called itself: hooks on its forward pass are put on its modules.
    """

    def __init__(self, parts: Iterable[nn.Module | Tensor]) -> None:
        super().__init__()
        for part in parts:
            if isinstance(part, nn.Module):
                self._modules[self._free_name(type(part).__name__)] = part
            else:
                # a plain tensor may be trained too, which register_parameter would refuse
                name = self._free_name("parameter")
                self._parameters[name] = part  # type: ignore[assignment]

    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> Any:
        """Hook every part; returns one handle for all."""
        return _Handles([part.register_forward_pre_hook(hook, **options) for part in self.children()])

    def _free_name(self, name: str) -> str:
        taken = self._modules.keys() | self._parameters.keys()
        names = (name if number == 1 else f"{name}{number}" for number in range(1, len(taken) + 2))
        return next(free for free in names if free not in taken)


class _Handles:
    """Several hooks to be removed together."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class _Alive:
    """All modules that are alive, and which is part of which."""

    def __init__(self) -> None:
        # by type: isinstance() would ask proxies for the class of what they stand for
        modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
        self._owners: dict[int, list[nn.Module]] = {}
        self._wholes: dict[int, list[nn.Module]] = {}
        for module in modules:
            state = vars(module)  # one that is still being made has no parts yet
            for parameter in state.get("_parameters", {}).values():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), []).append(module)
            for part in state.get("_modules", {}).values():
                if part is not None:
                    self._wholes.setdefault(id(part), []).append(module)

    def holders(self, parameter: Tensor) -> Iterator[nn.Module]:
        """Every module that holds this parameter, innermost first."""
        todo, seen = list(self._owners.get(id(parameter), ())), set()
        while todo:
            module = todo.pop(0)
            if id(module) not in seen and not isinstance(module, Assembled):
                seen.add(id(module))
                todo += self._wholes.get(id(module), ())
                yield module


def _best(holders: Iterable[nn.Module], wanted: Iterable[Tensor], strangers: set[Tensor]) -> nn.Module | None:
    """Of these modules the one to guard."""
    wanted = set(wanted)
    best: nn.Module | None = None
    best_score: tuple[int, bool, int] = (0, False, 0)
    for module in holders:
        own = set(module.parameters())
        num_strangers = len(own & strangers)
        # holds most; has no strangers; without them the largest, with them the smallest
        size = -len(own) if num_strangers else len(own)
        score = (len(own & wanted), not num_strangers, size)
        # of two that hold the same the outer one, unless there are strangers
        if best is None or score > best_score or (score == best_score and not num_strangers):
            best, best_score = module, score
    return None if best is None else _unwrapped(best)


def _unwrapped(module: nn.Module) -> nn.Module:
    while module._modules.keys() in _WRAPPED and not module._parameters and not module._buffers:
        inner = next(iter(module._modules.values()))
        if inner is None:
            break
        module = inner
    return module
