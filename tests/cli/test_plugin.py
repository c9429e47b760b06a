"""`ni plugin test`, and what `ni show` and `ni ls --load` say of conformance."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Ni
from tests.helpers.distributions import Install, install  # noqa: F401  a fixture

SOURCE = '''
from torch import Tensor, nn
from ni_framework.contracts import TypeInference

class Odd(TypeInference):
    """Means over the batch: [B, V, D] -> [B, V, T]."""
    def __init__(self, config, sizes, build):
        super().__init__()
        self.linear = nn.Linear(sizes.width, sizes.type)
    def forward(self, x_BVD, context):
        return self.linear(x_BVD - x_BVD.mean(dim=0))
'''
ENTRY = {"type_inference": {"odd": "ni_odd:Odd"}}
FAILURE = (
    "  batch: its type BVT differs by up to {} when sample 0 is asked about alone\n"
    "    why: what a model says of a sample must not depend on which others happen to be asked about with it\n"
    "    fix: take no mean, maximum or sorting over B; elements compete within their sample only\n"
)


@pytest.fixture
def odd(install: Install) -> None:  # noqa: F811
    install("ni_odd", SOURCE, ENTRY)


@pytest.mark.usefixtures("odd")
def test_failure_is_told_with_why_and_fix(ni: Ni) -> None:
    done = ni("plugin", "test", "ni-odd")
    assert done.code == 5
    first, *_ = done.out.splitlines()
    assert first == "type_inference/odd of ni-odd 0.1: 18 passed, 1 failed, 1 excused"
    start, _, rest = FAILURE.partition("{}")
    assert start in done.out
    assert rest in done.out
    assert done.err == "trying type_inference/odd ...\nerror: 1 of 1 do not conform: type_inference/odd\n"


@pytest.mark.usefixtures("odd")
def test_as_one_document(ni: Ni) -> None:
    """The result alone on stdout, whatever it is."""
    done = ni("plugin", "test", "odd", "--json")
    assert done.code == 5
    (tried,) = done.json
    verdicts = {check["name"]: check["verdict"] for check in tried["checks"]}
    assert verdicts["batch"] == "failed"
    assert verdicts["shapes"] == "passed"
    (failed,) = [check for check in tried["checks"] if check["name"] == "batch"]
    assert failed["why"]
    assert failed["fix"]


def test_what_conforms(ni: Ni) -> None:
    done = ni("plugin", "test", "type_inference/mlp")
    assert done.code == 0
    assert done.out == (
        "type_inference/mlp of ni-framework 0.1.0: 19 passed, 1 excused\n  told: excused, it tells nothing beside its result\n"
    )


def test_what_is_not_there(ni: Ni) -> None:
    done = ni("plugin", "test", "nobody")
    assert (done.code, done.err) == (
        3,
        "error: there is no component or distribution `nobody`\n  help: `ni ls` lists all\n",
    )


@pytest.mark.usefixtures("install")
def test_what_cannot_be_loaded_is_told(install: Install, ni: Ni) -> None:  # noqa: F811
    install("ni_odd", "1 / 0", ENTRY)
    done = ni("plugin", "test", "odd")
    assert done.code == 5
    assert done.out == (
        "type_inference/odd of ni-odd 0.1: not tried\n"
        "  type_inference `odd` of ni-odd 0.1 (ni_odd:Odd) cannot be imported: ZeroDivisionError: division by zero\n"
    )


@pytest.mark.usefixtures("odd")
def test_shown_with_the_component(ni: Ni) -> None:
    done = ni("show", "odd")
    assert done.code == 0
    assert "\n\nconformance: 18 passed, 1 failed, 1 excused\n  batch: its type BVT differs" in done.out
    (document,) = ni("show", "odd", "--json").json
    assert document["conformance"] == "18 passed, 1 failed, 1 excused"
