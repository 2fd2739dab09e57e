"""Fixtures: tiny models and text as files."""

import os
from pathlib import Path

import pytest
import torch

from helpers.tiny_models import prose, save_model

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already fill the cores, and threads that wait for each other crawl


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine-python",
        action="append",
        default=[],
        metavar="ENGINE=PATH",
        help="a Python interpreter that has gptqmodel, auto-gptq or vllm; repeatable",
    )


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
