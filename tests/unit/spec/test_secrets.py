"""Secrets come from outside the vApp file, stand in the content of files only, and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rendered import render_file
from tests.standing import manifest_of
from vcloud.apply.target import salt_for
from vcloud.compile.guest.cloudinit import seed_files
from vcloud.design.model import Design
from vcloud.documents.given import FromFile, Given
from vcloud.errors import SpecError
from vcloud.files import (
    SECRET_FOLDERS,
    SECRET_VARIABLES,
    Folder,
    beside,
    read_parameter_file,
)
from vcloud.pipeline import design_of, load_file
from vcloud.plan.formats import decoded, encoded
from vcloud.plan.manifest import Manifest, redacted
from vcloud.plan.reasons import identity
from vcloud.spec.load import parse_only_name, parse_vapp
from vcloud.spec.notes import notes

VAPP = """\
vcloud: 1
name: safe
parameters: {password: {secret: true}}
zones: {dmz: {}}
vms:
  web:
    image: nginx
    zone: dmz
    files: {/etc/secret: {content: "password = WHAT\\n", mode: '0600'}}
"""
SECRET = "correct-horse"


def text_with(reference: str) -> bytes:
    return VAPP.replace("WHAT", reference).encode()


def given(value: str | int = SECRET, *, others_read: bool = False) -> Given:
    return {"password": FromFile(value, "params.yaml", 1, others_read)}


def written_by(text: bytes, folder: Folder, parameters: Given | None = None) -> bytes:
    """What the guest finds in the file."""
    vapp = parse_vapp(text, folder, parameters=parameters or given())
    return vapp.vms["web"].files["/etc/secret"].content_bytes


def refusal(text: bytes, folder: Folder, parameters: Given | None = None) -> str:
    with pytest.raises(SpecError) as raised:
        parse_vapp(text, folder, parameters=parameters or given())
    assert SECRET not in str(raised.value)
    return str(raised.value)


def allowed(tmp_path: Path, **environment: str) -> Folder:
    return beside(tmp_path / "vapp.yaml", environment)


def test_a_variable_of_the_environment_is_read_only_where_the_operator_allows_it(
    tmp_path: Path,
) -> None:
    text = text_with("${env:DB_PASSWORD}")
    known = {"DB_PASSWORD": SECRET, SECRET_VARIABLES: "OTHER:DB_PASSWORD"}
    assert written_by(text, allowed(tmp_path, **known)) == f"password = {SECRET}\n".encode()
    assert "you have not allowed it" in refusal(text, allowed(tmp_path, DB_PASSWORD=SECRET))
    assert "is not set" in refusal(text, allowed(tmp_path, **{SECRET_VARIABLES: "DB_PASSWORD"}))
    known["DB_PASSWORD"] = f"{SECRET}\x1b"
    assert "cannot be used: the text contains the control character" in refusal(
        text, allowed(tmp_path, **known)
    )


def test_a_secret_file_lies_in_the_folder_or_where_the_operator_allows_it(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir()
        (folder / "key").write_text(f"{SECRET}\n")
    (home / "link").symlink_to(other / "key")
    near = beside(home / "vapp.yaml", {})
    wide = beside(home / "vapp.yaml", {SECRET_FOLDERS: str(other)})
    expected = f"password = {SECRET}\n".encode()
    assert written_by(text_with("${file:key}"), near) == expected, "without the end of its line"
    for reference in (f"${{file:{other}/key}}", "${file:../other/key}", "${file:link}"):
        assert "leads out of the folder" in refusal(text_with(reference), near)
        assert written_by(text_with(reference), wide) == expected
    assert "leads out of the folder" in refusal(text_with("${file:/etc/passwd}"), wide)
    assert "cannot be read: No such file" in refusal(text_with("${file:none}"), near)
    (home / "raw").write_bytes(b"\xff")
    assert "not UTF-8" in refusal(text_with("${file:raw}"), near)
    (home / "empty").write_bytes(b"\n")
    assert "is empty" in refusal(text_with("${file:empty}"), near)


def test_a_secret_parameter_comes_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    text, here = text_with("${password}"), Folder(tmp_path)
    file = tmp_path / "params.yaml"
    file.write_text(f"password: {SECRET}\n")
    file.chmod(0o600)
    assert SECRET.encode() in written_by(text, here, read_parameter_file(file))
    for mode in (0o640, 0o604):
        file.chmod(mode)
        said = refusal(text, here, read_parameter_file(file))
        assert f"{file}:1: password: this is a secret, and others may read this file" in said
    assert "can read a command line" in refusal(text, here, {"password": SECRET})
    assert "no value is given" in refusal(text, here, {"name": "x"})
    assert "a secret is text, and this is a number" in refusal(text, here, given(7))


@pytest.mark.parametrize("mark", ["*", "!", "0", "1234567890123456789", "{{"])
def test_a_value_that_yaml_reads_in_another_way_is_not_shown(tmp_path: Path, mark: str) -> None:
    """Passwords often begin with such characters, and messages get into logs."""
    file = tmp_path / "params.yaml"
    hidden = {"{{": "hush}}"}.get(mark, "4711" if mark.isdecimal() else "hush")
    file.write_text(f"password: {mark}{hidden}\n")
    with pytest.raises(SpecError) as raised:
        read_parameter_file(file)
    assert f"{file}:1: password: " in str(raised.value)
    assert hidden.strip("}") not in str(raised.value).replace(str(file), "")
    file.write_text(f"password: '{mark}{hidden}'\n")
    assert read_parameter_file(file)["password"].value == f"{mark}{hidden}"


def test_a_parameter_file_sets_parameters_of_their_types(tmp_path: Path) -> None:
    text = VAPP.replace("{secret: true}}", "text, n: 1, on: true}").replace("WHAT", "${n} ${on}")
    text = text.replace("on:", "up:").replace("${on}", "${up}")
    file = tmp_path / "params.yaml"
    file.write_text("n: 3\nup: false\n")
    file.chmod(0o644)
    found = written_by(text.encode(), Folder(tmp_path), read_parameter_file(file))
    assert found == b"password = 3 false\n", "it holds no secret, so others may read it"
    file.write_text("n: three\nup: 1\npasword: x\n")
    said = refusal(text.encode(), Folder(tmp_path), read_parameter_file(file))
    assert f"{file}:1: n: this is text, and the parameter is a number" in said
    assert f"{file}:2: up: this is a number, and the parameter is true or false" in said
    assert f"{file}:3: pasword: the file has no such parameter" in said
    file.write_text("n: [1]\n")
    with pytest.raises(SpecError, match="this is a list"):
        read_parameter_file(file)


def test_only_the_content_of_a_file_can_hold_a_secret(tmp_path: Path) -> None:
    folder = allowed(tmp_path, **{"T": SECRET, SECRET_VARIABLES: "T"})
    for place in (
        b"owner: '${env:T}'\n",
        b"labels: {a: '${password}'}\n",
        b"flows: [{from: internet, to: web, service: tcp/80, why: '${env:T}'}]\n",
    ):
        assert "cannot stand here" in refusal(text_with("x") + place, folder)
    for line in (
        b"run: 'login ${env:T}'",
        b"ready: {command: 'a ${password}'}",
        b"memory: '${env:T}'",
    ):
        text = text_with("x").replace(b"zone: dmz", b"zone: dmz\n    " + line)
        assert "cannot stand here" in refusal(text, folder)
    for part in (b"run: '${env:T}'", b"owner: '${env:T}'", b"reload: {'a/b': '${env:T}'}"):
        text = text_with("x").replace(b"mode:", part + b", mode:")
        assert "cannot stand here" in refusal(text, folder)


def test_what_needs_no_secret_reads_none(tmp_path: Path) -> None:
    text = text_with("${env:T} ${file:key} ${password}")
    (tmp_path / "vapp.yaml").write_bytes(text)
    assert parse_only_name(text, "vapp.yaml") == "safe"
    vapp = load_file(tmp_path / "vapp.yaml", {}, secrets=False)
    content = vapp.vms["web"].files["/etc/secret"].content_bytes
    assert content == b"password = (secret) (secret) (secret)\n"
    with pytest.raises(SpecError):
        load_file(tmp_path / "vapp.yaml", {})


def test_rendered_files_show_no_secret(tmp_path: Path) -> None:
    (tmp_path / "vapp.yaml").write_bytes(text_with("${file:key}"))
    (tmp_path / "key").write_text(SECRET)
    render_file(tmp_path / "vapp.yaml", tmp_path / "out")
    found = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found
    assert not any(SECRET.encode() in content for content in found)


def secret_design(tmp_path: Path, value: str = SECRET) -> Design:
    return design_of(
        parse_vapp(text_with("${password}"), Folder(tmp_path), parameters=given(value))
    )


def test_a_manifest_holds_only_salted_digests_of_secrets(tmp_path: Path) -> None:
    design = secret_design(tmp_path)
    one, other = (manifest_of(design, salt=salt) for salt in ("one", "other"))
    assert manifest_of(design, salt="one") == one
    files = [found.design.workloads[0].files[0].content for found in (one, other)]
    assert files[0] != files[1]
    assert all(file.startswith(b"salted:") for file in files)
    digests = [found.digests_of("web") for found in (one, other)]
    assert digests[0] != digests[1]
    assert {found.root for found in digests if found} == {digests[0].root if digests[0] else ""}
    assert decoded(*encoded(one)) == one
    with pytest.raises(ValueError, match="salt"):
        redacted(design)


def test_a_seed_disk_names_no_digest_by_which_a_secret_can_be_guessed(tmp_path: Path) -> None:
    (tmp_path / "own.qcow2").write_bytes(b"")
    for reference, differ in (("${password}", True), ("x", False)):
        text = text_with(reference).replace(b"image: nginx", b"image: own.qcow2")
        design = design_of(parse_vapp(text, Folder(tmp_path), parameters=given()))
        seeds = [seed_files(design, design.workloads[0], None, salt) for salt in ("", "one", "two")]
        assert len({seed["meta-data"] for seed in seeds}) == (3 if differ else 1)
        assert len({seed["user-data"] for seed in seeds}) == 1


def test_a_changed_secret_is_named_by_its_file_only(tmp_path: Path) -> None:
    before, after = (
        manifest_of(secret_design(tmp_path, value), salt="one") for value in (SECRET, "another")
    )
    vm = after.vm("web")
    assert vm is not None
    assert identity(vm, after, before) == "files: /etc/secret"


def test_a_vapp_gets_a_salt_once_it_has_a_secret(tmp_path: Path) -> None:
    plain = design_of(parse_vapp(text_with("x"), Folder(tmp_path), parameters=given()))
    secret = secret_design(tmp_path)
    assert salt_for(plain, None) == ""
    fresh = salt_for(secret, None)
    assert len(fresh) == 32
    assert fresh != salt_for(secret, None)
    have: Manifest = manifest_of(secret, salt=fresh)
    assert salt_for(secret, have) == salt_for(plain, have) == fresh


def test_a_note_tells_of_a_secret_that_every_user_of_the_guest_reads(tmp_path: Path) -> None:
    open_text = text_with("${password}").replace(b", mode: '0600'", b"")
    said = [
        str(note)
        for text in (open_text, text_with("${password}"), text_with("x").replace(b"0600", b"0644"))
        for note in notes(parse_vapp(text, Folder(tmp_path), parameters=given()))
    ]
    assert len(said) == 1
    assert "every user of the guest may read it" in said[0]
