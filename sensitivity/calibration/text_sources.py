"""Where documents come from: files, folders, conversations, data sets of the hub, and the model itself.

Knows nothing about how sequences are cut from documents.
"""

import bz2
import json
from importlib import util
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...common.errors import FileFormatError, InputError, MissingDependencyError
from ...models.loading import LoadedModel

PYDOC = "pydoc"
WIKIPEDIA = "wikipedia"
SAMPLED = "sampled"
HUB_PREFIX = "hub:"
PARAGRAPHS = "\n\n"
_TEXT_SUFFIXES = (
    ".txt",
    ".md",
    ".rst",
    ".py",
    ".c",
    ".h",
    ".cpp",
    ".java",
    ".js",
    ".ts",
    ".go",
    ".rs",
    ".tex",
    ".html",
)
_WIKIPEDIA_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_MOST_HUB_ROWS = 20_000
_SAMPLED_DOCUMENTS, _SAMPLED_TOKENS, _SAMPLED_AT_ONCE = 96, 512, 16


def read_utf8(path: Path) -> str:
    """Read a text file; refuse one that is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileFormatError(
            f"there is no text file {path}. Built-in texts are called {PYDOC} and {WIKIPEDIA}; {SAMPLED} is drawn from "
            f"the model, {HUB_PREFIX}NAME comes from the hub."
        ) from error
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, for instance with iconv."
        ) from error
    except OSError as error:
        raise FileFormatError(f"cannot read the text {path}: {error.strerror}. Give one UTF-8 file.") from error


def documents_of_folder(folder: Path) -> list[str]:
    """Read all files of plain text or source code in a folder, in the order of their paths; each is a document."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in _TEXT_SUFFIXES)
    if not files:
        raise FileFormatError(
            f"the folder {folder} has no text files. Files with these suffixes are read: {', '.join(_TEXT_SUFFIXES)}."
        )
    return [read_utf8(path) for path in files]


def conversations(path: Path, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Read conversations and render each with the model's chat template.

    Args:
        path: a JSON Lines file; every line is a list of messages, or an object with such a list as ``messages``. A
            message has ``role`` and ``content``.
        tokenizer: has the template.

    Returns:
        A document for every line.

    Raises:
        InputError: the model has no chat template.
        FileFormatError: a line is not a conversation.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise InputError(
            f"{path} holds conversations, but this model has no chat template to render them with. Give plain text."
        )
    documents = []
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                documents.append(_rendered(row["messages"] if isinstance(row, dict) else row, tokenizer))
            except Exception as error:  # templates are programs, which raise whatever they like
                raise FileFormatError(
                    f"line {number} of {path} is not a conversation ({type(error).__name__}: {error}). A line is "
                    '{"messages": [{"role": "user", "content": "…"}, …]}.'
                ) from error
    return documents


def _rendered(messages: object, tokenizer: PreTrainedTokenizerBase) -> str:
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)  # type: ignore[arg-type]
    assert isinstance(rendered, str)
    return rendered


def documents_of_hub(name: str, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Read the first rows of a data set of the hub, in order.

    Args:
        name: ``NAME``, ``NAME:CONFIGURATION`` or ``NAME:CONFIGURATION:SPLIT``; the split is ``train`` by default.
        tokenizer: has the chat template, for data sets of conversations.

    Returns:
        The column ``text``, or ``messages`` rendered with the chat template.

    Raises:
        MissingDependencyError: the package ``datasets`` is missing.
        FileFormatError: there is no such data set, or it has neither column.
    """
    if util.find_spec("datasets") is None:
        raise MissingDependencyError("data sets of the hub need the package datasets: pip install 'scantling[hub]'")
    from datasets import load_dataset  # noqa: PLC0415  an optional extra

    path, configuration, split = (*name.split(":"), "", "")[:3]
    try:
        rows: Any = load_dataset(path, configuration or None, split=split or "train", streaming=True)
        taken = list(rows.take(_MOST_HUB_ROWS))
    except Exception as error:  # readers of foreign data raise whatever they like
        raise FileFormatError(
            f"cannot read the data set {path!r} of the hub: {' '.join(str(error).split())[:300]}"
        ) from error
    if taken and isinstance(taken[0].get("text"), str):
        return [row["text"] for row in taken]
    if taken and "messages" in taken[0] and tokenizer is not None and tokenizer.chat_template:
        return [_rendered(row["messages"], tokenizer) for row in taken]
    columns = ", ".join(taken[0]) if taken else "no rows"
    raise FileFormatError(f"the data set {path!r} has no column text (it has: {columns}). Write it to a file first.")


def sampled_documents(loaded: LoadedModel | None, opening: list[int]) -> list[str]:
    """Let the model write 96 documents of 512 tokens, sampled at temperature 1 with seed 0.

    Args:
        loaded: the model; refused where it is None.
        opening: the tokens that the tokenizer puts in front of a text; if none, the end-of-text token is used.

    Returns:
        The documents.

    Raises:
        InputError: no model is given.
    """
    if loaded is None:
        raise InputError(
            f"the text {SAMPLED} is drawn from the model, and only for calibration. Name another to measure on."
        )
    first = opening or [int(loaded.tokenizer.eos_token_id or 0)]
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    documents: list[str] = []
    try:
        for _ in range(0, _SAMPLED_DOCUMENTS, _SAMPLED_AT_ONCE):
            start = torch.tensor([first] * _SAMPLED_AT_ONCE)
            generated: Any = loaded.model.generate(  # type: ignore[operator]
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=_SAMPLED_TOKENS,
                max_new_tokens=_SAMPLED_TOKENS,
                pad_token_id=first[0],
            )
            documents += loaded.tokenizer.batch_decode(generated[:, len(first) :], skip_special_tokens=True)
    finally:
        torch.random.set_rng_state(generator_state)
    return documents


def pydoc_documents() -> list[str]:
    """Give the topics of the manual that comes with Python, in the order of their names."""
    return [topics.topics[key] for key in sorted(topics.topics)]


def wikipedia_documents() -> list[str]:
    """Give the articles of the English Wikipedia that come with gensim."""
    found = util.find_spec("gensim")
    if found is None or found.origin is None:
        raise MissingDependencyError(
            "the text wikipedia comes with gensim. Install it with: pip install 'scantling[text]'"
        )
    from gensim.corpora import wikicorpus  # noqa: PLC0415  an optional extra

    with bz2.open(Path(found.origin).parent / _WIKIPEDIA_FILE) as dump:
        pages = [markup for _, markup, _ in wikicorpus.extract_pages(dump)]
    return [wikicorpus.filter_wiki(markup) for markup in pages if not markup.lstrip().upper().startswith("#REDIRECT")]
