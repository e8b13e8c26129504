from __future__ import annotations

import pytest
from containerd_shim_wasm import Engine, InvalidArgumentError, RuntimeContext, Settings
from containerd_shim_wasm.main import shim_for
from containerd_shimkit import InstanceConfig


class Moody(Engine):
    """Warms up at its second try only."""

    name = "moody"
    tries = 0

    def run_wasi(self, ctx: RuntimeContext) -> int:
        return 0

    def warm(self) -> None:
        Moody.tries += 1
        if Moody.tries == 1:
            raise OSError("not in the mood")

    def version_details(self) -> str:
        return "  Engine: moody\n"


def test_an_engine_that_failed_to_warm_up_is_given_to_nobody() -> None:
    shim = shim_for(Moody)
    with pytest.raises(OSError, match="mood"):
        shim.warm()
    shim.warm()
    shim.warm()
    assert Moody.tries == 2, "one engine for one kind of settings"
    shim.make_instance("c1", InstanceConfig(bundle="/b", namespace="n", config={"procfs": True}))
    assert Moody.tries == 3


def test_a_shim_says_what_its_engine_is() -> None:
    shim = shim_for(Moody)
    assert (shim.name, shim.details()) == ("moody", "  Engine: moody\n")
    assert shim.version() == "0+unknown", "this test belongs to no distribution"


def test_settings_that_are_wrong_fail_the_task_and_not_the_shim() -> None:
    shim = shim_for(Moody)
    with pytest.raises(InvalidArgumentError, match="the runtime option procfs is 'yes'"):
        shim.make_instance("c1", InstanceConfig(bundle="/b", namespace="n", config={"procfs": "yes"}))
    assert Settings.from_config({}) == Settings()
