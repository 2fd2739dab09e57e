"""Task accuracy of quantized models in memory, and of checkpoints, by lm-eval; offline from local task files.

Knows nothing about plans: a candidate is a set of matrices to install.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ...common.errors import FileFormatError, InputError, MissingDependencyError, ScantlingError
from ...common.progress import Progress
from ...models.install import Candidate, installed
from ...models.loading import LoadedModel
from ..bootstrap import BlockBootstrap, BootstrapSettings
from ..cache import ORIGINAL
from .accuracies import Accuracy

_FALLBACK_LENGTH = 2048


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks are run, and how.

    Attributes:
        tasks: names that lm-eval knows, or task files (YAML).
        limit: questions of each task at most; None for all.
        num_fewshot: examples in front of a question; None for what the task says.
        bootstrap: of the intervals.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)


def lm_eval_version() -> str:
    """Give lm-eval's name and version; raises MissingDependencyError where it is not installed."""
    if util.find_spec("lm_eval") is None:
        raise MissingDependencyError(
            "tasks are run by lm-eval, which is not installed. Run: pip install 'scantling[tasks]'"
        )
    return f"lm-eval {metadata.version('lm-eval')}"


def run_tasks(
    loaded: LoadedModel, candidates: Mapping[str, Candidate], settings: TaskSettings, progress: Progress
) -> dict[str, tuple[Accuracy, ...]]:
    """Run tasks on the original, or a checkpoint, and on candidates.

    Args:
        loaded: the model.
        candidates: matrices to install, by name.
        settings: which tasks, and how.
        progress: shows how far the work is.

    Returns:
        For ``original`` and every candidate, one accuracy per task.
    """
    lm_eval_version()
    folders, names = _named(settings.tasks)
    runs: dict[str, Candidate | None] = {ORIGINAL: None, **candidates}
    found = {}
    for name in progress(list(runs), "running tasks"):
        candidate = runs[name]
        with nullcontext() if candidate is None else installed(loaded.model, candidate):
            found[name] = _evaluate(loaded, folders, names, settings)
    return found


def _named(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give the folders of task files, and the names of all tasks."""
    folders, names = [], []
    for task in tasks:
        path = Path(task)
        if path.suffix not in {".yaml", ".yml"}:
            names.append(task)
            continue
        try:
            stated = re.search(r"^task:\s*[\"']?([\w\-.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"cannot read the task file {task}: {error}.") from error
        if stated is None:
            raise FileFormatError(f"the task file {task} has no line 'task: NAME'. Add one.")
        folders.append(str(path.absolute().parent))
        names.append(stated[1])
    if not names:
        raise InputError("no task was named. Give --task, a name that lm-eval knows or a task file.")
    return list(dict.fromkeys(folders)), names


def _evaluate(
    loaded: LoadedModel, folders: list[str], names: list[str], settings: TaskSettings
) -> tuple[Accuracy, ...]:
    from lm_eval import simple_evaluate  # noqa: PLC0415 - an optional extra
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    only_files = len(folders) > 0 and all(Path(task).suffix in {".yaml", ".yml"} for task in settings.tasks)
    manager = TaskManager(include_path=folders or None, include_defaults=not only_files)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(f"lm-eval knows no task {unknown[0]!r}. Give one of its names, or a task file.")
    longest = getattr(loaded.model.config, "max_position_embeddings", None) or _FALLBACK_LENGTH
    seed = settings.bootstrap.seed
    try:
        with _quiet_away_from_terminals():
            model = HFLM(
                pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, device="cpu", max_length=int(longest)
            )
            results: dict[str, Any] = simple_evaluate(
                model=model, tasks=names, task_manager=manager, num_fewshot=settings.num_fewshot, limit=settings.limit,
                log_samples=True, bootstrap_iters=0, random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed,
                fewshot_random_seed=seed,
            )  # fmt: skip
    except Exception as error:  # anything that lm-eval, datasets or a task's own code may raise
        raise ScantlingError(f"lm-eval could not run {', '.join(names)}: {error}") from error
    return tuple(
        _accuracy(task, samples, results["configs"][task], settings.bootstrap)
        for task, samples in results["samples"].items()
    )


@contextmanager
def _quiet_away_from_terminals() -> Iterator[None]:
    """Silence lm-eval, its bars and its subprocesses on standard error, unless that is a terminal."""
    if sys.stderr.isatty():
        yield
        return
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as sink, redirect_stderr(sink):
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _accuracy(
    task: str, samples: Sequence[Mapping[str, Any]], config: Mapping[str, Any], bootstrap: BootstrapSettings
) -> Accuracy:
    metric = config["metric_list"][0]["metric"]
    values = [sample.get(metric) for sample in samples]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise InputError(
            f"the metric {metric!r} of the task {task} is not a share of right answers. Name another task."
        )
    questions = BlockBootstrap(tuple(sample["doc_id"] for sample in samples), bootstrap)
    questions.require_enough()
    choices = [len(sample["arguments"]) for sample in samples]
    multiple = config.get("output_type") == "multiple_choice" and min(choices) > 1
    return Accuracy(
        task=task,
        metric=metric,
        value=questions.mean_interval([float(value) for value in values if value is not None]),
        chance=sum(1 / number for number in choices) / len(choices) if multiple else None,
        chance_origin="mean of 1 / number of choices" if multiple else "unknown: answers are not chosen from a list",
        num_answers=len(values),
    )
