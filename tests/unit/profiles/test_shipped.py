"""The shipped profiles: they never change, and say all that a profile must say."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from vcloud.data import shipped_profiles
from vcloud.profile_files import shipped
from vcloud.profiles.difference import control_changes
from vcloud.profiles.model import CAPABILITIES, Profile, Status
from vcloud.profiles.written import parse_profile

DIGESTS = {
    "cis-v8-8.0.yaml": "3d51013944f658ff63389b2dd7d54aec5a72f9165773b66d4af9bee14151ee0e",
    "hipaa-2013.yaml": "0cee9202e62253b6834c182576aabf8394864f48736465e4053c95cdbab4f67c",
    "hipaa-nprm-2025.yaml": "a9a4b45e478158f41c9fdc3215fc568716b27eabbab3815fb1cae0c07b078124",
    "iso27001-2013.yaml": "3f3d5b5994b30cdf2eb4ce8be29508d2ca65e9c00734f6e752cd702af85f403f",
    "iso27001-2022.yaml": "3698b03021fb481d528d08a1a1b8c36ddcdf9a057ece55ea872156bb83c9cf60",
    "nist-800-53-5.1.1.yaml": "5e4a516c880393d26eed12200d2486292d1e6f93f518455a5e7a21f7b6315686",
    "pci-dss-3.2.1.yaml": "f16ebcc559393a9a118d6655cf7ecafae12f67d37c6c4e1e9e0d1b29a9142e1b",
    "pci-dss-4.0.1.yaml": "506af33f81b377df0a3a684d0a56856def2fa260ac150d307dec28c95be5fce1",
    "pci-dss-4.0.yaml": "4621a25c7c56146caf5d4bd77ff794ef05555d53c66e17e8d1fe911f25d83232",
}
"""File -> its SHA-256. A version that was shipped is never edited: write another one."""
COVERED = {
    "pci-dss@3.2.1": """1.1.2 1.1.3 1.1.6 1.1.7 1.2.1 1.2.2 1.2.3 1.3.1 1.3.2 1.3.3 1.3.4 1.3.5 1.3.6
        1.3.7 1.4 2.2.1 2.2.2 2.3 4.1 6.6 10.3 10.4 10.5 10.7 10.8 11.3.4 11.4 11.5 A1.1 A1.2 A1.3
        A1.4 A3.2.6""",
    "pci-dss@4.0.1": """1.2.1 1.2.3 1.2.4 1.2.5 1.2.6 1.2.7 1.2.8 1.3.1 1.3.2 1.3.3 1.4.1 1.4.2 1.4.3
        1.4.4 1.4.5 1.5.1 2.2.3 2.2.4 2.2.5 2.2.7 3.3.1 3.4.2 3.5.1.2 4.2.1 4.2.1.1 6.4.1 6.4.2 10.2.2
        10.3.2 10.3.3 10.3.4 10.4.1.1 10.5.1 10.6.1 10.6.2 10.6.3 10.7.2 11.4.5 11.4.6 11.5.1 11.5.1.1
        11.5.2 A1.1.1 A1.1.2 A1.1.3 A1.1.4 A1.2.1 A1.2.2 A1.2.3 A3.2.6""",
    "hipaa@2013": """164.312(a)(1) 164.312(a)(2)(i) 164.312(a)(2)(ii) 164.312(a)(2)(iii)
        164.312(a)(2)(iv) 164.312(b) 164.312(c)(1) 164.312(c)(2) 164.312(d) 164.312(e)(1)
        164.312(e)(2)(i) 164.312(e)(2)(ii)""",
    "hipaa@nprm-2025": """164.312(a)(1) 164.312(a)(2)(vi) 164.312(b) 164.312(c)(2)(iii)
        164.312(c)(2)(iv) 164.312(g) 164.308(a)(1)""",
    "nist-800-53@5.1.1": """AC-4 AC-4(4) AC-4(21) AC-4(26) SC-7 SC-7(3) SC-7(4) SC-7(5) SC-7(8) SC-7(9)
        SC-7(10) SC-7(11) SC-7(13) SC-7(15) SC-7(17) SC-7(18) SC-7(20) SC-7(21) SC-7(22) SC-7(28)
        SC-7(29) SC-4 SC-39 SC-5 SC-8(1) SI-4 SI-4(4) SI-4(5) SI-4(10) SI-4(18) SI-4(22) AU-2 AU-3 AU-8
        AU-9 AU-10 AU-11 AU-12 CM-2 CM-2(2) CM-2(3) CM-3 CM-6 CA-7 SI-7(1)""",
    "iso27001@2013": "A.9.1.2 A.10.1.1 A.10.1.2 A.12.4.1 A.12.4.2 A.13.1.1 A.13.1.2 A.13.1.3",
    "iso27001@2022": "A.8.9 A.8.11 A.8.12 A.8.16 A.8.20 A.8.21 A.8.22 A.8.23 A.8.24",
    "cis-v8@8.0": """3.8 3.10 3.12 3.13 4.2 4.4 4.8 4.9 8.2 8.3 8.9 8.10 9.2 12.2 13.3 13.4 13.8
        13.10""",
}
"""Version -> the controls that are about what vcloud does: networks, data on its way, their evidence.
It says of each one what it does, or why it does nothing.
"""
PARTLY = {
    "pci-dss@3.2.1": {"2.2.1", "4.1"},
    "pci-dss@4.0": {"2.2.3", "4.2.1", "6.4.2"},
    "pci-dss@4.0.1": {"2.2.3", "4.2.1", "6.4.2"},
    "hipaa@nprm-2025": {"164.312(b)"},
    "iso27001@2013": {"A.10.1.1"},
    "iso27001@2022": {"A.8.24"},
}
"""Version -> its controls that ask for more than vcloud holds: certificates, learning an application,
the function of each machine, keys. They are never told as enforced.
"""
PROFILES = [profile for versions in shipped().values() for profile in versions]


def test_a_shipped_version_never_changes() -> None:
    assert {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_profiles()
    } == DIGESTS


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_controls_with_demands_need_what_this_release_can_do(profile: Profile) -> None:
    for control in profile.controls:
        if control.demands:
            assert {*control.needs} <= {*CAPABILITIES}, control.id
            assert control.evidence, control.id


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_each_control_about_networks_is_covered(profile: Profile) -> None:
    known = {one.id: one.status for one in profile.controls}
    for name in COVERED.get(profile.label, COVERED["pci-dss@4.0.1"]).split():
        assert known[name] is not Status.NOT_COVERED, name


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_what_is_held_in_part_is_not_told_as_enforced(profile: Profile) -> None:
    partly = {
        one.id for one in profile.controls if one.demands and one.status is not Status.ENFORCED
    }
    assert partly == PARTLY.get(profile.label, set())
    assert all(one.reason for one in profile.controls if one.id in partly)


@pytest.mark.parametrize(("version", "controls"), [("2013", 114), ("2022", 93)])
def test_all_controls_of_an_annex_are_listed(version: str, controls: int) -> None:
    (profile,) = (one for one in shipped()["iso27001"] if one.version == version)
    assert len(profile.controls) == controls


@pytest.mark.parametrize("path", shipped_profiles(), ids=lambda path: path.name)
def test_no_profile_promises_what_no_program_can(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"complian|certif(?:y|ied) ", text, re.IGNORECASE)


def test_4_0_and_4_0_1_differ_in_no_control() -> None:
    by_version = {one.version: one for one in shipped()["pci-dss"]}
    assert control_changes(by_version["4.0"], by_version["4.0.1"]) == ()
    changes = control_changes(by_version["3.2.1"], by_version["4.0"])
    assert {"1.3.4", "1.2.5", "6.4.2"} <= {one.id for one in changes}


def test_what_a_check_proves_is_a_detector_or_a_control_that_exists() -> None:
    """A wrong id in proved_by would be evidence of nothing."""
    known = {
        "ctl:default-deny",
        "ctl:not-internet",
        "ctl:antispoof",
        "ctl:mac-filter",
        "ctl:no-host-address",
        "ctl:forged-error",
        "ctl:firewall",
        "ctl:ips",
        "own",
        "flow:*",
        "detector:*",
        "rule:*",
    }
    for profile in PROFILES:
        ids = {f"detector:{profile.ref(one).stable_id}" for one in profile.controls}
        for control in profile.controls:
            for proof in control.proved_by:
                assert proof in known | ids or re.fullmatch("rule:[0-9]{7}", proof), (
                    profile.label,
                    control.id,
                    proof,
                )


def test_the_profile_that_the_page_shows_is_a_profile() -> None:
    text = (Path(__file__).parents[3] / "docs/profiles.md").read_text()
    (shown,) = re.findall(r"```yaml\n(profile: .*?)```", text, re.DOTALL)
    profile = parse_profile(shown.encode(), "docs/profiles.md")
    assert (profile.label, profile.extends) == ("corp-baseline@3", "pci-dss")
