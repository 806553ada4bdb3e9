"""Candidates are lossless: the law of the emitted tokens is the target's, by exact enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rapid_jax.verification.candidates import follow_candidates, share_beginnings, tree_layout


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


def paths_of(tree):
    """The tokens that lead to each row of the first tree of a batch, read off its mask; () for the last token's row."""
    tokens, depths, sees = (np.asarray(x)[0] for x in (tree.tokens, tree.depths, tree.sees))
    paths = [()]
    for row, seen in enumerate(sees):
        above = sorted(np.flatnonzero(seen), key=lambda other: depths[other])
        assert [depths[other] for other in above] == list(range(1, depths[row] + 1)), "one row of every depth"
        paths.append(tuple(tokens[above].tolist()))
    return paths


def emitted_law(law, candidates, lengths, rows):
    """{emitted tokens: probability}: every path of draws, its tokens decided by follow_candidates itself.

    A path is grown draw by draw. The draws of all paths are handed in as a batch, in the place of the target's.
    """
    candidates, lengths = np.asarray(candidates, np.int32), np.asarray(lengths, np.int32)
    length = candidates.shape[1]
    tree, lengths = share_beginnings(jnp.asarray(candidates)[None], jnp.asarray(lengths)[None], rows)
    laws = np.stack([law(path) for path in paths_of(tree)])
    depths = np.pad(np.asarray(tree.depths)[0], (1, 0))
    vocab = laws.shape[1]
    found, open_paths = {}, [((), 1.0)]
    while open_paths:
        paths = [(draws + (x,), weight) for draws, weight in open_paths for x in range(vocab)]
        draws = np.zeros((len(paths), length + 1), np.int32)
        for row, (path, _) in zip(draws, paths, strict=True):
            row[: len(path)] = path
        batch = len(paths)
        followed = follow_candidates(
            jnp.broadcast_to(jnp.asarray(candidates), (batch, *candidates.shape)),
            jnp.broadcast_to(lengths, (batch, lengths.shape[1])),
            jnp.broadcast_to(tree.rows, (batch, *candidates.shape)),
            jnp.asarray(draws[:, depths]),
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
@pytest.mark.parametrize("vocab, rows", [(5, 27), (20, 27), (5, 3)])
def test_emitted_tokens_have_the_targets_law(name, vocab, rows):
    """Whatever the candidates are, right, wrong, repeated, cut or not there: total variation below 1e-6."""
    law = make_target(vocab, seed=vocab)
    found = emitted_law(law, *CASES[name], rows)
    assert variation_from_target(law, found) < 1e-6
    if name not in ("none at all",):
        assert max(map(len, found)) > 1, "no candidate was ever accepted: the case tests nothing"


@pytest.mark.parametrize("count", [2, 5, 9])
def test_emitted_tokens_have_the_targets_law_over_a_thousand_tokens(count):
    """A vocabulary where most draws agree with no candidate."""
    law = make_target(1000, seed=3)
    likely = np.argsort(-law(()))[:count]
    candidates = [[int(token), int(np.argmax(law((int(token),))))] for token in likely]
    found = emitted_law(law, candidates, [2] * count, 2 * count)
    assert max(map(len, found)) == 3
    assert variation_from_target(law, found) < 1e-6


def test_the_enumeration_can_tell_a_wrong_rule_apart():
    """Accepting by the candidate's own order, which favours what the candidates say, is not lossless."""
    law = make_target(5, seed=5)
    candidates, lengths = CASES["two"]
    found = emitted_law(law, candidates, lengths, 4)
    bent = {tokens: weight * (1.2 if tokens[0] == 1 else 1.0) for tokens, weight in found.items()}
    total = sum(bent.values())
    assert variation_from_target(law, {tokens: weight / total for tokens, weight in bent.items()}) > 1e-3


def random_cases(batch=256, count=4, length=3, vocab=3):
    generator = np.random.default_rng(0)
    candidates = generator.integers(0, vocab, (batch, count, length)).astype(np.int32)
    return candidates, generator.integers(0, length + 1, (batch, count)).astype(np.int32), generator


def test_a_batch_of_random_cases_against_a_plain_walk():
    """Row by row, what a loop over candidates in Python finds."""
    candidates, lengths, generator = random_cases()
    batch, count, length = candidates.shape
    tree, kept = jax.jit(share_beginnings, static_argnums=2)(candidates, lengths, 12)
    np.testing.assert_array_equal(kept, lengths)
    behind = generator.integers(0, 3, (batch, 13)).astype(np.int32)
    followed = jax.jit(follow_candidates)(candidates, kept, tree.rows, behind)
    accepted = set()
    for b in range(batch):
        alive, row, expected, rows = [c for c in range(count) if lengths[b, c]], 0, [], []
        while True:
            token = behind[b, row]
            expected.append(token)
            rows.append(row)
            depth = len(expected) - 1
            alive = [c for c in alive if lengths[b, c] > depth and candidates[b, c, depth] == token]
            if not alive:
                break
            (row,) = {int(tree.rows[b, c, depth]) for c in alive}  # they share their row
        number = int(followed.num_accepted[b])
        assert followed.tokens[b, : number + 1].tolist() == expected
        assert followed.rows[b, : number + 1].tolist() == rows
        accepted.add(number)
    assert accepted == set(range(length + 1))


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_a_tree_holds_every_beginning_once(rows):
    """As many rows as beginnings differ, in the order of the candidates; the last ones are cut where rows are missing."""
    candidates, lengths, _ = random_cases()
    trees, kept = jax.jit(share_beginnings, static_argnums=2)(candidates, lengths, rows)
    cut = 0
    for b in range(len(candidates)):
        told = [
            tuple(c[:end].tolist()) for c, n in zip(candidates[b], lengths[b], strict=True) for end in range(1, n + 1)
        ]
        beginnings = list(dict.fromkeys(told))[:rows]
        assert paths_of(jax.tree.map(lambda x: x[b : b + 1], trees))[1 : 1 + len(beginnings)] == beginnings  # noqa: B023
        for c, size in enumerate(kept[b].tolist()):
            held = [tuple(candidates[b, c, : j + 1].tolist()) in beginnings for j in range(lengths[b, c])]
            assert held == [True] * size + [False] * (lengths[b, c] - size)
            rows_of = [1 + beginnings.index(tuple(candidates[b, c, : j + 1].tolist())) for j in range(size)]
            assert trees.rows[b, c, :size].tolist() == rows_of and not trees.rows[b, c, lengths[b, c] :].any()
            cut += lengths[b, c] - size
    assert (cut > 0) == (rows < 12)


def test_a_tree_in_a_block():
    """A row that saw another candidate's would be scored in a context that was never said."""
    candidates = jnp.array([[[1, 2], [1, 3], [4, 0]]])
    tree, _ = share_beginnings(candidates, jnp.array([[2, 2, 1]]), 5)
    offsets, mask = tree.laid_into(*tree_layout(5))
    assert tree.tokens[0, :4].tolist() == [1, 2, 3, 4] and offsets[0, :5].tolist() == [0, 1, 2, 2, 1]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]
    assert mask[0, :5, :5].astype(int).tolist() == expected and not mask[0, :5, 5].any()


def test_shapes_that_do_not_fit_are_refused():
    """A transposed draft must not be read as another one."""
    tokens, lengths, drawn = (
        jnp.zeros((2, 3, 4), jnp.int32),
        jnp.zeros((2, 3), jnp.int32),
        jnp.zeros((2, 13), jnp.int32),
    )
    for bad in (
        (tokens, jnp.zeros((2, 4), jnp.int32), tokens, drawn),
        (tokens, lengths, jnp.zeros((2, 4, 3), jnp.int32), drawn),
        (tokens, lengths, tokens, drawn[:1]),
        (tokens[0], lengths, tokens, drawn),
    ):
        with pytest.raises(ValueError, match=r"candidates and rows must be \[B,C,m\]"):
            follow_candidates(*bad)
