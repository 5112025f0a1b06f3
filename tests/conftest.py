"""One thread, the same examples every time, and nothing slow unless asked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

QUIET = {
    "deadline": None,  # a slow machine is not a failure
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
}
settings.register_profile("default", derandomize=True, max_examples=40, **QUIET)
settings.register_profile("thorough", max_examples=1000, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def _same_torch_seed() -> Iterator[None]:
    """Every test draws the same random numbers, and leaves none of its own behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data and models, named by $SECATEURS_DATA."""
    path = os.environ.get("SECATEURS_DATA")
    if not path:
        pytest.skip("needs real data: set SECATEURS_DATA to its directory")
    return Path(path)


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "my", "card", "top", "up", "failed", "rate")
TEXTS = ("where is my card", "top up failed", "rate is up")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random BERT of two narrow layers, with the tokenizer of 13 words."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    path = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **sizes)
        transformers.BertModel(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tables with texts of three intents."""
    path = tmp_path_factory.mktemp("texts")
    for split, n in (("train", 60), ("validation", 12), ("test", 18)):
        rows = [f"{TEXTS[i % 3]},{i % 3}" for i in range(n)]
        (path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return path
