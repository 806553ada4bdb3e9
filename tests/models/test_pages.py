"""Pages of a context: how much attention each gets, which are chosen, and what is copied."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models.attention import Segment, page_mass
from models.attention.xla import attend_segment
from models.cache import ContextCache, with_layers
from models.formats import kv_format
from models.pages import Pages, chosen_shapes, take_pages
from models.sharding import context_spec, make_mesh, rows_axis

PAGE, SLOTS, KV, GROUP, HEAD = 4, 64, 2, 3, 8


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def grouped(q):
    """[B,T,N,H] -> [B,K,G,T,H]."""
    return q.reshape(*q.shape[:2], KV, GROUP, HEAD).transpose(0, 2, 3, 1, 4)


@pytest.mark.parametrize("documents, rows, tokens", [(1, 1, 1), (1, 3, 2), (3, 3, 1)])
def test_the_mass_of_a_page_is_its_share_of_the_softmax(documents, rows, tokens):
    """By the log-sum-exp of attention over the page alone and over everything."""
    q, k = normal(0, rows, tokens, KV * GROUP, HEAD), normal(1, documents, KV, SLOTS, HEAD)
    length = jnp.array([61, 17, 4][:documents], jnp.int32)
    found = np.asarray(page_mass(q, Segment(k, k, length), PAGE))

    def lse(start, size):
        inside = jnp.clip(length - start, 0, size)
        own = slice(start, start + size)
        return np.asarray(attend_segment(grouped(q), k[:, :, own], k[:, :, own], inside, None)[1])

    everything = lse(0, SLOTS)
    for page in range(SLOTS // PAGE):
        share = np.exp(lse(page * PAGE, PAGE) - everything).sum(axis=(2, 3))
        np.testing.assert_allclose(found[:, :, page], share, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=2), GROUP * tokens, rtol=1e-5)


@functools.cache
def context(documents=1, shards=1, lengths=(61, 30), kv=""):
    """Two layers; every shard of a document holds its share of the slots, the first ones in use."""
    layers = [tuple(normal(10 * kind + layer, documents, KV, SLOTS, HEAD) for layer in range(2)) for kind in range(2)]
    filled = jnp.asarray([np.full(shards, length // shards) for length in lengths[:documents]], jnp.int32)
    held = ContextCache(*layers, jnp.sum(filled, axis=1), filled)
    return with_layers(held, [kv_format(kv).quantize_layer(k, v) for k, v in zip(*layers, strict=True)])


def chosen_by_hand(mass, filled, count, *, first):
    """Pages of one row and head: the first, the last, and those with most mass; growing."""
    used = -(-filled // PAGE)
    always = {used - 1} | ({0} if first else set())
    rest = sorted(set(range(used)) - always, key=lambda page: -mass[page])
    return sorted([*always, *rest[: max(count - len(always), 0)]])[:count] if used else []


@pytest.mark.parametrize("documents, rows, kv", [(1, 1, ""), (1, 2, "planes"), (2, 2, "int8")])
def test_pages_with_the_most_mass_are_copied_in_the_order_of_the_text(documents, rows, kv):
    """Each layer, row and head has its own; the last page, which is in use in part, ends what may be seen."""
    held, pages = context(documents, kv=kv), Pages(PAGE, 5)
    mass = tuple(jnp.abs(normal(30 + layer, rows, KV, SLOTS // PAGE)) for layer in range(2))
    taken = take_pages(held, mass, pages)
    for row in range(rows):
        own = min(row, documents - 1)
        length = int(held.length[own])
        assert taken.length[row] == length
        assert taken.filled[row].tolist() == [5 * PAGE - (-length % PAGE)]
        for layer in range(2):
            for head in range(KV):
                wanted = chosen_by_hand(np.asarray(mass[layer])[row, head], length, 5, first=True)
                slots = [page * PAGE + slot for page in wanted for slot in range(PAGE)]
                assert set(taken.held) == set(held.held)
                for kind in held.held:
                    whole, copy = (np.asarray(getattr(x, kind)[layer]) for x in (held, taken))
                    np.testing.assert_array_equal(copy[row, head], whole[own, head][slots])


def test_a_context_of_fewer_pages_is_copied_whole():
    held = context(lengths=(10,))
    taken = take_pages(held, tuple(jnp.ones((1, KV, SLOTS // PAGE)) for _ in range(2)), Pages(PAGE, 5))
    assert taken.filled.tolist() == [[10]]
    np.testing.assert_array_equal(taken.k[1][:, :, :10], held.k[1][:, :, :10])


@pytest.mark.parametrize("kv", ["", "int8", "planes"])
def test_shapes_are_those_of_what_is_taken(kv):
    """A cache that is made before anything is chosen must fit the choice."""
    held, pages = context(kv=kv), Pages(PAGE, 5)
    shapes, mass = chosen_shapes(held, 3, pages)
    taken = take_pages(held, tuple(jnp.zeros(x.shape, x.dtype) for x in mass), pages)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), taken) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)


def test_a_context_without_a_slot_in_use_has_no_mass():
    """Not a number would stay in the sums of all later choices."""
    nothing = Segment(normal(0, 1, KV, SLOTS, HEAD), normal(1, 1, KV, SLOTS, HEAD), jnp.array([0]))
    assert not np.asarray(page_mass(normal(2, 1, 1, KV * GROUP, HEAD), nothing, PAGE)).any()


@pytest.mark.parametrize(
    "shards, slots, tokens, found",
    [(1, 16, 32, (16, 2)), (1, 16, 1, (16, 2)), (4, 16, 1024, (16, 1)), (4, 3, 40, (1, 10)), (16, 16, 8, (4, 1))],
)
def test_pages_fit_the_shards_of_a_context(shards, slots, tokens, found):
    """A page lies on one shard, and no more are taken than there are."""
    assert Pages.of(context(shards=shards), slots, tokens) == Pages(*found)


@pytest.mark.parametrize("shape", [(1, 4, 2), (2, 2, 2)])
@pytest.mark.parametrize("documents", [1, 2])
def test_shards_choose_among_their_own_slots(shape, documents):
    """Nothing but sums of the softmax goes over the wire: neither keys nor values do."""
    mesh, shards, rows = make_mesh(shape), shape[1], 2
    held, pages = context(documents, shards, lengths=(60, 28)), Pages(PAGE, 3)
    spec, axis = context_spec(documents), rows_axis(documents)

    def placed(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    own = dataclasses.replace(
        held,
        k=placed(held.k, spec),
        v=placed(held.v, spec),
        length=placed(held.length, P(axis)),
        filled=placed(held.filled, P(axis, "context")),
    )
    q = normal(50, rows, 1, KV * GROUP, HEAD)

    @jax.jit
    def chosen(own, q):
        mass = tuple(page_mass(q, own.segment(layer), PAGE, mesh) for layer in range(2))
        return mass, take_pages(own, mass, pages, mesh)

    found, taken = chosen(own, placed(q, P("data", None, "model", None)))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (taken, found))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), chosen_shapes(held, rows, pages))
    share = SLOTS // shards
    for row in range(rows):
        document = min(row, documents - 1)
        filled = int(held.filled[document, 0])
        slots = np.concatenate([shard * share + np.arange(filled) for shard in range(shards)])
        alone = Segment(held.k[0][document : document + 1, :, slots], held.v[0][:1], jnp.array([len(slots)]))
        expected = np.asarray(page_mass(q[row : row + 1], alone, 1))[0]
        per_page = np.zeros((KV, SLOTS))
        per_page[:, slots] = expected
        per_page = per_page.reshape(KV, SLOTS // PAGE, PAGE).sum(axis=2)
        np.testing.assert_allclose(np.asarray(found[0])[row], per_page, rtol=1e-4, atol=1e-6)
        for shard in range(shards):
            ours = slice(shard * share // PAGE, (shard + 1) * share // PAGE)
            for head in range(KV):
                wanted = chosen_by_hand(per_page[head, ours], filled, 3, first=shard == 0)
                at = [shard * share + page * PAGE + slot for page in wanted for slot in range(PAGE)]
                copies = np.asarray(taken.k[0])[row, head, shard * 3 * PAGE : (shard * 3 + len(wanted)) * PAGE]
                np.testing.assert_array_equal(copies, np.asarray(held.k[0])[document, head, at])
            assert taken.filled[row, shard] == min(3, -(-filled // PAGE)) * PAGE - (-filled % PAGE)
    assert "all-gather" not in chosen.lower(own, q).compile().as_text()
