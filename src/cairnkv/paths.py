"""Checks and expands paths that a user gives: on a command line, in a variable, in a file of options, or in Python.

Invariants: an empty path is an error. An unset shell variable gives an empty path, and the system would use the working
directory. `~` is the home directory everywhere; a shell expands it only at the beginning of a word.
"""

import os
from pathlib import Path

from cairnkv.errors import OptionError


def path_text(given: str | os.PathLike[str]) -> str:
    """Return a path with `~` expanded. Raises `OptionError`, whose text follows "has to be".

    >>> path_text("data/")
    'data/'
    """
    text: object = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise OptionError(f"a path as text or a path object, not {text!r:.80}")
    if not text.strip():
        raise OptionError(f"a path that is not empty, not {text!r}; the working directory is '.'")
    if "\0" in text:
        raise OptionError(f"a path without null characters, not {text!r}")
    if not text.startswith("~"):
        return text
    user, slash, rest = text.partition("/")
    try:
        return f"{Path(user).expanduser()}{slash}{rest}"
    except RuntimeError:
        raise OptionError(
            f"a path; there is no home directory for {user!r}, and a file of that name is './{text}'"
        ) from None


def user_path(given: str | os.PathLike[str], what: str) -> Path:
    """Return the path that a user gave, with `~` expanded. what: the argument's name, for the error."""
    try:
        return Path(path_text(given))
    except OptionError as error:
        raise OptionError(f"{what} has to be {error}") from None


def is_within(path: str | os.PathLike[str], directory: str | os.PathLike[str]) -> bool:
    """Return whether a path is a directory or in it, after all symbolic links. Neither has to exist.

    >>> is_within("data/backups", "data"), is_within("data", "data/"), is_within("data2", "data")
    (True, True, False)
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))  # `resolve` raises for a loop


def os_error_text(error: OSError) -> str:
    """Return a message for an error of the system: the file, the reason, and for permissions the user.

    >>> os_error_text(FileNotFoundError(2, "No such file or directory", "data/x"))
    'data/x: No such file or directory'
    """
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from getcwd
        return "the working directory was deleted: use absolute paths, or change to another directory"
    text = error.strerror or str(error)
    if error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {text}"
    if isinstance(error, PermissionError):
        text += f" to user {os.geteuid()}; run as the owner of the files, or change their owner (chown)"
    return text
