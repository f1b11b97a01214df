"""Users of NATS for tests, as `nk` and `nsc` make them: nkeys, and JWTs signed by an operator and its accounts."""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import nkeys

OPERATOR: Final = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT: Final = nkeys.PREFIX_BYTE_ACCOUNT
USER: Final = nkeys.PREFIX_BYTE_USER

_UNLIMITED: Final = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams"), -1
)


class Nkey:
    """A new key pair. role: `USER` and so on."""

    def __init__(self, role: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), role).decode()
        self._pair = nkeys.from_seed(self.seed.encode())
        self.public: str = self._pair.public_key.decode()

    def signed(self, of: "Nkey", nats: dict[str, Any], **claims: Any) -> str:
        """A JWT in which this key says something of another, or of itself."""
        claims |= {"jti": os.urandom(8).hex(), "iat": int(time.time()), "iss": self.public, "sub": of.public}
        text = f"{_coded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_coded({**claims, 'nats': nats | {'version': 2}})}"
        return f"{text}.{_encoded(self._pair.sign(text.encode()))}"


def _coded(fields: dict[str, Any]) -> str:
    return _encoded(json.dumps(fields).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Operator:
    """An operator, its system account and one with JetStream: all that a server needs for users with JWTs."""

    def __init__(self) -> None:
        self._key = Nkey(OPERATOR)
        self.store, self.system = Nkey(ACCOUNT), Nkey(ACCOUNT)

    def text(self) -> str:
        """For the server's configuration, in place of accounts and their users."""
        operator = self._key.signed(self._key, {"type": "operator", "system_account": self.system.public})
        limits = {"store": _UNLIMITED | {"consumer": -1, "wildcards": True}, "system": {"subs": -1, "conn": -1}}
        accounts = "\n".join(
            f"  {one.public}: {self._key.signed(one, {'type': 'account', 'limits': limits[name]}, name=name)}"
            for name, one in (("store", self.store), ("system", self.system))
        )
        return (
            f"operator: {operator}\nsystem_account: {self.system.public}\n"
            f"resolver: MEMORY\nresolver_preload {{\n{accounts}\n}}\n"
        )

    def user(self, account: Nkey, file: Path, **claims: Any) -> Path:
        """Make a user of an account; gives the file of its credentials, written as `nsc` does."""
        user = Nkey(USER)
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        jwt = account.signed(user, {"type": "user", "pub": {}, "sub": {}, **unlimited}, name="user", **claims)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return file
