"""Conformance of both components with the plugin contract."""

from __future__ import annotations

import pytest
from ni_additive.head import Additive
from ni_additive.no_attention import NoAttentionLines

from ni_framework.testing import conformance

pytestmark = pytest.mark.slow

test_apart = conformance(NoAttentionLines, lines=2, linear="hyper")
test_additive = conformance(Additive, depth=2, latent=5)
