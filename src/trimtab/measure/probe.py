"""One look at a whole training step: parameters, activations, the graph of the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from trimtab.measure.activation_probe import ActivationProbe
from trimtab.measure.dropout_calls import DropoutCalls
from trimtab.measure.loss_graph import LossFacts, loss_facts
from trimtab.measure.parameter_probe import ParameterProbe
from trimtab.measure.row_memory import RowMemory

Found = dict[str, tuple[tuple[str, ...], NDArray[np.floating]]]


class StepProbe:
    """Measures one step from before its forward pass to after its update.

    Args:
        model: The model.
        optimizer: The optimizer whose step it is.

    Cost:
        Between steps that are looked at, one hook that does nothing but when the model is evaluated; see
        `ActivationProbe`, `ParameterProbe`, `RowMemory` and `DropoutCalls`.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> probe = StepProbe(model, optimizer)
        >>> probe.open()
        >>> loss = model(torch.ones(4, 2)).mean()
        >>> loss.backward()
        >>> probe.before_update(loss)
        >>> optimizer.step()
        >>> found = probe.after_update()
        >>> names, values = found["in_optimizer"]
        >>> names, values.tolist()
        (('weight', 'bias'), [1.0, 1.0])
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._activations = ActivationProbe(model)
        self._parameters = ParameterProbe(model, optimizer)
        self._rows = RowMemory(model)
        self._dropouts = DropoutCalls(model)
        self._found: Found = {}

    def open(self) -> None:
        """Begin: the next forward and backward pass will be looked at."""
        self._activations.open()
        self._parameters.listen()
        self._rows.open()
        self._dropouts.open()

    def before_update(self, loss: object) -> None:
        """Look at the gradients, the activations and the graph of the loss.

        Args:
            loss: The loss with its graph; anything else says nothing.
        """
        facts = loss_facts(loss)
        self._found = self._activations.take(loss, facts) if self._activations.is_open else {}
        self._parameters.before()
        if facts is not None:
            self._found["loss"] = (LossFacts._fields, np.array(facts))
        self._activations.close()

    def after_update(self) -> Found:
        """Look at what the update did, and end.

        Returns:
            Signal name to the names of the layers and a number for each.
        """
        found = self._found | self._parameters.after() | self._rows.take() | self._dropouts.take()
        self._found = {}
        self._parameters.close()
        return found

    def rest(self) -> None:
        """The next step will not be looked at."""
        self._parameters.rest()

    def close(self) -> None:
        """Remove all hooks."""
        self._activations.close()
        self._parameters.close()
        self._rows.close()
        self._dropouts.close()
        self._found = {}
