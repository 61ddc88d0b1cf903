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
    "iso27001-2022.yaml": "8f56770729caafc82677a650b1ef40af3b91b87169e712c7b1f0f36421c745ca",
    "nist-800-53-5.1.1.yaml": "66dd217f88d0e637ce9ecff2e8dac3627ca80c947c9978259c0a77db3dd1a30e",
    "pci-dss-3.2.1.yaml": "37bd974a9faf2be365dea98c0d53cd978641d7d15e56877d67239522fd316fd4",
    "pci-dss-4.0.1.yaml": "081d7c01606a0d80415b097dc1c3969896984914412c702936fa1017dfa5b5b7",
    "pci-dss-4.0.yaml": "1cfedfd953d0092b9c06b27f08bd349fcf9cd55fa4a34dfb3234cde20196670d",
}
"""File -> its SHA-256. A version that was shipped is never edited: write another one."""
PROFILES = [profile for versions in shipped().values() for profile in versions]


def test_a_shipped_version_never_changes() -> None:
    assert {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_profiles()
    } == DIGESTS


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_enforced_controls_need_what_this_release_can_do(profile: Profile) -> None:
    for control in profile.controls:
        if control.status is Status.ENFORCED:
            assert {*control.needs} <= {*CAPABILITIES}, control.id
            assert control.evidence, control.id


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


def test_the_profile_that_the_readme_shows_is_a_profile() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (shown,) = re.findall(r"```yaml\n(profile: .*?)```", text, re.DOTALL)
    profile = parse_profile(shown.encode(), "README.md")
    assert (profile.label, profile.extends) == ("corp-baseline@3", "pci-dss")
