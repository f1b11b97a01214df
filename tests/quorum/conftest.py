"""Fixtures of a NATS cluster, for all tests here."""

from tests.support.nats import nats, nats_session

__all__ = ["nats", "nats_session"]
