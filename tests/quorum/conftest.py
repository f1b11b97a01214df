"""Three NATS servers for these tests."""

from tests.support.nats import nats, nats_session

__all__ = ["nats", "nats_session"]
