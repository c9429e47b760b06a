"""Initial values by seed and name alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ni_framework.errors import PluginError
from ni_framework.nn.init import WithoutValues, initialise, seed_of


def named(*names: str) -> nn.Module:
    """A module of maps under these names, on the meta device, built in this order."""
    with torch.device("meta"):
        return nn.ModuleDict({name: nn.Linear(3, 4) for name in names})


def made(*names: str, seed: int = 5) -> dict[str, torch.Tensor]:
    model = named(*names)
    initialise(model, seed)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_order_does_not_matter() -> None:
    one, other = made("a", "b", "c"), made("c", "a", "b")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_else_there_is_does_not_matter() -> None:
    assert torch.equal(made("a", "b")["b.weight"], made("b")["b.weight"])


def test_name_and_seed_matter() -> None:
    values = made("a", "b")
    assert not torch.equal(values["a.weight"], values["b.weight"])
    assert not torch.equal(values["a.weight"], made("a", seed=6)["a.weight"])


def test_where_it_was_built_does_not_matter() -> None:
    """Values of a model that had memory before are the same as of one from the meta device."""
    model = nn.ModuleDict({"a": nn.Linear(3, 4)})
    initialise(model, 5)
    assert torch.equal(model.state_dict()["a.weight"], made("a")["a.weight"])


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    made("a")
    assert torch.equal(torch.rand(3), expected)


def test_global_generator_does_not_matter() -> None:
    torch.manual_seed(1)
    one = made("a")
    torch.manual_seed(2)
    assert torch.equal(one["a.weight"], made("a")["a.weight"])


class Careless(nn.Module):
    """A parameter that nobody fills."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))


class Buffered(nn.Module):
    """A buffer that nobody fills."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.empty(2))


@pytest.mark.parametrize("cls", [Careless, Buffered])
def test_values_that_nobody_sets_are_refused(cls: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"fine": nn.Linear(2, 2), "part": cls()})
    with pytest.raises(PluginError) as caught:
        initialise(model, 0)
    assert str(caught.value) == (
        f"error: {cls.__name__} (part) owns parameters or buffers but has no reset_parameters()\n"
        "  help: define it where the module is; it alone sets initial values"
    )


def test_seeds_of_keys() -> None:
    """The same on every machine and in every version; 63 bits; each part of a key counts."""
    assert seed_of(0, "model") == 1689353482259370465
    assert len({seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of(0, "a", 1), seed_of("a", 0)}) == 5
    assert all(0 <= seed_of(number) < 2**63 for number in range(50))


def test_without_values_nothing_is_set() -> None:
    """Torch's initialisers are left out, whatever way they get their tensor; all else works, and afterwards they do too."""
    tensor = torch.ones(3)
    with WithoutValues():
        assert nn.init.normal_(tensor) is tensor
        assert nn.init.uniform_(tensor=tensor) is tensor
        assert nn.Linear(3, 2, device="meta")(torch.ones(1, 3, device="meta")).shape == (1, 2)
    assert torch.equal(tensor, torch.ones(3))
    assert not torch.equal(nn.init.normal_(tensor), torch.ones(3))
