"""Both components have what the contract asks of them."""

from __future__ import annotations

from ni_additive.head import Additive
from ni_additive.no_attention import Apart

from ni_framework.testing import conformance

test_apart = conformance(Apart, lines=2, linear="hyper")
test_additive = conformance(Additive, depth=2, latent=5)
