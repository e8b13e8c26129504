"""A whole shim: its engine counts the bytes of the program, says so, and ends with the number of arguments."""

from containerd_shim_wasm import Engine, RuntimeContext, run_shim


class ToyEngine(Engine):
    """Runs nothing, but does it inside a container."""

    name = "toy"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        program = ctx.guest.read()
        print(f"{ctx.entrypoint.name} has {len(program)} bytes", flush=True)
        return len(ctx.args) - 1


if __name__ == "__main__":
    run_shim(ToyEngine)
