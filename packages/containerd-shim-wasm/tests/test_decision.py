from __future__ import annotations

import pytest
from containerd_shim_wasm.binary import FileKind
from containerd_shim_wasm.decision import Candidate, Decision, Refuse, RunNative, RunWasm, decide
from hypothesis import given
from hypothesis import strategies as st


def place(path: str = "/app", kind: FileKind = FileKind.OTHER, **more: object) -> Candidate:
    values: dict[str, object] = {"native": True, "wasm": True, "executable": True} | more
    return Candidate(path, kind=kind, **values)  # type: ignore[arg-type]  # each test gives the right ones


WASM = place("/a.wasm", FileKind.WASM, handled=True, executable=False)
ELF = place("/a", FileKind.ELF)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([WASM], RunWasm("/a.wasm", 0)),
        ([ELF], RunNative("/a")),
        ([WASM, ELF], RunNative("/a")),
        ([place("/s", FileKind.SCRIPT)], RunNative("/s")),
        ([place("/none", problem="no such file or directory"), WASM], RunWasm("/a.wasm", 1)),
        ([place("/t", FileKind.WASM_TEXT, handled=True)], RunWasm("/t", 0)),
    ],
)
def test_a_native_program_comes_first_then_what_the_engine_handles(
    candidates: list[Candidate], expected: Decision
) -> None:
    assert decide(candidates) == expected


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (place("/app/main.py"), r"/app/main.py: not ELF, no #!, not \0asm"),
        (place(problem="no such file or directory"), "/app: no such file or directory"),
        (
            place(kind=FileKind.ELF, executable=False),
            "/app: an ELF program, but not executable (chmod +x it in the image)",
        ),
        (
            place(kind=FileKind.SCRIPT, executable=False),
            "/app: a #! script, but not executable (chmod +x it in the image)",
        ),
        (place(kind=FileKind.ELF, native=False), "/app: an ELF program, which has no exports"),
        (place(kind=FileKind.WASM), "/app: WebAssembly that the engine does not handle"),
    ],
)
def test_a_refusal_says_what_stands_at_each_place(candidate: Candidate, reason: str) -> None:
    assert decide([candidate]) == Refuse((reason,))


def test_code_that_an_image_brings_compiled_is_never_run() -> None:
    decision = decide([place(kind=FileKind.COMPILED, handled=False)])
    assert isinstance(decision, Refuse)
    assert "put the .wasm into the image" in decision.reasons[0]


candidates = st.builds(
    Candidate,
    path=st.sampled_from(["/a", "/b", "/c"]),
    native=st.booleans(),
    wasm=st.booleans(),
    problem=st.sampled_from(["", "a directory"]),
    executable=st.booleans(),
    kind=st.sampled_from(FileKind),
    handled=st.booleans(),
)


@given(st.lists(candidates, max_size=6))
def test_whatever_is_found_there_is_a_decision_that_the_facts_allow(found: list[Candidate]) -> None:
    decision = decide(found)
    if isinstance(decision, RunWasm):
        chosen = found[decision.index]
        assert (chosen.path, chosen.problem, chosen.handled, chosen.wasm) == (decision.path, "", True, True)
    elif isinstance(decision, RunNative):
        assert any(c.path == decision.path and c.executable and not c.problem and c.native for c in found)
    else:
        assert len(decision.reasons) == len(found)
