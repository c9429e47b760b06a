"""Both components have what the contract asks of them, also around one another."""

from __future__ import annotations

from ni_discrete_types.body import DiscreteMessages
from ni_discrete_types.type_inference import Discrete

from ni_framework.testing import conformance

test_types = conformance(Discrete)
test_types_around_types = conformance(Discrete, heads=2, entries=5, inner={"use": "discrete", "heads": 8})
test_messages = conformance(DiscreteMessages)
test_messages_around_messages = conformance(DiscreteMessages, heads=3, inner={"use": "discrete_messages", "entries": 5})
