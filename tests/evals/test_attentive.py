"""The attentive probe against the plain formula."""

import numpy as np
import torch
from oracle_cases import assert_close

from mimlab.evals.attentive import Attentive, evaluate, heads


def plain(probe, tokens):
    """CAE's block token by token: three norms, q, k and v of every token, softmax, projection."""
    value = {name: p.detach().double().numpy() for name, p in probe.named_parameters()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * value[f"{name}.weight"] + value[f"{name}.bias"]

    def project(x, name):
        return x @ value[f"{name}.weight"].T + value.get(f"{name}.bias", 0)

    found = []
    for x in tokens:
        q = project(norm(value["query"], "norm_q"), "q").reshape(probe.heads, -1)
        k = project(norm(x, "norm_k"), "k").reshape(len(x), probe.heads, -1)
        v = project(norm(x, "norm_v"), "v").reshape(len(x), probe.heads, -1)
        read = []
        for head in range(probe.heads):
            logits = k[:, head] @ q[head] / np.sqrt(q.shape[1])
            weights = np.exp(logits - logits.max())
            read.append((weights / weights.sum()) @ v[:, head])
        found.append(project(np.concatenate(read), "proj"))
    return np.stack(found)


def test_the_block_is_caes():
    torch.manual_seed(0)
    probe = Attentive(12, 3, 4).eval()
    for parameter in probe.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(5, 7, 12, dtype=torch.float64)
    stored = torch.nn.functional.layer_norm(tokens, (12,), eps=1e-6)
    assert_close(probe.double().read(stored), plain(probe, tokens.numpy()), 1e-9, 1e-9)


def test_it_starts_at_zero_and_learns_what_one_token_tells(encoder, squares):
    probe = Attentive(12, 3, 4)
    assert not probe.query.any() and not probe.head.bias.any()
    found = evaluate(encoder, squares(160), squares(40, seed=1), epochs=20)
    assert found["top1"] > 60 and found["chance"] == 25 and found["heads"] == 3
    assert found["lr_chosen"] and found["lr"] >= 0.0125


def test_heads_of_an_encoder_without_attention():
    from mimlab import encoders

    assert heads(encoders.create("resnet18", 32, 8)) == 8  # 512 channels
