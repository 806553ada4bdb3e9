"""Candidates are lossless: the law of the emitted tokens is the target's, by exact enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.verification.candidates import candidate_mask, follow_candidates, row_depths


def make_target(vocab, seed, peak=3.0):
    """A law over the next token given all before it, float32, the same for the same tokens."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(8, vocab))

    def law(prefix):
        state = np.zeros(8)
        for token in prefix:
            state = np.tanh(state @ np.eye(8)[::-1] + np.cos(np.arange(8) * (token + 1)))
        logits = np.float32(peak) * (state @ mixing).astype(np.float32)
        weights = np.exp(logits - logits.max(), dtype=np.float32)
        return weights / weights.sum(dtype=np.float32)

    return law


def row_laws(law, candidates):
    """The law behind each block row: the last token, then every token of every candidate."""
    laws = [law(())]
    for candidate in candidates:
        laws += [law(tuple(candidate[: j + 1])) for j in range(len(candidate))]
    return np.stack(laws)


def emitted_law(law, candidates, lengths):
    """{emitted tokens: probability}: every path of draws, its tokens decided by follow_candidates itself.

    A path is grown draw by draw. The draws of all paths are handed in as a batch, in the place of the target's.
    """
    candidates, lengths = np.asarray(candidates), np.asarray(lengths)
    length = candidates.shape[1]
    laws = row_laws(law, candidates)
    vocab = laws.shape[1]
    found, open_paths = {}, [((), 1.0)]
    while open_paths:
        paths = [(draws + (x,), weight) for draws, weight in open_paths for x in range(vocab)]
        draws = np.zeros((len(paths), length + 1), np.int32)
        for row, (path, _) in zip(draws, paths, strict=True):
            row[: len(path)] = path
        batch = len(paths)
        followed = follow_candidates(
            jnp.broadcast_to(jnp.asarray(candidates, jnp.int32), (batch, *candidates.shape)),
            jnp.broadcast_to(jnp.asarray(lengths, jnp.int32), (batch, len(lengths))),
            jnp.asarray(draws[:, row_depths(*candidates.shape)]),
        )
        count, asked = np.asarray(followed.num_accepted) + 1, np.asarray(followed.rows)
        open_paths = []
        for index, (path, weight) in enumerate(paths):
            depth = len(path) - 1
            weight = weight * float(laws[asked[index, depth], path[-1]])
            if count[index] > len(path):
                open_paths.append((path, weight))
            elif weight:
                emitted = tuple(np.asarray(followed.tokens)[index, : count[index]].tolist())
                assert emitted == path
                found[emitted] = found.get(emitted, 0.0) + weight
    return found


def variation_from_target(law, found):
    """Total variation of the first tokens, completed by the target itself, from the target's own law."""
    errors = [abs(sum(found.values()) - 1)]
    for depth in {len(tokens) for tokens in found}:
        prefixes = {tokens[: depth - 1] for tokens in found if len(tokens) >= depth}
        for prefix in prefixes:
            reached = sum(weight for tokens, weight in found.items() if tokens[: depth - 1] == prefix)
            own = law(prefix)
            behind = np.zeros(len(own))
            for tokens, weight in found.items():
                if tokens[: depth - 1] == prefix and len(tokens) >= depth:
                    behind[tokens[depth - 1]] += weight
            if any(len(tokens) == depth - 1 and tokens == prefix for tokens in found):
                continue  # some rows end here: their next token is drawn in the next step
            errors.append(np.abs(behind / reached - own).sum() / 2 * reached)
    return max(errors)


CASES = {
    "two": ([[1, 2], [1, 3]], [2, 2]),
    "duplicates": ([[1, 2], [1, 2], [4, 0]], [2, 2, 2]),
    "one is the beginning of another": ([[1, 0, 0], [1, 2, 3], [0, 0, 0]], [1, 3, 0]),
    "none at all": ([[1, 2], [1, 3]], [0, 0]),
    "cut short": ([[3, 3], [2, 2], [3, 1]], [1, 2, 0]),
    "nine": ([[i % 5, (2 * i) % 5, (3 * i) % 5] for i in range(9)], [3, 3, 0, 2, 3, 3, 1, 3, 3]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("vocab", [5, 20])
def test_emitted_tokens_have_the_targets_law(name, vocab):
    """Whatever the candidates are, right, wrong, repeated or not there: total variation below 1e-6."""
    law = make_target(vocab, seed=vocab)
    found = emitted_law(law, *CASES[name])
    assert variation_from_target(law, found) < 1e-6
    if name not in ("none at all",):
        assert max(map(len, found)) > 1, "no candidate was ever accepted: the case tests nothing"


@pytest.mark.parametrize("count", [2, 5, 9])
def test_emitted_tokens_have_the_targets_law_over_a_thousand_tokens(count):
    """A vocabulary where most draws agree with no candidate."""
    law = make_target(1000, seed=3)
    likely = np.argsort(-law(()))[:count]
    candidates = [[int(token), int(np.argmax(law((int(token),))))] for token in likely]
    found = emitted_law(law, candidates, [2] * count)
    assert max(map(len, found)) == 3
    assert variation_from_target(law, found) < 1e-6


def test_the_enumeration_can_tell_a_wrong_rule_apart():
    """Accepting by the candidate's own order, which favours what the candidates say, is not lossless."""
    law = make_target(5, seed=5)
    candidates, lengths = CASES["two"]
    found = emitted_law(law, candidates, lengths)
    bent = {tokens: weight * (1.2 if tokens[0] == 1 else 1.0) for tokens, weight in found.items()}
    total = sum(bent.values())
    assert variation_from_target(law, {tokens: weight / total for tokens, weight in bent.items()}) > 1e-3


def test_a_batch_of_random_cases_against_a_plain_walk():
    """Row by row, what a loop over candidates in Python finds."""
    generator = np.random.default_rng(0)
    batch, count, length, vocab = 256, 4, 3, 3
    candidates = generator.integers(0, vocab, (batch, count, length)).astype(np.int32)
    lengths = generator.integers(0, length + 1, (batch, count)).astype(np.int32)
    behind = generator.integers(0, vocab, (batch, 1 + count * length)).astype(np.int32)
    for b in range(batch):  # behind equal tokens the target draws alike
        first = {}
        for row in range(1, behind.shape[1]):
            c, j = divmod(row - 1, length)
            behind[b, row] = first.setdefault(tuple(candidates[b, c, : j + 1]), behind[b, row])
    followed = jax.jit(follow_candidates)(candidates, lengths, behind)
    accepted = set()
    for b in range(batch):
        alive, row, expected = [c for c in range(count) if lengths[b, c]], 0, []
        while True:
            token = behind[b, row]
            expected.append(token)
            depth = len(expected) - 1
            alive = [c for c in alive if lengths[b, c] > depth and candidates[b, c, depth] == token]
            if not alive:
                break
            row = 1 + alive[0] * length + depth
            if depth + 1 == length:
                expected.append(behind[b, row])
                break
        number = int(followed.num_accepted[b])
        assert followed.tokens[b, : number + 1].tolist() == expected
        kept = [0, *(1 + int(followed.chosen[b]) * length + j for j in range(number))]
        tokens = [-1, *expected[:-1]]
        for place, own in zip(followed.rows[b, : number + 1].tolist(), kept, strict=True):
            depth = kept.index(own)
            assert place == 0 or candidates[b].reshape(-1)[place - 1] == tokens[depth]
        accepted.add(number)
    assert accepted == set(range(length + 1))


def test_the_mask_is_group_causal():
    """A candidate that saw another one would be scored in a context that was never said."""
    mask = candidate_mask(3, 2)
    assert mask.shape == (7, 7)
    for row, column in itertools.product(range(7), repeat=2):
        same = row and column and (row - 1) // 2 == (column - 1) // 2 and column <= row
        assert mask[row, column] == bool(column == 0 or same)


def test_shapes_that_do_not_fit_are_refused():
    """A transposed draft must not be read as another one."""
    with pytest.raises(ValueError, match="candidates must be"):
        follow_candidates(jnp.zeros((2, 3, 4), jnp.int32), jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 13), jnp.int32))
    with pytest.raises(ValueError, match=r"and drawn \[B,1\+C\*m\], got"):
        follow_candidates(jnp.zeros((2, 3, 4), jnp.int32), jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 5), jnp.int32))
