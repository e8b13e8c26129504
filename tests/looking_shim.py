"""A whole shim whose guest is told what its process has inherited: environment, randomness, as JSON."""

import json
import os
import random

from containerd_shim_wasm import Engine, RuntimeContext, run_shim

WORD = "old"


class LookingEngine(Engine):
    """Prints what an engine's own code sees inside a container."""

    name = "looking"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        seen = {
            "word": WORD,
            "environment": dict(os.environ),
            "random": [os.urandom(8).hex(), random.random()],
        }
        print(json.dumps(seen), flush=True)
        return 0


if __name__ == "__main__":
    run_shim(LookingEngine)
