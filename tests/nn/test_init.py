"""Initial values depend on seed and name alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ni_framework.errors import PluginError
from ni_framework.nn.init import SkipInit, derive_seed, initialise_model


def module_with_names(*names: str) -> nn.Module:
    """A module of linear maps with these names, built on the meta device in this order."""
    with torch.device("meta"):
        return nn.ModuleDict({name: nn.Linear(3, 4) for name in names})


def initialized_module(*names: str, seed: int = 5) -> dict[str, torch.Tensor]:
    model = module_with_names(*names)
    initialise_model(model, seed)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_order_does_not_matter() -> None:
    one, other = initialized_module("a", "b", "c"), initialized_module("c", "a", "b")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_initial_values_do_not_depend_on_siblings() -> None:
    assert torch.equal(initialized_module("a", "b")["b.weight"], initialized_module("b")["b.weight"])


def test_name_and_seed_matter() -> None:
    values = initialized_module("a", "b")
    assert not torch.equal(values["a.weight"], values["b.weight"])
    assert not torch.equal(values["a.weight"], initialized_module("a", seed=6)["a.weight"])


def test_initial_values_do_not_depend_on_device() -> None:
    """A model that is already allocated gets the same values as one on the meta device."""
    model = nn.ModuleDict({"a": nn.Linear(3, 4)})
    initialise_model(model, 5)
    assert torch.equal(model.state_dict()["a.weight"], initialized_module("a")["a.weight"])


def test_global_generator_is_not_advanced() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    initialized_module("a")
    assert torch.equal(torch.rand(3), expected)


def test_global_generator_does_not_matter() -> None:
    torch.manual_seed(1)
    one = initialized_module("a")
    torch.manual_seed(2)
    assert torch.equal(one["a.weight"], initialized_module("a")["a.weight"])


class UnsetParameter(nn.Module):
    """A parameter without initial values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))


class UnsetBuffer(nn.Module):
    """A buffer without initial values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.empty(2))


@pytest.mark.parametrize("cls", [UnsetParameter, UnsetBuffer])
def test_modules_without_reset_parameters_are_rejected(cls: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"fine": nn.Linear(2, 2), "part": cls()})
    with pytest.raises(PluginError) as caught:
        initialise_model(model, 0)
    assert str(caught.value) == (
        f"error: {cls.__name__} (part) owns parameters or buffers but has no reset_parameters()\n"
        "  help: define it in the module; it alone sets initial values"
    )


def test_seeds_of_keys() -> None:
    """They are equal on every machine and in every version, have 63 bits, and depend on each part of a key."""
    assert derive_seed(0, "model") == 1689353482259370465
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), ("a", 0)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derive_seed(number) < 2**63 for number in range(50))


def test_skip_init_skips_initialisers() -> None:
    """Whether the tensor is a positional or a keyword argument; other functions work, and so do initialisers afterwards."""
    tensor = torch.ones(3)
    with SkipInit():
        assert nn.init.normal_(tensor) is tensor
        assert nn.init.uniform_(tensor=tensor) is tensor
        assert nn.Linear(3, 2, device="meta")(torch.ones(1, 3, device="meta")).shape == (1, 2)
    assert torch.equal(tensor, torch.ones(3))
    assert not torch.equal(nn.init.normal_(tensor), torch.ones(3))
