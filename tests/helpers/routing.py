"""Which experts the routers of a model choose."""

import torch


def routed(model, tokens):
    """Record the experts that the routers choose: for each block, [tokens of all sequences, k]."""
    chosen = {block: [] for block in range(len(model.model.layers))}
    handles = [
        layer.mlp.gate.register_forward_hook(
            lambda _module, _given, output, block=block: chosen[block].append(output[2])
        )
        for block, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sequence in tokens:
            model(sequence.unsqueeze(0), use_cache=False)
    for handle in handles:
        handle.remove()
    return {block: torch.cat(parts) for block, parts in chosen.items()}
