"""How two lists of packages differ, and how that is told."""

from __future__ import annotations

from vcloud.packages import PackageChange, package_changes, packages_digest, told

OLD = ("bash=5.2-1", "gone=1", "libc6=2.41-1", "openssl=3.5.1-1")
NEW = ("bash=5.2-1", "libc6=2.41-2", "new=7", "openssl=3.5.4-1")


def test_other_versions_come_first_then_what_came_then_what_went() -> None:
    assert package_changes(OLD, NEW) == (
        PackageChange("libc6", "2.41-1", "2.41-2"),
        PackageChange("openssl", "3.5.1-1", "3.5.4-1"),
        PackageChange("new", "", "7"),
        PackageChange("gone", "1", ""),
    )
    assert package_changes(OLD, OLD) == ()


def test_a_sentence_names_three_and_counts_all() -> None:
    assert told(package_changes(OLD, NEW)) == (
        "4 packages differ (libc6 2.41-1 -> 2.41-2, openssl 3.5.1-1 -> 3.5.4-1, + new 7, ...)"
    )
    assert told(package_changes(("a=1",), ())) == "1 package differs (- a)"
    assert told(()) == ""


def test_a_package_in_two_versions_changes_when_one_of_them_does() -> None:
    """dpkg names libc6 of two architectures alike."""
    both = package_changes(("libc6=1", "libc6=2"), ("libc6=1", "libc6=3"))
    assert both == (PackageChange("libc6", "1 2", "1 3"),)


def test_the_digest_is_that_of_the_set_and_empty_where_nobody_knows_the_packages() -> None:
    assert packages_digest(OLD) == packages_digest(OLD[::-1]) != packages_digest(NEW)
    assert packages_digest(()) == ""
