"""A script for an environment with GPTQModel: packs layers with its own code, and dequantizes ours with its kernel.

Reads an .npz (per case i: codes_i, row_scales_i, zeros_i, bits_i, group_i, planar_i, and our qweight_i, qzeros_i,
scales_i, g_idx_i) and writes one with what GPTQModel makes of them.
"""

# pyright: reportMissingImports=false, reportCallIssue=false
import sys

import numpy as np
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization import FORMAT


def linear_of(bits, group, shape, planar):
    return TorchLinear(
        bits=bits,
        group_size=group,
        sym=False,
        desc_act=False,
        in_features=shape[1],
        out_features=shape[0],
        bias=False,
        pack_dtype=torch.int32,
        format=FORMAT.GPTQ_P if planar else FORMAT.GPTQ_V2,
        register_buffers=True,
    )


def main():
    given, made = np.load(sys.argv[1]), {}
    for i in range(int(given["num_cases"])):
        codes, scales, zeros = (torch.from_numpy(given[f"{name}_{i}"]) for name in ("codes", "row_scales", "zeros"))
        bits, group, planar = (int(given[f"{name}_{i}"]) for name in ("bits", "group", "planar"))
        width = codes.shape[1] if group == -1 else group
        g_idx = torch.arange(codes.shape[1], dtype=torch.int32) // width
        values = (codes.float() - zeros.float()[:, g_idx.long()]) * scales.float()[:, g_idx.long()]
        dense = torch.nn.Linear(codes.shape[1], codes.shape[0], bias=False)
        dense.weight.data = values
        packed = linear_of(bits, group, codes.shape, planar)
        packed.pack_original(dense, scales.float(), zeros.float(), g_idx)
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            made[f"{name}_{i}"] = getattr(packed, name).numpy()
        ours = linear_of(bits, group, codes.shape, planar)
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            ours.register_buffer(name, torch.from_numpy(given[f"{name}_{i}"]))
        ours.post_init()
        made[f"weight_{i}"] = ours.dequantize_weight().float().numpy()
    np.savez(sys.argv[2], **made)


if __name__ == "__main__":
    main()
