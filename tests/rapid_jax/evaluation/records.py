"""Hand-made results."""


def make_record(item, method="lc", *, score=1.0, task="fact", seconds=1.0, tokens=(5, 2), steps=2, size=1, **fields):
    """A result as the runner writes it, with round numbers."""
    turn = {
        "text": "x",
        "token_ids": list(tokens),
        "finish_reason": "stop",
        "context": {"target_tokens": 100, "drafter_tokens": 0, "truncated_tokens": 0, "passages": []},
        "seconds": {"retrieval": 0.5, "prefill": 2.0, "decode": seconds, "total": 2.5 + seconds},
        "tokens_per_second": len(tokens) / seconds,
        "acceptance": {"steps": steps, "proposed": 10, "tested": 5, "accepted": 4} | fields.pop("acceptance", {}),
    }
    return {
        "key": f"{method}|{item}|{fields.get('variation', {})}",
        "benchmark": "archive",
        "context_length": 2048,
        "source": "archive-1",
        "item": item,
        "task": task,
        "groups": [],
        "method": method,
        "variation": {},
        "batch": {"first": item, "size": size, "row": 0},
        "scores": {"score": score},
        "turns": [turn],
        **fields,
    }
