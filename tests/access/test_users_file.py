"""The users file: its format, its errors with lines, its modes, and changes that keep the other lines."""

import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.limits import USERS_FILE_MAX, USERS_MAX
from cairnkv.server.users_file import UsersFile, UsersFileError, edited, merged, parsed, read
from cairnkv.session.access.users import User, UsersRefused

HASH = "#" + "ab" * 32
ADMIN = f"user admin on {HASH} ~* &* +@all"
APP = f"user app on {HASH} ~app:* resetchannels -@all +@read"

CONTENT = f"""# people
{ADMIN}

#user old on nopass ~* &* +@all
# services
  user   app\ton {HASH}  ~app:* +@read\t
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A users file with two users."""
    path = tmp_path / "users.acl"
    path.write_text(CONTENT)
    path.chmod(0o600)
    return path


def names(users: list[User]) -> list[bytes]:
    return [user.name for user in users]


class TestFormat:
    def test_comments_and_empty_lines_are_skipped(self, file: Path) -> None:
        assert [user.line for user in read(file)] == [ADMIN, APP]

    def test_windows_line_ends_are_accepted(self) -> None:
        assert names(parsed(b"user a on\r\nuser b on\r\n", Path("f"))) == [b"a", b"b"]

    def test_separators_of_unicode_separate_nothing(self) -> None:
        line = "user a on ~x\x85\u2028\x1cy:* +get"
        (user,) = parsed(line.encode("utf-8", "surrogateescape"), Path("f"))
        assert user.rights.read == ("x\x85\u2028\x1cy:".encode(),)

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("admin on", "a line should start with the word user and a name, or with # for a comment"),
            ("user", "a line should start with the word user and a name"),
            ("USER app on", "a line should start with the word user"),
            ("user admin on", "there are two lines of the user 'admin'"),
            ("user x +nothing", "Error in applying operation '+nothing': Unknown command or category name in ACL"),
            ("user x ~a", "a pattern must be a prefix with a final *"),
            ("user x on #abc", "The password hash must be exactly 64 characters"),
            ("user x (~a*)", "there are no selectors here"),
            ("user " + "x" * 129, "a user's name has 1 to 128 bytes here"),
        ],
    )
    def test_error_names_the_line(self, file: Path, line: str, text: str) -> None:
        file.write_text(f"{ADMIN}\n# comment\n{line}\n{APP}\n")
        with pytest.raises(UsersFileError) as caught:
            read(file)
        assert str(caught.value).startswith(f"{file}:3: ")
        assert text in str(caught.value)

    @pytest.mark.parametrize("rule", ["s3cret", "<s3cret"])
    def test_error_shows_no_secret(self, file: Path, rule: str) -> None:
        file.write_text(f"user x on {rule}\n")
        with pytest.raises(UsersFileError) as caught:
            read(file)
        assert "s3cret" not in str(caught.value)

    def test_number_of_users_is_limited(self) -> None:
        most = b"".join(b"user %d off\n" % number for number in range(USERS_MAX))
        assert len(parsed(most, Path("f"))) == USERS_MAX
        with pytest.raises(UsersFileError, match="at most 1,000"):
            parsed(most + b"user more off\n", Path("f"))


class TestAccess:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
    def test_file_that_others_can_use_is_refused(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        with pytest.raises(UsersFileError, match=rf"mode {mode:04o}: .*chmod 600"):
            read(file)

    def test_missing_file_is_an_error_with_a_hint(self, tmp_path: Path) -> None:
        with pytest.raises(UsersFileError, match="No such file or directory; `cairn user add` makes it"):
            read(tmp_path / "absent")

    def test_pipe_and_directory_are_no_users_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(UsersFileError, match="no regular file"):
            read(tmp_path / "pipe")
        with pytest.raises(UsersFileError, match="no regular file"):
            read(tmp_path)

    def test_large_file_is_refused(self, file: Path) -> None:
        with file.open("r+b") as opened:
            opened.truncate(USERS_FILE_MAX + 1)
        with pytest.raises(UsersFileError, match="more than 16,777,216 bytes"):
            read(file)


class TestChanges:
    def test_change_keeps_comments_and_other_lines(self, file: Path) -> None:
        with edited(file) as users:
            users[b"app"] = users[b"app"].changed(["off"])
            users[b"new"] = User(b"new")
        expected = CONTENT.splitlines()
        expected[-1] = APP.replace(" on ", " off ")
        expected.append("user new off resetchannels -@all")
        assert file.read_text().splitlines() == expected

    def test_change_keeps_the_mode_and_leaves_no_other_file(self, file: Path) -> None:
        with edited(file) as users:
            users[b"new"] = User(b"new")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(file.parent.iterdir()) == [file]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_change_by_root_keeps_the_owner(self, file: Path) -> None:
        os.chown(file, 12_345, 12_346)
        with edited(file) as users:
            users[b"new"] = User(b"new")
        status = file.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12_345, 12_346, 0o600)

    def test_no_change_keeps_every_byte(self, file: Path) -> None:
        with edited(file):
            pass
        assert file.read_text() == CONTENT

    def test_error_during_a_change_changes_nothing(self, file: Path) -> None:
        def change() -> None:
            with edited(file) as users:
                users.clear()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            change()
        assert file.read_text() == CONTENT

    def test_last_administrator_stays(self, file: Path) -> None:
        with pytest.raises(UsersRefused, match="the last administrator"), edited(file) as users:
            del users[b"admin"]
        assert file.read_text() == CONTENT

    def test_new_file_is_private(self, tmp_path: Path) -> None:
        path = tmp_path / "new.acl"
        with pytest.raises(UsersFileError, match="No such file"), edited(path):
            pass
        with edited(path, create=True) as users:
            users[b"a"] = User(b"a")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names(read(path)) == [b"a"]

    def test_symbolic_link_stays(self, file: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.acl"
        link.symlink_to(file)
        with edited(link) as users:
            users[b"new"] = User(b"new")
        assert link.is_symlink()
        assert b"new" in names(read(file))

    def test_two_changes_at_a_time_are_refused(self, file: Path) -> None:
        with edited(file) as users:
            with pytest.raises(UsersFileError, match="another process changes"), edited(file):
                pass
            users[b"new"] = User(b"new")
        assert b"new" in names(read(file))

    def test_file_that_cannot_be_written_is_an_error(self, file: Path) -> None:
        moved = file.with_name("elsewhere")

        def change() -> None:
            with edited(file) as users:
                users[b"new"] = User(b"new")
                file.rename(moved)

        with pytest.raises(UsersFileError, match="cannot write the users file"):
            change()
        assert moved.read_text() == CONTENT


def loaded(opened: UsersFile) -> dict[bytes, User]:
    users: list[User] = []
    opened.load(users.extend)
    return {user.name: user for user in users}


class TestLoadAndSave:
    def test_saved_users_are_read_again(self, file: Path) -> None:
        opened = UsersFile(file)
        users = loaded(opened)
        users[b"app"] = users[b"app"].changed(["+@write"])
        opened.save(users.values())
        assert "# services" in file.read_text()
        assert loaded(UsersFile(file)) == users
        opened.save(users.values())

    def test_file_changed_by_others_is_not_overwritten(self, file: Path) -> None:
        opened = UsersFile(file)
        users = loaded(opened).values()
        with edited(file) as other:
            other[b"new"] = User(b"new")
        with pytest.raises(UsersFileError, match="has changed since it was loaded"):
            opened.save(users)
        assert b"new" in loaded(opened)
        opened.save(users)
        assert b"new" not in names(read(file))


WORDS = st.sampled_from(
    [b"user", b" ", b"\n", b"#", b"\t", b"\r", b"a", b"on", b">x", b"~a*", b"%R~", b"+@all", b"(", b"!"]
)


def refusal(content: bytes) -> str | None:
    try:
        users = parsed(content, Path("f"))
    except UsersFileError as error:
        return str(error)
    assert len(users) == len(set(names(users)))
    return None


@given(st.one_of(st.binary(max_size=60), st.lists(WORDS, max_size=30).map(b"".join)))
def test_any_content_is_read_or_refused_with_a_line(content: bytes) -> None:
    text = refusal(content)
    assert text is None or re.match(r"f:[1-9][0-9]*: ", text)


USERS = st.lists(
    st.builds(
        lambda name, rules: User(name).changed(rules),
        st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", "\u00e9\x85".encode()]),
        st.lists(st.sampled_from(["on", "nopass", ">x", "~a*", "~\udcff*", "+@all", "-get", "&\x85*"]), unique=True),
    ),
    unique_by=lambda user: user.name,
)
COMMENTS = st.lists(st.sampled_from(["", "# note", "#user a on nopass", "   "]), max_size=3)


@given(USERS, USERS, COMMENTS)
def test_merged_file_has_exactly_the_new_users(before: list[User], after: list[User], comments: list[str]) -> None:
    lines = [*comments, *(user.line for user in before)]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    made = merged(text, after, Path("f"))
    assert {user.name: user for user in parsed(made, Path("f"))} == {user.name: user for user in after}
    assert made == merged(made, after, Path("f"))
    for comment in comments:
        assert not comment.startswith("#") or comment.encode() in made.split(b"\n")
