"""The users file: the format of Redis' ACL file, with comments.

    # people
    user default off resetchannels -@all
    user app on #5e88... ~app:* resetchannels -@all +@read +@write

A line is a comment if it begins with `#`. The first two words of any other line are `user` and a name; the rest are
rules (`cairnkv.session.access`).

Invariants: only the owner may read the file: it contains password hashes. A file with an error is not used at all; the
error names the line. A change replaces the file by a complete one that is fsynced, and keeps comments and the lines of
other users as they are.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.escapes import quoted
from cairnkv.limits import USERS_FILE_MAX, USERS_MAX
from cairnkv.paths import os_error_text
from cairnkv.session.access.rights import UNKNOWN_NAME, RuleError
from cairnkv.session.access.users import User, check_change, check_name


class UsersFileError(OptionError):
    """The users file cannot be used, or cannot be changed. The text names the file, and the line."""


class UsersFile:
    """A users file, and its content that is in use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = Path(path)
        self._used = b""

    def load(self, use: Callable[[list[User]], None]) -> None:
        """Read the file and pass its users on. Raises `UsersFileError`, and the errors of `use`."""
        text = _content(self.path)
        use(parsed(text, self.path))
        self._used = text

    def save(self, users: Iterable[User]) -> None:
        """Write all users. Raises `UsersFileError`, also if the file has another content than `load` has passed on."""
        with _locked(self.path):
            if _content(self.path) != self._used:
                raise UsersFileError(f"{self.path} has changed since it was loaded: load it first")
            text = merged(self._used, list(users), self.path)
            _replace(self.path, text)
            self._used = text


def read(path: str | os.PathLike[str]) -> list[User]:
    """Return the users of a file. Raises `UsersFileError`."""
    return parsed(_content(Path(path)), Path(path))


@contextlib.contextmanager
def edited(path: str | os.PathLike[str], *, create: bool = False) -> Iterator[dict[bytes, User]]:
    """Yield the users of a file by name, for changes. Write the changed users at the end, unless an error is raised.

    create: make a new file if there is none. Raises `UsersFileError`, and `UsersRefused` for a change that users cannot
    make.
    """
    path = Path(path)
    if create:
        _create(path)
    with _locked(path):
        text = _content(path)
        before = parsed(text, path)
        users = {user.name: user for user in before}
        yield users
        check_change(before, users.values())
        _replace(path, merged(text, list(users.values()), path))


# -- the format ------------------------------------------------------------------------------------------------


def _words(line: str) -> list[str]:
    """Return the words of a line; none for a comment."""
    return [] if line.startswith("#") else [word for word in line.strip(" \t\r").replace("\t", " ").split(" ") if word]


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "surrogateescape").split("\n")


def _name(words: Sequence[str]) -> bytes:
    return words[1].encode("utf-8", "surrogateescape")


def parsed(text: bytes, path: Path) -> list[User]:
    """Return the users of a file's content. Raises `UsersFileError`, which names the line of the first error."""
    users: dict[bytes, User] = {}
    for number, line in enumerate(_lines(text), 1):
        words = _words(line)
        if not words:
            continue
        where = f"{path}:{number}"
        if words[0] != "user" or len(words) < 2:
            raise UsersFileError(f"{where}: a line should start with the word user and a name, or with # for a comment")
        name = _name(words)
        try:
            check_name(name)
        except ValueError as error:
            raise UsersFileError(f"{where}: {error}") from None
        if name in users:
            raise UsersFileError(f"{where}: there are two lines of the user {quoted(name)}")
        try:
            users[name] = User(name).changed(words[2:])
        except RuleError as error:
            if error.reason == UNKNOWN_NAME:
                raise UsersFileError(f"{where}: Error in applying operation '{error.rule}': {error.reason}") from None
            raise UsersFileError(f"{where}: {error.reason} (in '{error.rule}')") from None
    if len(users) > USERS_MAX:
        raise UsersFileError(f"{path} has {len(users):,} users; a server has at most {USERS_MAX:,}")
    return list(users.values())


def merged(text: bytes, users: Sequence[User], path: Path) -> bytes:
    """Return the content of a file with other users. Comments and the lines of unchanged users stay as they are."""
    left = {user.name: user for user in users}
    before = {user.name: user for user in parsed(text, path)}
    lines = []
    for line in _lines(text):
        words = _words(line)
        if not words:
            lines.append(line)
        elif (user := left.pop(_name(words), None)) is not None:
            lines.append(line if user == before[user.name] else user.line)
    while lines and not lines[-1].strip():
        lines.pop()
    lines += [user.line for user in left.values()]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


# -- files -----------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    """Return the content of a users file. Raises `UsersFileError`, also if others may read the file."""
    try:
        # A pipe would block the server until its writer opens it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_status(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(USERS_FILE_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(error) from None
    if len(content) > USERS_FILE_MAX:
        raise UsersFileError(f"{path} has more than {USERS_FILE_MAX:,} bytes")
    return content


def _unreadable(error: OSError) -> UsersFileError:
    hint = "; `cairn user add` makes it" if isinstance(error, FileNotFoundError) else ""
    return UsersFileError(f"cannot read the users file: {os_error_text(error)}{hint}")


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsersFileError(f"{path} is no regular file")
    if status.st_mode & 0o077:
        raise UsersFileError(
            f"{path} has the mode {stat.S_IMODE(status.st_mode):04o}: other users of this computer may read it; run: "
            f"chmod 600 {path}"
        )


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise UsersFileError(f"cannot create the users file: {os_error_text(error)}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other processes that change a users file. The lock is of the file that has the name now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise BlockingIOError  # another process replaced the file after the open
        except OSError:
            raise UsersFileError(f"another process changes {path} at this moment; try again") from None
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file by a complete one with this content, and the same owner. A symbolic link stays."""
    path = Path(os.path.realpath(path))
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        owner = path.stat()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if owner.st_uid != os.geteuid():  # root changes the file of the server's user
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise UsersFileError(f"cannot write the users file: {os_error_text(error)}") from None
