"""What autograd through the whole model gives, to hold the walk through its blocks against."""

import torch

from helpers.tiny_models import log_likelihoods


def whole_model_gradients(model, structure, sequence, draws, number):
    """Inputs of all layers and gradients [draws, ...] at their outputs, by backward passes through everything."""
    inputs, outputs = {}, {}

    def hook(name):
        def keep(module, arguments, output):
            inputs[name] = arguments[0].detach()
            if not output.requires_grad:
                output.requires_grad_()
            output.retain_grad()
            outputs[name] = output

        return keep

    names = {layer.name for layer in structure.layers} | {
        layer.tied_name for layer in structure.layers if layer.tied_name
    }
    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    logits = model(sequence.unsqueeze(0), use_cache=False).logits
    for handle in handles:
        handle.remove()
    gradients = {name: [] for name in outputs}
    for likelihood in log_likelihoods(logits, draws, number):
        for output in outputs.values():
            output.grad = None
        likelihood.backward(retain_graph=True)
        for name, output in outputs.items():
            gradients[name].append(output.grad)
    return inputs, {name: torch.stack(drawn) for name, drawn in gradients.items()}
