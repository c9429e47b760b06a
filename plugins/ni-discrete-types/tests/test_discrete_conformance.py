"""Conformance of both components with the plugin contract, also nested in each other."""

from __future__ import annotations

import pytest
from ni_discrete_types.body import DiscreteMessages
from ni_discrete_types.type_inference import Discrete

from ni_framework.testing import conformance

pytestmark = pytest.mark.slow

test_types = conformance(Discrete)
test_nested_types = conformance(Discrete, heads=2, entries=5, inner={"use": "discrete", "heads": 8})
test_messages = conformance(DiscreteMessages)
test_nested_messages = conformance(DiscreteMessages, heads=3, inner={"use": "discrete_messages", "entries": 5})
