from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux import capabilities as caps


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    raise AssertionError(name)


def test_the_last_capability_is_the_kernels() -> None:
    assert caps.last_capability() == int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def test_names_become_bits_in_the_kernels_order() -> None:
    assert caps.capability_mask(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]) == 1 << 0 | 1 << 5 | 1 << 13
    assert caps.capability_mask([]) == 0
    assert [caps.CAPABILITIES[name] for name in ("CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_CHECKPOINT_RESTORE")] == [
        21,
        34,
        40,
    ]


def test_a_name_unknown_to_the_kernel_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "last_capability", lambda: 38)
    assert caps.capability_mask(["CAP_PERFMON", "CAP_BPF", "CAP_NEXT_YEAR"]) == 1 << 38
    assert caps.unknown_capabilities(["CAP_PERFMON", "CAP_BPF", "CAP_NEXT_YEAR"]) == ("CAP_BPF", "CAP_NEXT_YEAR")


def test_a_mask_has_names() -> None:
    names = ("CAP_CHOWN", "CAP_KILL", "CAP_BPF")
    assert caps.capability_names(sum(1 << caps.CAPABILITIES[name] for name in names)) == names
    assert caps.capability_names(1 << 63) == ("capability 63",)


@pytest.mark.root
def test_the_five_sets_become_what_was_asked_for(in_child: Callable[[Callable[[], object]], None]) -> None:
    kept = caps.capability_mask(["CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"])
    few = caps.capability_mask(["CAP_KILL"])

    def work() -> None:
        caps.drop_bounding(kept)
        assert status("CapBnd") == kept & caps.permitted_mask()
        caps.set_keep_caps(True)
        os.setresuid(1000, 1000, 1000)
        caps.set_keep_caps(False)
        caps.set_capabilities(few, kept, few)
        assert caps.permitted_mask() == kept
        caps.set_ambient(few)
        assert [status(f"Cap{name}") for name in ("Eff", "Prm", "Inh", "Amb")] == [few, kept, few, few]
        caps.drop_bounding(kept)  # nothing to drop, so no privilege is needed
        caps.set_ambient(0)
        assert status("CapAmb") == 0

    in_child(work)


@pytest.mark.root
def test_what_this_process_does_not_have_is_named(in_child: Callable[[Callable[[], object]], None]) -> None:
    kill, chown = (caps.capability_mask([name]) for name in ("CAP_KILL", "CAP_CHOWN"))

    def work() -> None:
        caps.set_capabilities(kill, kill, 0)
        with pytest.raises(PermissionError, match="this process does not have CAP_CHOWN, CAP_NET_RAW itself"):
            caps.set_capabilities(0, kill | chown | caps.capability_mask(["CAP_NET_RAW"]), 0)
        with pytest.raises(PermissionError, match=r"prctl\(PR_CAP_AMBIENT_RAISE\).*'CAP_KILL'"):
            caps.set_ambient(kill)
        with pytest.raises(PermissionError, match=r"prctl\(PR_CAPBSET_DROP\).*'CAP_CHOWN'"):
            caps.drop_bounding(0)

    in_child(work)


@pytest.mark.root
def test_without_keep_caps_another_user_has_none(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        caps.set_keep_caps(False)
        os.setresuid(1000, 1000, 1000)
        assert caps.permitted_mask() == 0

    in_child(work)
