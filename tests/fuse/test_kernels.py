"""On which kernels a mount does without OPEN.  The versions are those of the stable trees' announcements."""

from __future__ import annotations

import pytest

from dboxfs.fuse.kernels import why_not_safe

SMP = "#1 SMP PREEMPT_DYNAMIC"


@pytest.mark.parametrize(
    "release",
    [
        "5.4.0", "5.4.302", "5.10.245", "5.10.249", "5.15.195", "5.15.198", "6.1.157", "6.1.160",
        "6.1.161-rt60", "6.6.114", "6.6.120", "6.12.64", "6.12.100+deb13-amd64", "6.18.3", "6.18.44-fc-v595",
        "6.18.33.2-microsoft-standard-WSL2", "6.19.0", "6.19", "7.0.0-14-generic", "7.1.2",
    ],
)  # fmt: skip
def test_kernels_before_the_fault_and_after_its_mend_are_safe(release: str) -> None:
    assert why_not_safe(release, SMP) == ""


@pytest.mark.parametrize(
    ("release", "mended"),
    [
        ("5.15.196", "5.15.198"), ("5.15.197", "5.15.198"), ("6.1.158", "6.1.160"),
        ("6.1.159-182.297.amzn2023.x86_64", "6.1.160"), ("6.6.115", "6.6.120"), ("6.6.119", "6.6.120"),
        ("6.9.1", "6.19"), ("6.10.14", "6.19"), ("6.11.11", "6.19"), ("6.12.0", "6.12.64"),
        ("6.12.63+deb13-amd64", "6.12.64"), ("6.13.12", "6.19"), ("6.17.13", "6.19"), ("6.18.0", "6.18.3"),
        ("6.18.2", "6.18.3"), ("6.18.0-rc3", "6.18.3"),
    ],
)  # fmt: skip
def test_kernels_between_the_fault_and_its_mend_are_not_safe(release: str, mended: str) -> None:
    assert f"mended in {mended})" in why_not_safe(release, SMP)


@pytest.mark.parametrize(
    "release",
    ["5.14.0-503.11.1.el9_5.x86_64", "5.15.0-97-generic", "6.8.0-40-generic", "5.14.21-150500.55-default",
     "6.1.0-43-amd64", "6.2.16", "4.19.325", "3.10.0-1160.el7.x86_64", "6.6.0-1-generic",
     "6.12.0-55.el10.x86_64", "mainline", ""],
)  # fmt: skip
def test_a_kernel_that_can_not_be_placed_is_not_safe(release: str) -> None:
    assert why_not_safe(release, SMP)


@pytest.mark.parametrize(
    ("release", "version", "safe"),
    [
        ("6.1.0-43-amd64", f"{SMP} Debian 6.1.162-1 (2026-02-08)", True),
        ("6.1.0-41-amd64", f"{SMP} Debian 6.1.158-1 (2025-11-09)", False),
        ("6.1.0-18-amd64", f"{SMP} Debian 6.1.76-1 (2024-02-01)", True),
        ("5.10.0-36-amd64", "#1 SMP Debian 5.10.244-1 (2025-09-29)", True),
        ("6.12.63+deb13-amd64", f"{SMP} Debian 6.12.63-1 (2025-12-30)", False),
    ],
)
def test_debian_says_elsewhere_what_its_kernel_was_built_from(release: str, version: str, safe: bool) -> None:
    assert (why_not_safe(release, version) == "") is safe
