"""Three NATS servers for these tests."""

from tests.support.nats import nats

__all__ = ["nats"]
