"""Float32 copies of half parameters, for an optimizer whose steps half precision cannot hold."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

_HALVES = (torch.float16, torch.bfloat16)


class MasterWeights(nn.Module):
    """A half model whose optimizer works on float32 copies of its parameters.

    A step of `lr * gradient` below the resolution of the half type (2^-8 of the weight in bfloat16) changes
    a half weight by nothing, for ever. Its float32 master adds such steps up.

    The model computes with its half parameters. Each of their gradients is added to the float32
    `.grad` of its master as soon as it is complete, so that micro-batches accumulate in float32, and the
    half one is freed. Before a forward pass and before `state_dict()` of the model, half parameters that
    are behind take the value of their master; so refused steps, rewinds and loaded states need no
    further care. A step is seen by the gradients that led to it, a write by the version of the tensor:
    after one to the `.data` of a master call `publish_()`. What is loaded into the model goes to the
    masters at once, what is written to half parameters before the next forward pass.

    Give it, not the model, to optimizer and `Guard`: its parameters are the masters, under the names of
    the model's own. Parameters that are not half (norms that were kept in float32) are the model's own,
    and so are buffers. Tied parameters share one master. Freeze and unfreeze on the model.

    Args:
        model: The model, on its device and in its types. Call this object instead of it, or the model itself.

    Raises:
        ValueError: The model has no half parameter.
        TypeError: It is no module.
        RuntimeError: It has masters already.

    Cost:
        Memory of 4 bytes for each half parameter. In each step a pass over the gradients to add them, and in
        each forward pass after a backward one over the parameters to copy them; no host read. Under
        torch.compile the copying is a graph break. Not for models wrapped in DDP or FSDP, whose
        reduction comes after these gradients were taken away. Not run on a GPU yet.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False).bfloat16()
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> masters = MasterWeights(model)
        >>> optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     masters(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        ...     optimizer.step()
        >>> round(masters.state_dict()["weight"].item(), 4), model.weight.item()
        (0.996, 0.99609375)

    References:
        Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"MasterWeights({model!r}): expected a module with half parameters.")
        self.model = model
        self._pairs = {p: _Pair(n, p) for n, p in model.named_parameters() if p.dtype in _HALVES}
        if not self._pairs:
            raise ValueError(
                f"{type(model).__name__} has no float16 or bfloat16 parameter: its optimizer needs no "
                "masters. Convert the model first, or use it as it is."
            )
        if any(isinstance(hook, _Follow) for hook in model._forward_pre_hooks.values()):
            raise RuntimeError(
                f"this {type(model).__name__} has masters already. Use those, or close() them."
            )
        self._follow = _Follow(self._pairs)
        self._handles = [pair.hook() for pair in self._pairs.values()]
        self._handles.append(model.register_forward_pre_hook(self._follow, prepend=True))
        self._handles += _hook_states(model, self._follow)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.model(*args, **kwargs)

    def publish_(self) -> None:
        """Copy every master into its half parameter now."""
        for pair in self._pairs.values():
            pair.publish_()

    def close(self) -> None:
        """Publish, remove every hook and leave the model as a plain half model. Safe to call twice."""
        if self._handles:
            self._follow()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,  # noqa: FBT001, FBT002
        remove_duplicate: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[tuple[str, Parameter]]:
        """The masters, and parameters of the model that need none, under the model's names."""
        own = self.model.named_parameters(prefix, recurse, remove_duplicate)
        for name, parameter in own:
            yield name, self._master_of(parameter)

    def named_buffers(
        self,
        prefix: str = "",
        recurse: bool = True,  # noqa: FBT001, FBT002
        remove_duplicate: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers of the model, under its names."""
        return self.model.named_buffers(prefix, recurse, remove_duplicate)

    def state_dict(  # type: ignore[override]
        self, *, prefix: str = "", keep_vars: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """The state of the model with masters in place of half parameters, under the model's names."""
        state: dict[str, Any] = self.model.state_dict(prefix=prefix, keep_vars=keep_vars, **kwargs)
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if parameter in self._pairs and prefix + name in state:
                master = self._pairs[parameter].master
                state[prefix + name] = master if keep_vars else master.detach()
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Load masters and buffers, from a state of these masters or of the model itself.

        Raises:
            ValueError: `assign` was asked for, which would replace the parameters that have masters.
            RuntimeError: The state does not fit the model. Masters and half parameters are as before.
        """
        if assign:
            raise ValueError(
                "load_state_dict(assign=True): the parameters that have masters cannot be replaced."
            )
        self._follow()
        with self._follow.paused():
            try:
                keys = self.model.load_state_dict(state, strict)
            except RuntimeError:
                self.publish_()
                raise
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if parameter in self._pairs and name in state:
                self._pairs[parameter].load_(state[name])
        return keys

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "MasterWeights cannot be copied or pickled with its hooks. Copy masters.model, or save "
            "masters.state_dict()."
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoReturn:  # noqa: FBT001, FBT002
        raise RuntimeError(
            "MasterWeights cannot be moved or converted: an optimizer may hold its parameters. Move the "
            "model first, then wrap it."
        )

    def _master_of(self, parameter: Parameter) -> Parameter:
        pair = self._pairs.get(parameter)
        return parameter if pair is None else pair.master


class _Pair:
    """A half parameter and its master."""

    @torch.no_grad()
    def __init__(self, name: str, half: Parameter) -> None:
        self._name = name
        self.half = half
        self.master = Parameter(half.detach().float(), requires_grad=half.requires_grad)
        self._is_stepped = (
            False  # whether there was a gradient, that is perhaps a step, since they were equal
        )
        self._note()

    def hook(self) -> RemovableHandle:
        """Have gradients of the half parameter collected."""
        was_trained = self.half.requires_grad
        self.half.requires_grad = True  # torch wants it to register, and a frozen one may thaw
        handle: RemovableHandle = self.half.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            self._collect
        )
        self.half.requires_grad = was_trained
        return handle

    @property
    def is_written(self) -> bool:
        """Whether somebody wrote to the half parameter since both were equal."""
        return self.half._version != self._half_version

    def follow(self) -> None:
        """Make both equal again. Called in no_grad mode."""
        has_moved = self._is_stepped or self.master._version != self._master_version
        if self.is_written and has_moved:
            raise RuntimeError(
                f"{self._name} was written to in half precision while its master was ahead of it, and one of "
                "the two would be lost. Write to masters.parameters(), or call masters.publish_() before."
            )
        if self.is_written:
            is_same = self.half == self.master.to(self.half)  # there the master knows more
            self.master.copy_(torch.where(is_same, self.master, self.half.to(self.master)))
            self._note()
        elif self.master._version != self._master_version:
            self.publish_()
        elif self._is_stepped:
            # fused optimizers raise no version; and if there was no step, nothing changes here, so that
            # graphs of earlier forward passes must stay valid: this raises no version either
            self.half.data.copy_(self.master)
            self._is_stepped = False

    @torch.no_grad()
    def publish_(self) -> None:
        """The half parameter takes the value of the master."""
        self.half.copy_(self.master)
        self._note()

    @torch.no_grad()
    def load_(self, value: Tensor) -> None:
        """Both take this value."""
        self.master.copy_(value)
        self.publish_()

    @torch.no_grad()
    def _collect(self, half: Tensor) -> None:
        gradient, half.grad = half.grad, None
        if gradient is None:
            return
        if self.master.grad is None:
            self.master.grad = gradient.to(self.master.device, self.master.dtype)
        else:
            self.master.grad.add_(gradient.to(self.master.device))
        self._is_stepped = True

    def _note(self) -> None:
        self._half_version, self._master_version = self.half._version, self.master._version
        self._is_stepped = False


def _follow(pairs: Mapping[Parameter, _Pair]) -> None:
    with torch.no_grad():  # entered once: for each parameter it would cost more than the look
        for pair in pairs.values():
            pair.follow()


# torch.compiler.disable would load all of torch.compile, some seconds, with `import trimtab`: this one waits
_follow_untraced = torch._compile._disable_dynamo(_follow)


class _Follow:
    """A hook before the model computes. A copy of the model carries an idle one, without masters."""

    def __init__(self, pairs: Mapping[Parameter, _Pair]) -> None:
        self.pairs = pairs
        self.is_paused = False

    def __call__(self, *_: Any) -> None:
        if self.is_paused:
            return
        if "torch._dynamo" in sys.modules:
            _follow_untraced(self.pairs)
        else:
            _follow(self.pairs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No hook acts within."""
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (dict.get, {})  # f(module, args) -> args


class _BeforeSaving:
    """A hook before the model's state is taken."""

    def __init__(self, follow: _Follow) -> None:
        self._follow = follow

    def __call__(self, *_: Any) -> None:
        self._follow()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (functools.partial, id)  # takes anything, does nothing


class _AfterLoading:
    """A hook after a module of the model was loaded: that is newer than any step of the masters."""

    def __init__(self, follow: _Follow) -> None:
        self._follow = follow

    def __call__(self, module: nn.Module, keys: Any) -> None:
        for parameter in module._parameters.values() if not self._follow.is_paused else ():
            pair = None if parameter is None else self._follow.pairs.get(parameter)
            if pair is not None and pair.is_written:
                pair.load_(pair.half)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (operator.setitem, {})  # f(module, keys) -> None, as torch demands


def _hook_states(model: nn.Module, follow: _Follow) -> list[RemovableHandle]:
    """Hooks on saving and loading the model itself."""
    saving = model.register_state_dict_pre_hook(_BeforeSaving(follow))  # type: ignore[no-untyped-call]
    loading = [
        module.register_load_state_dict_post_hook(_AfterLoading(follow))  # type: ignore[no-untyped-call]
        for module in model.modules()
        if module._parameters
    ]
    return [saving, *loading]
