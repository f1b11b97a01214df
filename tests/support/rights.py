"""Users of tests: sessions whose clients have only some rights."""

from typing import Any, Protocol

from cairnkv.commands import OK
from cairnkv.session import ServerContext, Session
from cairnkv.session.access.rights import Rights
from cairnkv.session.access.users import User


class Client(Protocol):
    """The client of a session."""

    context: ServerContext[Any]
    session: Session


def limit(client: Client, *rules: str) -> None:
    """Log a client in as the user `limited`, and give this user these rules, and none besides."""
    limit_session(client.context, client.session, b"limited", *rules)


def limit_session(context: ServerContext[Any], session: Session, name: bytes, *rules: str) -> None:
    """Log the client of a session in as a user, and give this user these rules, and none besides."""
    context.users.set(User(name, enabled=True, nopass=True, rights=Rights().changed(rules)))
    user = session.login.user
    if user is None or user.name != name:
        assert session.login.log_in(name, b"") is OK


SOME_RULES: tuple[tuple[str, ...], ...] = (
    ("+@all", "~1*", "~2*"),
    ("+@all", "%R~*", "%W~3*", "&*"),
    ("+@all", "%R~1*", "%R~2*", "%W~2*"),
    ("+@read", "+set", "~*"),
    ("+@all", "-get", "-mset", "-queue.take", "~*"),
    ("+get", "+del", "+mset", "+exists", "+queue.put", "+queue.take", "~4*", "~q*"),
    ("+@all",),
    ("-@all", "~*"),
)
"""The rights of clients that use the keys and queues of `lives`."""
