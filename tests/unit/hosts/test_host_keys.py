"""known_hosts as OpenSSH reads it: whoever is trusted by a line, and by no damaged one."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import paramiko
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vcloud.hosts.host_keys import known_keys

KIND = "ssh-ed25519"
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGbY0sBqUZc0cQ1PSh0gXcCE0qU2oRTzYgXQzZ9uBvY1"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIBbY0sBqUZc0cQ1PSh0gXcCE0qU2oRTzYgXQzZ9uBvY1"
DAMAGED = (
    f"@revoked h1 {KIND} {OTHER}",
    f"@cert-authority *.example {KIND} {KEY}",
    f"@unknown h1 {KIND} {OTHER}",
    "@revoked",
    f"|1|{KIND} {KEY}",
    f"|1|x|y {KIND} {KEY}",
    f"|1|AAAA|AAAA {KIND} {KEY}",
    f"|1||| {KIND} {KEY}",
    f"h1 {KIND} {KEY[:-5]}",
    f"h1 {KIND} ?",
    f"h1 ssh-rsa {OTHER}",
    f"h1 ssh-rsa {'A' * 4000}",
    f"h1 nonsense {OTHER}",
    "h1 1024 35 1234567890",
    f"!h1,* {KIND} {OTHER}",
    f"# h1 {KIND} {OTHER}",
    f"#h1 {KIND} {OTHER}",
    "h1",
    "\0\0\0",
    "\udcff\udcfe",
    "h1 " * 10_000,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


def keys(file: Path, text: str, name: str = "h1") -> list[str]:
    file.write_bytes(text.encode(errors="surrogateescape"))
    return [key.get_base64() for key in known_keys((file,), name).keys.values()]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_line_that_trusts_nobody_neither_fails_nor_hides_another(file: Path, line: str) -> None:
    assert keys(file, f"{line}\n") == []
    assert keys(file, f"{line}\nh1 {KIND} {KEY} a comment\n{line}\n") == [KEY]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("h1", "h1"),
        ("h0,h1", "h1"),
        ("H1", "h1"),
        ("h?", "h1"),
        ("*", "h1"),
        ("*.example,!h2.example", "h1.example"),
        ("[h1]:23", "[h1]:23"),
        ("192.0.2.*", "192.0.2.1"),
    ],
)
def test_a_name_may_be_a_pattern(file: Path, pattern: str, name: str) -> None:
    assert keys(file, f"{pattern}\t{KIND}  {KEY}\n", name) == [KEY]
    assert keys(file, f"{pattern}\t{KIND}  {KEY}\n", "[elsewhere]:7") == (
        [KEY] if pattern == "*" else []
    )


def test_a_name_may_be_hashed_as_ssh_keygen_does_it(file: Path) -> None:
    keys(file, f"h1 {KIND} {KEY}\n[h1]:23 {KIND} {OTHER}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    hashed = file.read_text()
    assert [line[:3] for line in hashed.splitlines()] == ["|1|", "|1|"]
    # The letters of the name alone may stand in a hash by chance. A hash ends with `=`.
    assert "h1 " not in hashed
    assert "[h1]" not in hashed
    assert keys(file, hashed) == [KEY]
    assert keys(file, hashed, "[h1]:23") == [OTHER]
    assert keys(file, hashed, "h2") == []


def test_a_revoked_key_is_trusted_by_no_line(file: Path) -> None:
    assert keys(file, f"h1 {KIND} {KEY}\n@revoked * {KIND} {KEY}\n") == []
    assert keys(file, f"h1 {KIND} {KEY}\n@revoked h2 {KIND} {KEY}\n") == [KEY]
    assert keys(file, f"h1 {KIND} {KEY}\n@revoked * {KIND} {OTHER}\n") == [KEY]


def test_of_two_keys_of_a_type_the_first_counts(file: Path) -> None:
    assert keys(file, f"h1 {KIND} {KEY}\nh1 {KIND} {OTHER}\n") == [KEY]


def test_an_unknown_key_is_refused_and_nothing_is_written(file: Path) -> None:
    file.write_text(f"@revoked * {KIND} {KEY}\n@cert-authority *.example {KIND} {OTHER}\n")
    before = file.read_bytes()
    client = paramiko.SSHClient()
    for name, key, said in (
        ("h1", paramiko.Ed25519Key(data=base64.b64decode(KEY)), "is a revoked host key"),
        ("h1", paramiko.Ed25519Key(data=base64.b64decode(OTHER)), "not found in known_hosts"),
        (
            "h1.example",
            paramiko.Ed25519Key(data=base64.b64decode(OTHER)),
            "not found in known_hosts",
        ),
    ):
        with pytest.raises(paramiko.SSHException, match=said):
            known_keys((file,), name).missing_host_key(client, name, key)
    assert file.read_bytes() == before


def test_files_that_are_not_there_are_empty(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    known = known_keys((tmp_path / "none", tmp_path / "folder"), "h1")
    assert (known.keys, known.revoked, known.authorities) == ({}, set(), False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_are_read(file: Path, written: bytes) -> None:
    file.write_bytes(written)
    known_keys((file,), "h1")
