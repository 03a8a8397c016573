#!/usr/bin/env python3
"""PyTorch's outputs and gradients of an encoder-decoder Transformer, for crates/unroll/tests/pair_vectors.

    python scripts/pair_vectors.py crates/unroll/tests/pair_vectors

Needs torch and safetensors. torch.nn.Transformer with norm_first=True and GELU, causal mask on the target, padding
masks on both sides; dropout 0, float64. Its inputs have as many features as it has hidden ones: the linear map that
Unroll has before each stack is the identity in the file.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
HIDDEN, HEADS, LAYERS, MLP = 12, 3, 2, 2
BATCH, SOURCE, TARGET = 3, 7, 5
SOURCES, TARGETS = [7, 2, 5], [3, 5, 1]


def main(folder: Path) -> None:
    torch.manual_seed(5)
    model = torch.nn.Transformer(
        d_model=HIDDEN, nhead=HEADS, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS,
        dim_feedforward=MLP * HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases that start at 0 and scales that start at 1 would hide mistakes.
            parameter.add_(0.1 * torch.randn_like(parameter))
    source = torch.randn(BATCH, SOURCE, HIDDEN, requires_grad=True)
    target = torch.randn(BATCH, TARGET, HIDDEN, requires_grad=True)
    steps = lambda length: torch.arange(length)[None, :]
    source_padding = steps(SOURCE) >= torch.tensor(SOURCES)[:, None]
    target_padding = steps(TARGET) >= torch.tensor(TARGETS)[:, None]
    causal = torch.triu(torch.ones(TARGET, TARGET, dtype=torch.bool), diagonal=1)
    output = model(
        source, target, tgt_mask=causal, src_key_padding_mask=source_padding,
        tgt_key_padding_mask=target_padding, memory_key_padding_mask=source_padding,
    )
    # Unroll gives zeros on padding, PyTorch something.
    output = output * ~target_padding[:, :, None]
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    tensors = {
        "source": source.detach(), "target": target.detach(), "output": output.detach(),
        "grad_output": weight, "grad.source": source.grad, "grad.target": target.grad,
        "source_lengths": torch.tensor(SOURCES), "target_lengths": torch.tensor(TARGETS),
    }
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach()
        tensors[f"grad.{name}"] = parameter.grad
    for side in ("encoder", "decoder"):
        tensors[f"{side}.input_proj.weight"] = torch.eye(HIDDEN)
        tensors[f"{side}.input_proj.bias"] = torch.zeros(HIDDEN)
    config = {
        "arch": "encdec_transformer", "input_size": HIDDEN, "hidden_size": HIDDEN, "num_layers": LAYERS,
        "num_heads": HEADS, "mlp_ratio": MLP, "positions": "none",
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, folder / "encdec_transformer.safetensors", metadata={"config": json.dumps(config)})


main(Path(sys.argv[1]))
