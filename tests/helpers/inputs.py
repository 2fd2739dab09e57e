"""Correlated inputs of a layer, some of them much larger than others."""

import torch


def correlated_inputs(num_tokens, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + 0.3 * torch.eye(width)
    scales = torch.logspace(-1, 1, width)[torch.randperm(width, generator=generator)]
    return torch.randn(num_tokens, width, generator=generator) @ mixing * scales
