"""A compose file becomes a valid vApp file, and what is not in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vcloud.cli.app import app
from vcloud.errors import SpecError, UsageError
from vcloud.files import Folder
from vcloud.imports import Imported, import_compose, told
from vcloud.spec.load import parse_vapp
from vcloud.spec.model import Vapp

COMPOSE = """\
name: Blog_1
services:
  web:
    image: docker.io/library/nginx:1.25
    ports: ["8080:80", {target: 443, published: "8443"}, "127.0.0.1:9000:9000"]
    volumes: [./site.conf:/etc/nginx/conf.d/site.conf:ro, ./html:/usr/share/nginx/html]
    depends_on: [app_server, db]
    networks: [front, back]
    restart: always
  app_server:
    image: wordpress:6
    environment: {DB_PASSWORD: hush-hush}
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
    expose: ["9000"]
    deploy: {replicas: 2, resources: {limits: {cpus: "1.5", memory: 512M}}}
  db:
    image: postgres:16
    volumes: [db-data:/var/lib/postgresql/data]
    networks: [back]
    mem_limit: 1g
networks: {front: {}, back: {}}
volumes: {db-data: {}}
secrets: {key: {file: ./key}}
"""


def imported(text: str = COMPOSE, *files: str) -> tuple[Vapp, Imported]:
    made = import_compose(text.encode(), "compose.yaml", "folder", lambda path: path in files)
    return parse_vapp(made.text.encode(), Folder(Path("/nonexistent"))), made


def test_what_can_be_taken_over_makes_a_valid_file() -> None:
    vapp, _ = imported()
    assert vapp.name == "blog-1"
    assert list(vapp.zones) == ["front", "back"]
    web, server, db = vapp.vms.values()
    assert list(vapp.vms) == ["web", "app-server", "db"]
    assert (web.image.recipe, server.image.recipe, db.image.recipe) == ("nginx", "base", "postgres")
    assert (web.zones, web.after) == (("front", "back"), ("app-server", "db"))
    assert (server.count, server.cpus, server.memory) == (2, 2, 512 << 20)
    assert (db.memory, list(db.disks)) == (1 << 30, ["data"])
    flows = [
        (flow.source, flow.target, [*map(str, flow.services)], [*map(str, flow.published)])
        for flow in vapp.flows
    ]
    assert flows == [
        ("internet", "web", ["tcp/80"], ["tcp/8080"]),
        ("internet", "web", ["tcp/443"], ["tcp/8443"]),
        ("web", "app-server", ["tcp/9000"], []),
        ("web", "db", ["tcp/5432"], []),
        ("app-server", "db", ["tcp/5432"], []),
    ]


def test_what_is_left_is_named_with_its_line_and_without_its_value() -> None:
    _, made = imported()
    said = "\n".join(told(made.left))
    for line, path in (
        (4, "services.web.image: the version is left out"),
        (5, "services.web.ports[2]: left out: it is published for some clients only"),
        (6, "services.web.volumes[1]: a folder of this machine"),
        (9, "services.web.restart: left out"),
        (11, "services.app_server.image: no recipe is called 'wordpress'"),
        (12, "services.app_server.environment: left out"),
        (19, "services.db.volumes[0]: its disk gets 10G"),
        (24, "secrets: left out"),
    ):
        assert f"compose.yaml:{line}: {path}" in said
    assert "hush-hush" not in said + made.text


def test_a_file_of_the_folder_is_taken_over(tmp_path: Path) -> None:
    made = import_compose(COMPOSE.encode(), "c", "x", lambda path: path == "site.conf")
    (tmp_path / "site.conf").write_text("server {}\n")
    vapp = parse_vapp(made.text.encode(), Folder(tmp_path))
    assert vapp.vms["web"].files["/etc/nginx/conf.d/site.conf"].content_bytes == b"server {}\n"


def test_names_that_clash_or_are_reserved_are_made_fit() -> None:
    text = "services: {Web: {image: nginx, ports: ['1:1', '2:1']}, web_: {image: nginx}, host: {image: nginx}, '9a': {}}\n"
    text = text.replace("ports:", "networks: [web], ports:")
    vapp, _ = imported(text)
    assert list(vapp.vms) == ["web", "web-2", "host-vm", "x9a"]
    assert [flow.target for flow in vapp.flows] == ["vm:web", "vm:web"], "a zone is called web, too"
    assert vapp.name == "folder"


def test_two_networks_never_become_one_zone() -> None:
    text = """\
services:
  a: {image: nginx, networks: [front.end]}
  b: {image: nginx, networks: [front-end]}
  c: {image: nginx}
  d: {image: nginx, networks: [app, default]}
"""
    vapp, _ = imported(text)
    assert list(vapp.zones) == ["front-end", "front-end-2", "app", "app-2"]
    zones = [vm.zones for vm in vapp.vms.values()]
    assert zones == [("front-end",), ("front-end-2",), ("app",), ("app-2", "app")]


def test_no_flow_joins_services_that_compose_keeps_apart() -> None:
    text = """\
services:
  web: {image: nginx, networks: [front], depends_on: [db]}
  db: {image: postgres, networks: [back]}
"""
    vapp, made = imported(text)
    assert vapp.flows == ()
    assert "services.web.depends_on: it has no network with 'db'" in "\n".join(told(made.left))
    vapp, _ = imported(text.replace("[back]", "[back, front]"))
    assert [(flow.source, flow.target) for flow in vapp.flows] == [("web", "db")]


def test_no_volume_is_lost() -> None:
    text = """\
services:
  web: {image: nginx, volumes: [/var/a, /var/b, "v_1:/c", "v-1:/d"]}
  db: {image: postgres, volumes: ["one:/var/lib/postgresql/data", "two:/srv"]}
"""
    vapp, made = imported(text)
    disks = {name: disk.mount for name, disk in vapp.vms["web"].disks.items()}
    assert disks == {"data": "/var/a", "data-2": "/var/b", "v-1": "/c", "v-1-2": "/d"}
    assert list(vapp.vms["db"].disks) == ["data"]
    assert "volumes[1]: left out; the recipe postgres has one disk" in "\n".join(told(made.left))


@pytest.mark.parametrize(
    ("written", "cpus"), [("'nan'", 1), ("'-inf'", 1), ("1e400", 1), ("1.5", 2), ("1e9", 64)]
)
def test_a_number_that_is_none_is_left(written: str, cpus: int) -> None:
    text = f"services: {{web: {{image: nginx, cpus: {written}}}}}\n"
    assert imported(text)[0].vms["web"].cpus == cpus


def test_a_path_that_no_file_can_have_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for source, names in ((r"./a\0b", []), ("./a", ["/etc/x"])):
        (tmp_path / "c.yaml").write_text(
            f'services: {{web: {{image: nginx, volumes: ["{source}:/etc/x"]}}}}\n'
        )
        done = CliRunner().invoke(app, ["import", str(tmp_path / "c.yaml")])
        assert done.exit_code == 0
        vapp = parse_vapp(done.stdout.encode(), Folder(tmp_path))
        assert list(vapp.vms["web"].files) == names


@pytest.mark.parametrize("text", ["vcloud: 1\n", "services: []\n", "services: {a: [}\n"])
def test_what_is_no_compose_file_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        imported(text)


def test_the_command_writes_no_file_over_another(tmp_path: Path) -> None:
    compose, out, outside = (tmp_path / name for name in ("compose.yaml", "out.yaml", "outside"))
    compose.write_text(COMPOSE)
    outside.write_text("secret")
    (tmp_path / "site.conf").symlink_to("/etc/hostname")
    done = CliRunner().invoke(app, ["import", str(compose)])
    assert done.exit_code == 0
    assert "site.conf" not in done.stdout.replace(str(compose), ""), "it leads out of the folder"
    assert "environment" in done.stderr
    assert CliRunner().invoke(app, ["import", str(compose), "--out", str(out)]).exit_code == 0
    assert out.read_text() == done.stdout
    again = CliRunner().invoke(app, ["import", str(compose), "--out", str(out)])
    assert isinstance(again.exception, UsageError)
    assert "exists already" in str(again.exception)
