"""Builds the launcher, the package's one native program, where it belongs into what is built.

- A plain wheel is pure Python, without the program: it installs anywhere.
- With CONTAINERD_SHIMKIT_BUILD_LAUNCHER=x86_64 (or aarch64) in the environment a wheel holds the program for that
  machine, compiled by the ziglang wheel, whatever machine builds it.
- A development install (editable) compiles with the C compiler at hand into the source tree, and does without where
  there is none.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "CONTAINERD_SHIMKIT_BUILD_LAUNCHER"
PACKAGE = "containerd_shimkit/launcher"

# The program is static: it asks nothing of the system's C library, be it glibc of any version, musl, or none. So a
# wheel with it is right on every Linux of its machine. Tags can only say so by naming families: the oldest glibc that
# wheels for both machines are tagged with, and the oldest musl. No Python and no ABI is in it: py3-none.
TAG = "py3-none-manylinux_2_17_{0}.musllinux_1_1_{0}"


class LauncherBuildHook(BuildHookInterface[Any]):
    """For wheels only; the source archive carries the C sources."""

    def dependencies(self) -> list[str]:
        """The compiler, only for who builds a wheel with the program."""
        return [f"ziglang=={load_build(self.root).ZIG_VERSION}"] if os.environ.get(VARIABLE) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile what the kind of build asks for."""
        if version == "editable":
            self._compile_in_place()
        elif machine := os.environ.get(VARIABLE):
            self._compile_for(machine, build_data)

    def _compile_in_place(self) -> None:
        build = load_build(self.root)
        binary = os.path.join(build.DIRECTORY, build.BINARY)
        if build.is_built_from(binary):
            return
        compiler = build.find_compiler()
        if compiler is None:
            self.app.display_info("no C compiler (cc): without the launcher, containers start slower")
            return
        try:
            build.compile_launcher(compiler, binary)
        except (build.CompileError, OSError) as error:
            self.app.display_info(f"without the launcher, containers start slower: {error}")

    def _compile_for(self, machine: str, build_data: dict[str, Any]) -> None:
        build = load_build(self.root)
        compiler = build.zig(machine)
        self._scratch = tempfile.TemporaryDirectory(prefix="launcher-")
        binary = os.path.join(self._scratch.name, build.BINARY)
        build.compile_launcher(compiler, binary)
        build_data["force_include"][binary] = f"{PACKAGE}/{build.BINARY}"
        build_data["pure_python"] = False
        build_data["tag"] = TAG.format(machine)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for the wheel."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()


def load_build(root: str) -> ModuleType:
    """The package's own module that compiles, while the package is not installed yet."""
    path = os.path.join(root, "src", PACKAGE, "build.py")
    spec = importlib.util.spec_from_file_location("launcher_build", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
