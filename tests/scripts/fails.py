"""Ends in an exception: its own, in backward, in an optimizer, by a message, or shown by its own hook."""

import sys


def inner(kind):
    if kind == "backward":
        import torch

        y = torch.ones(2, requires_grad=True).exp()
        y.mul_(2)
        y.sum().backward()
    if kind == "optimizer":
        import torch

        torch.optim.SGD([], lr=0.1)
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("wrong on purpose") from error


def outer(kind):
    if kind == "hook":
        sys.excepthook = lambda kind, error, traceback: print("own hook:", kind.__name__, traceback.tb_lineno)
    if kind == "message":
        sys.exit("a message")
    inner(kind)


outer(sys.argv[1])
