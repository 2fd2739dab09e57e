"""Fixtures: tiny models and text as files."""

from pathlib import Path

import pytest
from tiny import prose, save_model


@pytest.fixture(params=["llama-tied", "llama-untied", "qwen3", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(prose(4000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama") / "model", "llama-tied")
