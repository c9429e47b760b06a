"""`ni plugin test`, and the conformance in `ni show` and `ni ls --load`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import RunNi
from tests.helpers.distributions import InstallDistribution, install  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

ODD_SOURCE = '''
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
ODD_ENTRY = {"type_inference": {"odd": "ni_odd:Odd"}}
BATCH_CHECK_FAILURE = (
    "  batch: its type BVT differs by up to {} when sample 0 is computed alone\n"
    "    why: the output of a model for a sample must not depend on the other samples in its batch\n"
    "    fix: do not average, sort or take maxima over B; elements may compete only within their sample\n"
)


@pytest.fixture
def odd_plugin(install: InstallDistribution) -> None:  # noqa: F811
    install("ni_odd", ODD_SOURCE, ODD_ENTRY)


@pytest.mark.usefixtures("odd_plugin")
def test_failure_is_explained(ni: RunNi) -> None:
    result = ni("plugin", "test", "ni-odd")
    assert result.code == 5
    first, *_ = result.out.splitlines()
    assert first == "type_inference/odd of ni-odd 0.1: 18 passed, 1 failed, 1 excused"
    start, _, rest = BATCH_CHECK_FAILURE.partition("{}")
    assert start in result.out
    assert rest in result.out
    assert result.err == "checking type_inference/odd ...\nerror: 1 of 1 do not conform: type_inference/odd\n"


@pytest.mark.usefixtures("odd_plugin")
def test_json_document(ni: RunNi) -> None:
    """With --json, stdout has the result alone, even if a check fails."""
    result = ni("plugin", "test", "odd", "--json")
    assert result.code == 5
    (report,) = result.json
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert verdicts["batch"] == "failed"
    assert verdicts["shapes"] == "passed"
    (failed,) = [check for check in report["checks"] if check["name"] == "batch"]
    assert failed["why"]
    assert failed["fix"]


def test_conforming_component(ni: RunNi) -> None:
    result = ni("plugin", "test", "type_inference/mlp")
    assert result.code == 0
    assert result.out == (
        "type_inference/mlp of ni-framework 0.1.0: 19 passed, 1 excused\n"
        "  aux_outputs: excused, it returns neither losses nor statistics\n"
    )


def test_unknown_name(ni: RunNi) -> None:
    result = ni("plugin", "test", "nobody")
    assert (result.code, result.err) == (
        3,
        "error: there is no component or distribution `nobody`\n  help: `ni ls` lists all\n",
    )


@pytest.mark.usefixtures("install")
def test_component_that_cannot_be_imported(install: InstallDistribution, ni: RunNi) -> None:  # noqa: F811
    install("ni_odd", "1 / 0", ODD_ENTRY)
    result = ni("plugin", "test", "odd")
    assert result.code == 5
    assert result.out == (
        "type_inference/odd of ni-odd 0.1: not checked\n"
        "  type_inference `odd` of ni-odd 0.1 (ni_odd:Odd) cannot be imported: ZeroDivisionError: division by zero\n"
    )


@pytest.mark.usefixtures("odd_plugin")
def test_show_prints_conformance(ni: RunNi) -> None:
    result = ni("show", "odd")
    assert result.code == 0
    assert "\n\nconformance: 18 passed, 1 failed, 1 excused\n  batch: its type BVT differs" in result.out
    (document,) = ni("show", "odd", "--json").json
    assert document["conformance"] == "18 passed, 1 failed, 1 excused"
