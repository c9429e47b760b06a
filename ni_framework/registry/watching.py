"""stub until isolation lands"""

from contextlib import contextmanager


@contextmanager
def watched():
    changed = []
    import torch

    before = dict(vars(torch.nn.functional))
    yield changed
    changed += [f"torch.nn.functional.{k}" for k, v in before.items() if vars(torch.nn.functional).get(k) is not v]
