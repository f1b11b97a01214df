"""`cairn user`: changes a users file of this computer.

Invariants: an action changes only the line of its user; comments and other lines stay. A token is printed once, and the
file has only its SHA-256. A password is never an argument, which all users of the computer could read. Exit codes: 0
success; 1 if there is no such user; 2 error.

Out of scope: the rules (`cairnkv.session.access`) and the file (`cairnkv.server.users_file`). A running server reads
the file again after SIGHUP or ACL LOAD.
"""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, path
from cairnkv.cli.main import FOUND, NOT_FOUND, complain, suggestion
from cairnkv.cli.output import BOLD, CYAN, DIM, GREEN, RED, YELLOW, note, on_terminal, put_json, styled
from cairnkv.escapes import escaped
from cairnkv.limits import CREDENTIALS_MAX

if TYPE_CHECKING:
    from cairnkv.session.access.users import User

VARIABLE: Final = "CAIRNKV__USERS"

TOKEN_PREFIX: Final = "ck_"
"""The beginning of generated tokens, by which people and scanners of source code recognise them."""

TOKEN_BYTES: Final = 32
"""256 random bits: too many to guess, so the users file needs no slow hash of them."""

_RULES: Final = (
    "Rules:\n"
    "  +COMMAND, -COMMAND, +COMMAND|SUBCOMMAND, +@CATEGORY, -@CATEGORY, allcommands, nocommands\n"
    "  ~PREFIX* (keys and queues), %R~PREFIX* (only to read), %W~PREFIX* (only to write), allkeys, resetkeys\n"
    "  &PREFIX* (channels), allchannels, resetchannels\n"
    "  on, off, nopass, certonly, #SHA256, resetpass, reset\n"
    "Quote rules with ~, *, & or | for the shell."
)


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of the actions."""
    if arguments and arguments[0] in ACTIONS:
        try:
            return ACTIONS[arguments[0]][0](f"{name} {arguments[0]}", arguments[1:])
        except _NoSuchUser as error:
            complain(str(error))
            return NOT_FOUND
    width = max(map(len, ACTIONS))
    actions = "\n".join(f"  {action:<{width}}  {summary}" for action, (_, summary) in ACTIONS.items())
    parser = Parser(
        name,
        "Change the users of a server, their secrets and their rights. The users are in a file that\n"
        f"`cairn serve --users FILE` reads, and reads again after SIGHUP or the command ACL LOAD.\n\n{actions}\n\n"
        f"`cairn {name} ACTION --help` explains an action.",
        f"cairn {name} add app '~app:*' +@read +@write --users users.acl\ncairn {name} list --users users.acl",
    )
    parser.add_argument("action", metavar="ACTION", choices=list(ACTIONS), help="one of the actions above")
    parser.parse_args(arguments)
    raise AssertionError("a known action is executed above")


def _parser(name: str, description: str, example: str, *, of_user: bool = True, json: bool = False) -> Parser:
    parser = Parser(name, description, example, json=json)
    if of_user:
        parser.add_argument("user", metavar="NAME", help="the user's name")
    parser.option("--users", path, "FILE", f"the users file (default: ${VARIABLE})")
    return parser


def _file(options: argparse.Namespace, parser: Parser) -> str:
    file: str | None = options.users or os.environ.get(VARIABLE)
    if file is None:
        parser.error(f"name the users file: --users FILE, or {VARIABLE} in the environment")
    return file


def _is_rule(argument: str) -> bool:
    """Return whether an argument is a rule such as `-@all`, which looks like an option."""
    return re.match(r"-[^-]", argument) is not None and argument != "-h"


_MARK: Final = "\0"
"""The first character of rules that look like options, while argparse processes them."""


def _parsed(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments with rules."""
    parser.add_argument("rules", metavar="RULE", nargs="*", default=[], help="a rule, as described above")
    parser.intermixed = True
    parser.description = f"{parser.description}\n\n{_RULES}"
    options = parser.parse_args([_MARK + text if _is_rule(text) else text for text in arguments])
    options.rules = [rule.removeprefix(_MARK) for rule in options.rules]
    if any(rule.startswith((">", "<")) for rule in options.rules):
        parser.error("all users of this computer can read a password in arguments; use --password, which asks for it")
    return options


def _changed(user: "User", rules: Sequence[str], parser: Parser) -> "User":
    """Return a user after rules. Reports the first wrong rule."""
    from cairnkv.session.access.categories import CATEGORIES, names
    from cairnkv.session.access.rights import SYNTAX_ERROR, UNKNOWN_NAME, RuleError

    try:
        return user.changed(rules)
    except RuleError as error:
        hint = ""
        if error.reason == SYNTAX_ERROR and error.rule == "(hidden)":
            hint = "; a rule is a word such as allkeys, or begins with +, -, ~, %, & or #"
        if error.reason == UNKNOWN_NAME:
            hint = suggestion(
                error.rule, [error.rule[:1] + name for name in (*names(), *(f"@{one}" for one in CATEGORIES))]
            )
        parser.error(f"the rule {error.rule!r}: {error.reason}{hint}")


@contextlib.contextmanager
def _edited(file: str, *, create: bool = False) -> Iterator[dict[bytes, "User"]]:
    """Yield the users of the file for changes, and write them at the end."""
    from cairnkv.errors import OptionError
    from cairnkv.server.users_file import edited
    from cairnkv.session.access.users import UsersRefused

    try:
        with edited(file, create=create) as users:
            yield users
    except UsersRefused as refused:
        raise OptionError(f"{file}: {refused}") from None
    note(f"{file} is written; a running server reads it after SIGHUP or ACL LOAD")


class _NoSuchUser(Exception):
    """The users file has no such user."""

    def __init__(self, user: str, file: str, users: dict[bytes, "User"]) -> None:
        super().__init__(f"{file} has no user {user!r}{suggestion(user, map(os.fsdecode, users))}")


# -- secrets -----------------------------------------------------------------------------------------------------


def new_token() -> str:
    """Return a random token."""
    import secrets

    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def _asked_password(user: str) -> str:
    """Return a rule with the hash of a password: typed twice on a terminal, else the first line of standard input."""
    from cairnkv.errors import OptionError
    from cairnkv.server.password_hashing import hash_password, require_argon2

    require_argon2()
    if on_terminal(sys.stdin):
        import getpass

        password = getpass.getpass("password: ")
        if getpass.getpass("the same again: ") != password:
            raise OptionError("the two passwords differ; nothing is changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    secret = password.encode("utf-8", "surrogateescape")
    if not secret:
        raise OptionError("the password is empty; nothing is changed")
    if len(os.fsencode(user)) + len(secret) > CREDENTIALS_MAX:
        raise OptionError(f"clients send name and password in at most {CREDENTIALS_MAX:,} bytes; nothing is changed")
    return hash_password(secret)


def _new_secret(options: argparse.Namespace) -> tuple[str | None, str]:
    """Return a new token, or None for a password; and the rule that adds it."""
    if options.password:
        return None, _asked_password(options.user)
    token = new_token()
    return token, f">{token}"


def _show(user: "User", token: str | None, options: argparse.Namespace) -> int:
    """Print the token of a user, or the whole result as JSON."""
    if options.json:
        put_json({"user": os.fsdecode(user.name), **({} if token is None else {"token": token}), "rules": user.rules})
        return FOUND
    if token is not None:
        print(styled(token, CYAN))
        note("this token is not shown again; the file has only its SHA-256")
    return FOUND


# -- actions -----------------------------------------------------------------------------------------------------


def _password_option(parser: Parser) -> None:
    parser.switch("--password", "ask for a password instead of a token; keep its argon2id hash (extra `auth`)")


def _add(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Add a user, and print its new token: the secret that its clients send. With nopass, certonly or a hash\n"
        "(#SHA256) among the rules, there is no token. The command makes the file if it does not exist.",
        f"cairn {name} app '~app:*' +@read +@write --users users.acl\n"
        f"cairn {name} admin allkeys allchannels allcommands --password --users users.acl\n"
        f"cairn {name} default nopass '~public:*' +@read --users users.acl",
        json=True,
    )
    _password_option(parser)
    options = _parsed(parser, arguments)
    file = _file(options, parser)
    from cairnkv.errors import OptionError
    from cairnkv.session.access.users import User, check_name

    user_name = os.fsencode(options.user)
    try:
        check_name(user_name)
    except ValueError as error:
        parser.error(str(error))
    if b":" in user_name:
        parser.error("a user's name with a colon cannot be written in USER:SECRET")
    user = _changed(User(user_name), ["on", *options.rules], parser)
    token = None
    if options.password or not (user.nopass or user.certonly or user.secrets):
        token, rule = _new_secret(options)
        user = user.changed([rule])
    with _edited(file, create=True) as users:
        if user_name in users:
            raise OptionError(f"{file} has a user {options.user!r} already; `cairn user set` changes it")
        users[user_name] = user
    if not options.rules:
        note(f"{options.user} may do nothing yet: `cairn user set {options.user} '~PREFIX*' +@read`")
    return _show(user, token, options)


def _set(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Change a user by rules, which apply one after the other to the rules that it has. `reset` removes all.",
        f"cairn {name} app +@write -@dangerous --users users.acl\ncairn {name} app on --users users.acl",
        json=True,
    )
    options = _parsed(parser, arguments)
    if not options.rules:
        parser.error("there are no rules")
    return _change(options, parser, lambda user: _changed(user, options.rules, parser))


def _rotate(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Give a user a second secret, and print the new token. Both secrets log in until `--finish` removes the\n"
        "older one: change the clients between the two. A third rotation removes the oldest secret.",
        f"cairn {name} app --users users.acl\ncairn {name} app --finish --users users.acl",
        json=True,
    )
    _password_option(parser)
    parser.switch("--finish", "remove all secrets but the newest")
    options = parser.parse_args(arguments)
    if options.finish and options.password:
        parser.error("--finish adds no secret; leave --password out")
    file = _file(options, parser)
    from cairnkv.errors import OptionError
    from cairnkv.server.users_file import read

    before = {user.name: user for user in read(file)}
    user = before.get(os.fsencode(options.user))
    if user is None:
        raise _NoSuchUser(options.user, file, before)
    if not user.secrets:
        raise OptionError(f"{options.user} has no secret: it is {' '.join(user.flags)}")
    if options.finish:
        return _change(options, parser, lambda user: _with_newest(user, 1))
    token, rule = _new_secret(options)
    return _change(options, parser, lambda user: _with_newest(user.changed([rule]), 2), token)


def _with_newest(user: "User", count: int) -> "User":
    """Return a user with only its newest secrets."""
    return user.changed(["resetpass", *(secret.text for secret in user.secrets[-count:])]) if user.secrets else user


def _disable(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Disable a user: it cannot log in, and loses its rights in open connections. `cairn user set NAME on` undoes\n"
        "it.",
        f"cairn {name} app --users users.acl",
        json=True,
    )
    options = parser.parse_args(arguments)
    return _change(options, parser, lambda user: user.changed(["off"]))


def _change(
    options: argparse.Namespace, parser: Parser, change: Callable[["User"], "User"], token: str | None = None
) -> int:
    file = _file(options, parser)
    user_name = os.fsencode(options.user)
    with _edited(file) as users:
        if user_name not in users:
            raise _NoSuchUser(options.user, file, users)
        users[user_name] = change(users[user_name])
    return _show(users[user_name], token, options)


def _remove(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(name, "Remove a user and its line.", f"cairn {name} app --users users.acl")
    options = parser.parse_args(arguments)
    file = _file(options, parser)
    with _edited(file) as users:
        if users.pop(os.fsencode(options.user), None) is None:
            raise _NoSuchUser(options.user, file, users)
    return FOUND


def _list(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Print the users, how they log in, and their rules.",
        f"cairn {name} --users users.acl\ncairn {name} --users users.acl --json | jq .user",
        of_user=False,
        json=True,
    )
    options = parser.parse_args(arguments)
    file = _file(options, parser)
    from cairnkv.server.users_file import read

    users = sorted(read(file), key=lambda user: user.name)
    if options.json:
        for user in users:
            put_json(_described(user))
    elif users:
        _print_table(users)
    return FOUND


def _print_table(users: Sequence["User"]) -> None:
    rows = [("user", "state", "login", "rules")]
    rows += [(_shown(user.name), user.flags[0], _login(user), _shown(os.fsencode(user.rights.rules))) for user in users]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, row in enumerate(rows):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        if number == 0:
            print(styled("  ".join([*cells, row[3]]), BOLD))
            continue
        user = users[number - 1]
        style = RED if not user.enabled else YELLOW if user.is_administrator else GREEN
        print("  ".join([styled(cells[0], BOLD), styled(cells[1], style), cells[2], styled(row[3], DIM)]))


def _shown(text: bytes) -> str:
    """Return a text from the file for standard output: escaped for a terminal."""
    return escaped(text) if on_terminal(sys.stdout) else os.fsdecode(text)


def _login(user: "User") -> str:
    """Return how a user logs in."""
    if user.nopass:
        return "no password"
    if user.certonly:
        return "certificate"
    kinds = [
        f"{count} {kind}{'s' * (count > 1)}"
        for kind, count in (
            ("token", sum(secret.is_digest for secret in user.secrets)),
            ("password", sum(not secret.is_digest for secret in user.secrets)),
        )
        if count
    ]
    return ", ".join(kinds) or "-"


def _described(user: "User") -> dict[str, object]:
    return {
        "user": os.fsdecode(user.name),
        "enabled": user.enabled,
        "login": _login(user),
        "administrator": user.is_administrator,
        "keys": user.rights.key_rules,
        "channels": user.rights.channel_patterns,
        "commands": user.rights.all_command_rules,
    }


ACTIONS: Final[dict[str, tuple[Callable[[str, Sequence[str]], int], str]]] = {
    "add": (_add, "add a user, and print its new token"),
    "list": (_list, "print the users and their rules"),
    "set": (_set, "change the rules of a user"),
    "rotate": (_rotate, "give a user a second secret, or remove the older one"),
    "disable": (_disable, "disable a user"),
    "remove": (_remove, "remove a user"),
}
"""The function and the summary of each action."""
