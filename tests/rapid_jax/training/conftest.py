import pytest

from rapid_jax.training.tokenizer import to_transformers, train_sentencepiece


@pytest.fixture(scope="session")
def pieces():
    return train_sentencepiece(1664)


@pytest.fixture(scope="session")
def rows(pieces):
    from rapid_jax.training.data import RowMaker

    return RowMaker(to_transformers(pieces, 4096))
