"""Users, their secrets and lines, and the table of users with its last administrator."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.limits import SECRETS_MAX, USER_NAME_MAX, USERS_MAX
from cairnkv.session.access.rights import SYNTAX_ERROR, Rights, RuleError
from cairnkv.session.access.users import (
    BAD_NAME,
    NO_SUCH_SECRET,
    NOT_A_DIGEST,
    NOT_ARGON2,
    TOO_MANY_SECRETS,
    Secret,
    User,
    Users,
    UsersRefused,
    check_name,
    default_user,
)

SHA = hashlib.sha256(b"s3cret").hexdigest()
ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0$" + "A" * 43


def user(rules: str, name: bytes = b"app") -> User:
    return User(name).changed(rules.split())


class TestUser:
    def test_new_user_can_do_nothing(self) -> None:
        new = User(b"app")
        assert (new.enabled, new.nopass, new.certonly, new.secrets, new.rights) == (False, False, False, (), Rights())
        assert new.line == "user app off resetchannels -@all"

    def test_line_is_that_of_redis(self) -> None:
        assert user("on >s3cret ~app:* +@read").line == f"user app on #{SHA} ~app:* resetchannels -@all +@read"
        assert default_user().line == "user default on nopass ~* &* +@all"
        assert user(f"{ARGON2} on").line == f"user app on {ARGON2} resetchannels -@all"

    def test_later_rule_wins(self) -> None:
        assert not user("on off").enabled
        assert user("off on").enabled

    def test_password_becomes_its_digest(self) -> None:
        some = user("on >s3cret")
        assert some.secrets == (Secret(f"#{SHA}"),)
        assert some.secrets[0].matches(b"s3cret")
        assert not some.secrets[0].matches(b"s3creT")
        assert user(f"on #{SHA}") == some

    def test_argon2_secret_matches_no_token(self) -> None:
        (secret,) = user(ARGON2).secrets
        assert not secret.is_digest
        assert not secret.matches(b"s3cret")

    def test_kinds_of_login_exclude_each_other(self) -> None:
        assert user(">s3cret nopass").secrets == ()
        assert not user("nopass >s3cret").nopass
        assert (user(">s3cret certonly").secrets, user("certonly nopass").certonly) == ((), False)
        assert user("nopass certonly").flags == ("off", "certonly")
        assert not user("certonly >s3cret").certonly

    def test_removed_password_is_not_accepted(self) -> None:
        assert user(">one >two <one") == user(">two")
        assert user(f">one #{SHA} !{SHA}") == user(">one")
        assert user(f">one {ARGON2} !{ARGON2}") == user(">one")
        assert user(">one resetpass").secrets == ()

    def test_same_password_twice_is_one(self) -> None:
        assert user(f">s3cret #{SHA} >s3cret") == user(">s3cret")

    def test_reset_removes_all_but_the_name(self) -> None:
        assert user("on nopass ~* +@all &* reset") == User(b"app")

    def test_words_about_absent_things_have_no_effect(self) -> None:
        assert user("on sanitize-payload skip-sanitize-payload clearselectors") == user("on")

    @pytest.mark.parametrize(
        ("rules", "reason"),
        [
            (">", SYNTAX_ERROR),
            ("<absent", NO_SUCH_SECRET),
            (f"!{SHA}", NO_SUCH_SECRET),
            ("#" + SHA[:-1], NOT_A_DIGEST),
            ("#" + SHA.upper(), NOT_A_DIGEST),
            ("#" + SHA[:-1] + "q", NOT_A_DIGEST),
            ("!abc", NOT_A_DIGEST),
            ("$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0$" + "A" * 43, NOT_ARGON2),
            (ARGON2.replace("19456", "999999"), NOT_ARGON2),
            (ARGON2.replace("t=2", "t=0"), NOT_ARGON2),
            (" ".join(f">{number}" for number in range(SECRETS_MAX + 1)), TOO_MANY_SECRETS),
            ("enabled", SYNTAX_ERROR),
        ],
    )
    def test_refused_rule_has_its_reason_and_shows_no_secret(self, rules: str, reason: str) -> None:
        with pytest.raises(RuleError) as caught:
            user(rules)
        assert caught.value.reason == reason
        assert "absent" not in str(caught.value)

    def test_repr_shows_no_secret(self) -> None:
        assert SHA not in repr(user("on >s3cret"))

    @pytest.mark.parametrize("name", [b"a b", b"a\0", b"a\n", b"\t"])
    def test_name_with_spaces_is_refused(self, name: bytes) -> None:
        with pytest.raises(ValueError, match=BAD_NAME):
            check_name(name)

    def test_length_of_a_name_is_limited(self) -> None:
        check_name(b"x" * USER_NAME_MAX)
        for name in (b"", b"x" * (USER_NAME_MAX + 1)):
            with pytest.raises(ValueError, match="128"):
                check_name(name)


RULES = st.sampled_from(
    [
        *(
            "on",
            "off",
            "nopass",
            "resetpass",
            "certonly",
            "reset",
            ">one",
            ">two",
            "<one",
            "<two",
            f"#{SHA}",
            f"!{SHA}",
        ),
        *(ARGON2, f"!{ARGON2}", "~a*", "~*", "resetkeys", "+@all", "-@all", "+get", "-@write", "&*", "resetchannels"),
    ]
)


@given(st.lists(RULES))
def test_line_of_any_user_makes_the_same_user(rules: list[str]) -> None:
    some = User(b"app")
    for rule in rules:
        try:
            some = some.changed([rule])
        except RuleError:
            continue
        assert sum((some.nopass, some.certonly, bool(some.secrets))) <= 1
    words = some.line.split(" ")
    assert User(words[1].encode()).changed(words[2:]) == some


ADMINISTRATOR = "on >s3cret +@all"


class TestTable:
    def test_default_user_without_password_requires_no_login(self) -> None:
        assert not Users([default_user()]).required
        for users in ([], [default_user(b"s3cret")], [user("off nopass", b"default")], [user("on nopass")]):
            assert Users(users).required

    def test_change_raises_the_version_and_calls_back_once(self) -> None:
        users = Users([default_user()])
        versions = []
        users.on_change.append(lambda: versions.append(users.version))
        users.set(user("on >one"))
        users.replace([default_user(), user("on >two")])
        assert users.remove([b"app", b"absent"]) == 1
        assert versions == [1, 2, 3]

    def test_change_to_the_same_is_no_change(self) -> None:
        users = Users([default_user()])
        users.set(default_user())
        users.replace([default_user()])
        assert users.remove([b"absent"]) == 0
        assert users.version == 0

    def test_users_are_in_the_order_of_their_names(self) -> None:
        users = Users([user("on", b"b"), user("on", b"a")])
        assert [one.name for one in users] == [b"a", b"b"]
        assert len(users) == 2
        assert users.get(b"c") is None

    def test_digest_depends_on_lines_and_not_on_their_order(self) -> None:
        one, two = user("on >one", b"a"), user("on >two", b"b")
        assert Users([one, two]).digest == Users([two, one]).digest
        assert Users([one, two]).digest != Users([one, user("on >three", b"b")]).digest
        assert len(Users().digest) == 64

    @pytest.mark.parametrize("reduced", ["off >s3cret +@all", "on >s3cret +@all -get", "on +@all"])
    def test_last_administrator_cannot_be_reduced(self, reduced: str) -> None:
        users = Users([user(ADMINISTRATOR), user("on >s3cret +@read", b"other")])
        with pytest.raises(UsersRefused, match="the last administrator cannot be"):
            users.set(user(reduced))
        with pytest.raises(UsersRefused, match="the last administrator cannot be"):
            users.replace([user(reduced)])
        assert (users.get(b"app"), users.version) == (user(ADMINISTRATOR), 0)

    def test_last_administrator_cannot_be_removed(self) -> None:
        users = Users([user(ADMINISTRATOR), user(ADMINISTRATOR, b"other")])
        assert users.remove([b"other"]) == 1
        with pytest.raises(UsersRefused, match="the last administrator cannot be"):
            users.remove([b"app"])
        assert len(users) == 1

    def test_table_without_administrator_accepts_changes(self) -> None:
        users = Users([user("on >s3cret +@read")])
        assert users.remove([b"app"]) == 1

    def test_number_of_users_is_limited(self) -> None:
        users = Users([User(b"%d" % number) for number in range(USERS_MAX)])
        with pytest.raises(UsersRefused, match="1,000"):
            users.set(User(b"more"))
