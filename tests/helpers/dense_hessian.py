"""The Hessian of a tiny model as a dense matrix in float64."""

import functools

import torch

from helpers.tiny_models import make_model
from scantling.sensitivity.estimators.hessian import SequenceHessian

TOKENS = torch.randint(0, 92, (16,), generator=torch.Generator().manual_seed(3))


def dense_hessian(model, parameters, token_ids):
    """∂²L by differentiating every entry of the gradient."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        logits = model(token_ids[None], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, token_ids[1:])
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        rows = [
            torch.cat([r.flatten() for r in torch.autograd.grad(entry, parameters, retain_graph=True)])
            for entry in flat
        ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return torch.stack(rows)


@functools.cache
def small_problem():
    model = make_model("llama-tied").double()
    attention = model.model.layers[1].self_attn
    parameters = [attention.k_proj.weight, attention.v_proj.weight]
    return SequenceHessian(model, parameters, TOKENS), dense_hessian(model, parameters, TOKENS)


class Dense:
    """The dense matrix as an operator, so that many probes are cheap."""

    def __init__(self, matrix, shapes):
        self.matrix, self.shapes = matrix, shapes

    def __matmul__(self, blocks):
        product = self.matrix @ torch.cat([block.flatten().double() for block in blocks])
        sizes = [shape.numel() for shape in self.shapes]
        return [part.reshape(shape) for part, shape in zip(product.split(sizes), self.shapes, strict=True)]
